"""Named points in the code where a test may kill, stop or fail the process; free of effect otherwise.

A point stands before every act that leaves the process: a write, a sync, a rename, a commit. The names are stable,
so that a crash test can list them and visit each one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

Hook = Callable[[str], None]


class _Points:
    hook: Hook | None = None


def reached(name: str) -> None:
    """Tell the installed hook, if any, that `name` was reached; the hook may raise or never return."""
    hook = _Points.hook
    if hook is not None:
        hook(name)


@contextmanager
def hooked(hook: Hook) -> Generator[None, None, None]:
    """Install `hook` for the time of the block. One at a time per process."""
    before = _Points.hook
    _Points.hook = hook
    try:
        yield
    finally:
        _Points.hook = before
