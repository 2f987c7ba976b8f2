"""One file, many tables: within a process one at a time has a DuckDB file open.

DuckDB gives everybody in a process who opens one file the same database, also while it is still being set up or
already being closed by another thread.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from penstock.errors import TransientError

_LOOK_S = 0.05


class Turn:
    """The right to open one file; a thread that has it may take it again.

    `held_by` says, while whoever has the turn waits for another process, for whom: then the others do not wait here,
    where each would keep a thread, but hear it and come again later.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.held_by = ""

    @contextmanager
    def taken(self) -> Generator[None]:
        """Wait for the turn and have it for the block.

        Raises:
            TransientError: another process holds the file.
        """
        while not self._lock.acquire(timeout=_LOOK_S):
            held_by = self.held_by
            if held_by:
                raise TransientError(held_by)
        try:
            yield
        finally:
            self._lock.release()


def turn_at(path: Path) -> Turn:
    """The turn of the file at `path`, the same for every name of it that leads there by links."""
    return _TURNS.setdefault(os.path.realpath(path), Turn())


_TURNS: dict[str, Turn] = {}
os.register_at_fork(after_in_child=_TURNS.clear)  # a turn that another thread has would never be given back there
