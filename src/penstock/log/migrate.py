"""Older formats of the log's file, brought to the newest in the transaction that opens it: the old form or the new.

A row is verified with the checksum it was written with before it gets another. Programs of an older version that have
the log open meanwhile stop with a checksum error; they change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import apsw

from penstock.log import meta
from penstock.log.checks import row_check, verify_row
from penstock.log.ddl import FORMAT_VERSION, IDS, QUARANTINE, TIP_PID
from penstock.system.points import reached


def _from_1(db: apsw.Connection) -> None:
    """What retention needs: where partitions begin, what progress still refers to, when groups were seen; and ids.

    Nothing was trimmed and nothing was parked yet, when a group was seen is not known, and no ids were remembered.
    """
    _add(db, "progress", ("group_id", "pid", "epoch", "floor", "holes", "steps", "entries"), {
        "oldest": ("INTEGER", None),
        "kept": ("INTEGER NOT NULL DEFAULT 0", 0),
        "seen_us": ("INTEGER NOT NULL DEFAULT 0", 0),
    })  # fmt: skip
    _add(db, "partition", ("pid", "topic_id", "number", "next"), {"begin": ("INTEGER NOT NULL DEFAULT 0", 0)})
    _add(db, "grp", ("id", "name", "spec", "partitions"), {"warned_us": ("INTEGER NOT NULL DEFAULT 0", 0)})
    db.execute(QUARANTINE + IDS)


_KEYS = {"progress": 2, "partition": 1, "grp": 1}
_WORDS = {"progress": "progress of group id {}, partition id {}", "partition": "partition id {}", "grp": "group id {}"}


def _add(db: apsw.Connection, table: str, old: Sequence[str], new: Mapping[str, tuple[str, Any]]) -> None:
    """Add columns with these declarations and values to every row; each is verified with its old checksum first."""
    rows: list[Any] = db.execute(f"SELECT {', '.join(old)}, chk FROM {table}").fetchall()
    for column, (declaration, _) in new.items():
        db.execute(f"ALTER TABLE {table} ADD COLUMN {column} {declaration}")
    names = old[: _KEYS[table]]
    where = " AND ".join(f"{name} = ?" for name in names)
    for *values, check in rows:
        key = values[: len(names)]
        if table == "partition" and key == [TIP_PID]:  # the commit counter; it is as it was
            continue
        verify_row(_WORDS[table].format(*key), check, *values)
        again = row_check(*values, *(value for _, value in new.values()))
        db.execute(f"UPDATE {table} SET chk = ? WHERE {where}", (again, *key))


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
    meta.put(db, {"format": version})
