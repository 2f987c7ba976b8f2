"""Where a program's log lies: found from the program or its project, never from the current directory alone."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import FrameType

FOLDER = ".penstock"
_PROJECT_MARKS = ("pyproject.toml", "setup.cfg", ".git")


def program_base(frame: FrameType | None = None) -> Path:
    """The folder that relative paths of a program belong to.

    Args:
        frame: where the program calls from; its file's folder is the answer. Without a file (a notebook, a prompt):
            the nearest folder upwards from the current one that is a project's, else the current one.
    """
    file = None if frame is None else frame.f_globals.get("__file__")
    if file:
        return Path(file).resolve().parent
    here = Path.cwd()
    return next((d for d in (here, *here.parents) if any((d / mark).exists() for mark in _PROJECT_MARKS)), here)


def caller(depth: int) -> FrameType:
    """The frame `depth` calls above the caller's."""
    frame = inspect.currentframe()
    for _ in range(depth + 1):
        assert frame is not None
        frame = frame.f_back
    assert frame is not None, f"no caller {depth} calls above"
    return frame
