"""Which log a command is about: the one that is named, or the one of the project around the working directory."""

from __future__ import annotations

from pathlib import Path

from penstock.errors import ConfigError

HOME = ".penstock"
_MARKS = ("log.db", "witness")
_ROOTS = ("pyproject.toml", ".git", "setup.py")


def is_log(directory: Path) -> bool:
    """Whether `directory` holds a log, whole or not."""
    return any((directory / mark).exists() for mark in _MARKS)


def logs_in(project: Path) -> list[Path]:
    """The logs below `project`'s .penstock directory, by name."""
    home = project / HOME
    return sorted(path for path in home.iterdir() if is_log(path)) if home.is_dir() else []


def find_log(given: str | None, start: Path) -> Path:
    """The directory of the log that is meant.

    Args:
        given: a log's directory, a directory whose .penstock holds one log, or a log's name in this project; None
            looks for the only log of this project.
        start: where to look from; the nearest directory upwards that has logs, up to the project's root, counts.

    Raises:
        ConfigError: there is none, or more than one is meant; those there are are listed.
    """
    if given is None:
        return _only(_around(start), f"{start} and its project", "name one: --log NAME")
    named = start / given
    if is_log(named):
        return named
    if found := logs_in(named):
        return _only(found, str(named / HOME), f"name one: --log {given}/{HOME}/NAME")
    if by_name := [log for log in _around(start) if log.name == given]:
        return by_name[0]
    known = ", ".join(log.name for log in _around(start)) or "none"
    msg = f"{given!r} holds no log, and no log of this project has that name (found: {known}); run the program first"
    raise ConfigError(msg, path="--log")


def _around(start: Path) -> list[Path]:
    for directory in (start, *start.parents):
        if found := logs_in(directory):
            return found
        if any((directory / mark).exists() for mark in _ROOTS):
            break
    return []


def _only(found: list[Path], where: str, way_out: str) -> Path:
    if len(found) == 1:
        return found[0]
    if not found:
        msg = f"no log in {where}; run a program first (penstock run FILE.py), or name a log's directory: --log DIR"
        raise ConfigError(msg, path="--log")
    msg = f"{len(found)} logs in {where}: {', '.join(log.name for log in found)}; {way_out}"
    raise ConfigError(msg, path="--log")
