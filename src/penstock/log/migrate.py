"""Older formats of the log's file, brought to the newest in the transaction that opens it: the old form or the new.

A row is verified with the checksum it was written with before it gets another. Programs of an older version that have
the log open meanwhile stop with a checksum error; they change nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import apsw

from penstock.log.checks import row_check, verify_row
from penstock.log.ddl import FORMAT_VERSION
from penstock.system.points import reached


def _from_1(db: apsw.Connection) -> None:
    """Progress says which offset below the floor is still referred to: none, for nothing was parked."""
    rows: list[Any] = db.execute(
        "SELECT group_id, pid, epoch, floor, holes, steps, entries, chk FROM progress"
    ).fetchall()
    db.execute("ALTER TABLE progress ADD COLUMN oldest INTEGER")
    for *values, check in rows:
        verify_row(f"progress of group id {values[0]}, partition id {values[1]}", check, *values)
        new = row_check(*values, None)
        db.execute("UPDATE progress SET chk = ? WHERE group_id = ? AND pid = ?", (new, values[0], values[1]))


STEPS: dict[int, Callable[[apsw.Connection], None]] = {1: _from_1}
"""Format version -> what makes it the next one."""


def migrate(db: apsw.Connection, version: int) -> None:
    """Step by step from `version` to the newest, inside the caller's transaction.

    Raises:
        CorruptionError: a row is not what was written.
    """
    while version != FORMAT_VERSION:
        STEPS[version](db)
        version += 1
        reached("log.migrate")
    db.execute("UPDATE meta SET value = ? WHERE key = 'format'", (version,))
