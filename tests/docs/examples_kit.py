"""What the tests of the examples share: an example in a directory of its own, so that its log lies there."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@contextmanager
def loaded(name: str, directory: Path) -> Generator[ModuleType]:
    """The example as a module whose file lies in `directory`."""
    file = Path(shutil.copy(EXAMPLES / f"{name}.py", directory / f"{name}.py"))
    spec = importlib.util.spec_from_file_location(f"example_{name}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[spec.name]
