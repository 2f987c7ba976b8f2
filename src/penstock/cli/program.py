"""A user's program: loaded from its file, its apps found, its mistakes shown where they are."""

from __future__ import annotations

import importlib.util
import linecache
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from penstock.errors import ConfigError, PenstockError

if TYPE_CHECKING:
    from penstock.app.app import App

_SPARE_NAME = "__penstock_program__"


class ProgramError(PenstockError):
    """A program's file could not be loaded; the message names its line."""


def load_app(path: Path, name: str | None = None) -> App:
    """The app that a program declares.

    Args:
        path: the program's file; what it imports from beside it is found.
        name: which app, when there are several.

    Raises:
        ProgramError: the file raised while it was loaded; its line is named.
        ConfigError: it declares no app, or which one is meant is not clear.
    """
    apps = load_apps(path)
    if name is not None:
        apps = [app for app in apps if app.name == name] or apps
    if len(apps) == 1 and name in (None, apps[0].name):
        return apps[0]
    listed = ", ".join(app.name for app in apps)
    if not apps:
        msg = f"{path} declares no app; expected one at its top level, such as app = App({path.stem!r})"
    elif name is not None:
        msg = f"{path} declares no app {name!r}; it has {listed}"
    else:
        msg = f"{path} declares {len(apps)} apps ({listed}); choose one with --app NAME"
    raise ConfigError(msg, path="--app" if apps else "")


def load_apps(path: Path) -> list[App]:
    """Every app that a program has in a variable at its top level, in the order of their names there.

    Raises:
        ProgramError: see `load_app`.
    """
    from penstock.app.app import App  # noqa: PLC0415 - the face loads with the program

    module = _load(path)
    found = [value for value in vars(module).values() if isinstance(value, App)]
    return list({id(app): app for app in found}.values())


def _load(path: Path) -> ModuleType:
    file = path.resolve()
    name, folder = _name_of(file)
    if name in sys.modules or not file.stem.isidentifier():
        name = _SPARE_NAME
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        msg = f"{path} is no Python file; expected a name that ends in .py"
        raise ConfigError(msg)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path[:0] = dict.fromkeys((str(file.parent), str(folder)))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as exc:
        raise ProgramError(_told(exc, file, path)) from exc
    return module


def _name_of(file: Path) -> tuple[str, Path]:
    """What the program is called when it is imported, and from where: in a package, its relative imports need both."""
    parts, folder = [file.stem], file.parent
    while folder.name.isidentifier() and (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    return ".".join(parts), folder


def _told(exc: Exception | SystemExit, file: Path, shown: Path) -> str:
    """The mistake, and the line of the program where it happened or from where it was called."""
    what = str(exc) if isinstance(exc, PenstockError) else f"{type(exc).__name__}: {exc}"
    if isinstance(exc, SyntaxError) and exc.filename is not None:
        text = (exc.text or "").strip()
        return f"{exc.filename}:{exc.lineno}: SyntaxError: {exc.msg}" + (f"\n  {text}" if text else "")
    frames = traceback.extract_tb(exc.__traceback__)
    own = [frame for frame in frames if Path(frame.filename) == file]
    if not own:
        return f"{shown}: {what}"
    lines = [f"{shown}:{own[-1].lineno}: {what}", f"  {linecache.getline(str(file), own[-1].lineno or 0).strip()}"]
    last = frames[-1]
    if last is not own[-1] and not isinstance(exc, PenstockError):
        lines.append(f"  raised in {last.filename}:{last.lineno}")
    return "\n".join(lines)
