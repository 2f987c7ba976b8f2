"""Keeping the log's files in bounds: when the write-ahead log must be emptied, and giving unused pages back.

A checkpoint copies the write-ahead log into the file and needs room there for every new page: on a small disk it comes
earlier. A reader that does not end keeps the write-ahead log from being emptied; then publishing waits for it.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import apsw

from penstock.errors import LogBusy, LogFull
from penstock.log import ballast
from penstock.log.ddl import PAGE_BYTES
from penstock.log.store import Store
from penstock.system.points import reached
from penstock.telemetry import emit

_ROOM_PARTS = 4
_ROOM_PAGES_MIN = 16
SHRINK_PAGES = 16
UNUSED_PARTS = 4
"""Unused pages are given back when they are more than a fourth of the file; fewer are soon used again."""


class Relief:
    """What one log object knows of its disk. Used by whoever holds the writers' lock."""

    def __init__(self, directory: Path, wal_bytes_max: int) -> None:
        self._directory = directory
        self._pages_max = wal_bytes_max // PAGE_BYTES
        self._told = False
        self.full = False
        """The last checkpoint found no room."""
        self.room_pages = 0
        self.look()

    def look(self) -> None:
        """See how much room there is; after how many pages the next checkpoint is due follows from it."""
        self.full = False
        free = ballast.free_bytes(self._directory)
        self.room_pages = max(_ROOM_PAGES_MIN, free // _ROOM_PARTS // PAGE_BYTES)

    def stalls(self, pages: int) -> bool:
        """Whether the write-ahead log has grown so much that nothing more may be written to it."""
        if pages < self._pages_max:
            self._told = False
        return pages >= self._pages_max

    def no_room(self) -> LogFull:
        """What publishers are told while the write-ahead log cannot be emptied for want of room."""
        return LogFull(
            f"{self._directory}: the disk is full: nothing was stored, readers go on; free room, then publish again"
        )

    def stalled(self, pages: int) -> LogBusy:
        """What publishers are told then."""
        if not self._told:
            self._told = True
            emit.log(logging.WARNING, "the write-ahead log cannot be emptied", megabytes=pages * PAGE_BYTES // 10**6)
        emit.count("penstock_log_wal_waits_total")
        return LogBusy(
            f"{self._directory}: the write-ahead log has grown to {pages * PAGE_BYTES / 1e6:.0f} MB, for a reader "
            "keeps it from being emptied: end it (a long query, a backup, a process that stands still). Nothing was "
            "stored, publish again"
        )

    def shrink(self, store: Store) -> None:
        """Give some of the unused pages back, in a transaction of its own; nothing when there is no room for it."""
        try:
            store.write(lambda db: vacuum(db, SHRINK_PAGES // 2))
        except (apsw.FullError, apsw.BusyError):
            return


def unused(db: apsw.Connection) -> tuple[int, int]:
    """Pages of the file that nothing uses, and all of them."""
    (free,), (total,) = _pragma(db, "freelist_count"), _pragma(db, "page_count")
    return free, total


def vacuum(db: apsw.Connection, pages: int) -> int:
    """Give at most so many unused pages back, inside the caller's transaction; how many it were.

    The file becomes smaller with the next checkpoint.
    """
    before, _ = unused(db)
    db.execute(f"PRAGMA incremental_vacuum({pages})").fetchall()
    reached("log.vacuum")
    return before - unused(db)[0]


def _pragma(db: apsw.Connection, name: str) -> Any:
    return db.execute(f"PRAGMA {name}").fetchone()
