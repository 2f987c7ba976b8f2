"""Finding a scenario by name: one that is shipped, or one in a file or module of the user's."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import cast

from penstock.errors import ConfigError
from penstock.testing.simulation.backends import BACKENDS
from penstock.testing.simulation.scenario import Scenario


def load(name: str) -> Scenario:
    """The scenario ``module:NAME`` or ``path/to/file.py:NAME``; NAME is a `Scenario` or makes one without arguments.

    ``@memory`` or ``@embedded`` behind it says on which backend, when not on the scenario's own.

    Raises:
        ConfigError: no such file, module, name or backend, or it is not a scenario.
    """
    where, _, what = name.partition(":")
    what, at, backend = what.partition("@")
    if not what:
        msg = f"{name!r}; expected MODULE:NAME or FILE.py:NAME"
        raise ConfigError(msg, path="scenario")
    found = getattr(_module(where), what, None)
    if callable(found) and not isinstance(found, type):
        found = cast("Callable[[], object]", found)()
    if not isinstance(found, Scenario):
        msg = f"{what} in {where} is {type(found).__name__}; expected a Scenario or a function that returns one"
        raise ConfigError(msg, path="scenario")
    if at and backend not in BACKENDS:
        raise ConfigError(f"{backend!r}; expected one of {', '.join(BACKENDS)}", path="scenario")
    return replace(found, backend=backend) if at else found


def _module(where: str) -> ModuleType:
    if not where.endswith(".py"):
        try:
            return importlib.import_module(where)
        except ModuleNotFoundError as exc:
            raise ConfigError(f"no module {where!r}; expected MODULE:NAME or FILE.py:NAME", path="scenario") from exc
    path = Path(where)
    if not path.is_file():
        raise ConfigError(f"{where} is no file; expected the Python file with the scenario", path="scenario")
    name = f"penstock_scenario_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
