"""What the log says of itself, by name: who it is (`store`), and what clocks said (`ages`, `producers`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import apsw

from penstock.errors import RecordDamaged


def known(db: apsw.Connection) -> dict[str, Any]:
    """Everything. What has a checksum is checked by who wrote it."""
    return {str(key): value for key, value in db.execute("SELECT key, value FROM meta")}


def get(db: apsw.Connection, key: str) -> Any:
    """One value; None when there is none.

    Raises:
        RecordDamaged: its row has no value.
    """
    row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    if row is None:
        return None
    if row[0] is None:
        msg = f"what the log notes of {key} has no value; nothing was used: restore a backup, or run `penstock doctor`"
        raise RecordDamaged(msg)
    return row[0]


def put(db: apsw.Connection, values: Mapping[str, str | int | bytes]) -> None:
    """Note these; inside the caller's transaction."""
    db.executemany("INSERT OR REPLACE INTO meta(key, value) VALUES(?, ?)", list(values.items()))
