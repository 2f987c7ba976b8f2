"""The package's face: its version, and the exported names, each loaded when it is first asked for."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version

# Exported name -> module that defines it. Loading lazily keeps `import penstock` free of the columnar libraries.
EXPORTS: dict[str, str] = {
    "Acked": "penstock.app.outcome",
    "App": "penstock.app.app",
    "AsyncClient": "penstock.app.aclient",
    "Client": "penstock.app.client",
    "Context": "penstock.engine.context",
    "Csv": "penstock.source.files",
    "NewEvent": "penstock.event.envelope",
    "PenstockError": "penstock.errors",
    "RecordedEvent": "penstock.event.envelope",
    "Reject": "penstock.errors",
    "Rejected": "penstock.app.outcome",
    "Retry": "penstock.delivery.retry",
    "Roll": "penstock.sink.api",
    "Unknown": "penstock.app.outcome",
    "count": "penstock.flow.aggregates",
    "duckdb_table": "penstock.sink.duckdb",
    "files": "penstock.source.files",
    "max_": "penstock.flow.aggregates",
    "mean": "penstock.flow.aggregates",
    "min_": "penstock.flow.aggregates",
    "parquet": "penstock.sink.parquet",
    "sum_": "penstock.flow.aggregates",
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
