"""The package's face: its version, and the exported names, each loaded when it is first asked for."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version

# Exported name -> module that defines it. Loading lazily keeps `import penstock` free of the columnar libraries.
EXPORTS: dict[str, str] = {
    "PenstockError": "penstock.errors",
}


def __getattr__(name: str) -> object:
    """Load the module of an exported name; the version comes from the installed metadata.

    Raises:
        AttributeError: `name` is not exported.
    """
    if name == "__version__":
        return version("penstock")
    module = EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module 'penstock' has no attribute {name!r}; it exports {', '.join(sorted(EXPORTS))}")
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return sorted([*EXPORTS, "__version__"])
