"""Quarantined offsets: damaged events that somebody has told the log to pass over. Their bytes stay where they are.

Nothing gets here by itself. Before, whoever reads stops at the damage; after, reading goes on behind it, and what was
passed over is counted.
"""

from __future__ import annotations

from typing import Any

import apsw
import msgspec

from penstock.log.checks import row_check, verify_row


class Quarantined(msgspec.Struct, frozen=True):
    """Offsets from `first` to before `end` of a partition, since when, and what was found there."""

    pid: int
    first: int
    end: int
    at_us: int
    reason: str


def record(db: apsw.Connection, one: Quarantined) -> None:
    """Record it; inside the caller's transaction, who has looked that these offsets are damaged and not here yet."""
    values = (one.pid, one.first, one.end, one.at_us, one.reason)
    db.execute("INSERT INTO quarantine VALUES(?,?,?,?,?,?)", (*values, row_check(*values)))


def of(db: apsw.Connection, pid: int) -> list[Quarantined]:
    """Those of a partition, in order.

    Raises:
        RecordDamaged: one is not what was written.
    """
    rows: list[Any] = db.execute(
        "SELECT pid, first, end, at_us, reason, chk FROM quarantine WHERE pid = ? ORDER BY first", (pid,)
    ).fetchall()
    found: list[Quarantined] = []
    for *values, check in rows:
        verify_row(f"quarantine of partition id {pid}", check, *values)
        found.append(Quarantined(*values))
    return found


def covering(db: apsw.Connection, pid: int, offset: int) -> Quarantined | None:
    """The one that holds this offset, if there is one."""
    return next((one for one in of(db, pid) if one.first <= offset < one.end), None)


def forget(db: apsw.Connection, pid: int, *, begin: int) -> None:
    """Remove those that lie below the partition's first kept offset; inside the caller's transaction."""
    db.execute("DELETE FROM quarantine WHERE pid = ? AND end <= ?", (pid, begin))
