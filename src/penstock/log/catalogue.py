"""What is declared: topics with their partitions and schemas, and consumer groups."""

from __future__ import annotations

from collections.abc import Sequence
from json import dumps
from typing import Any

import apsw

from penstock.errors import ConfigError, RecordDamaged
from penstock.log import placed
from penstock.log.api import GroupRow, TopicRow
from penstock.log.checks import row_check, verify_row
from penstock.log.ddl import PID_MAX


def topics(db: apsw.Connection) -> list[TopicRow]:
    """Every declared topic, by name.

    Raises:
        RecordDamaged: a topic or one of its partitions is not what was written, or is missing.
    """
    pids: dict[Any, list[tuple[Any, Any]]] = {}
    for topic_id, number, pid in db.execute("SELECT topic_id, number, pid FROM partition WHERE pid > 0"):
        pids.setdefault(topic_id, []).append((number, pid))
    out: list[TopicRow] = []
    for identity, name, spec, schema_id, partitions, check in db.execute(
        "SELECT id, name, spec, schema_id, partitions, chk FROM topic ORDER BY name"
    ):
        verify_row(f"topic {name}", check, identity, name, spec, schema_id, partitions)
        numbered = dict(pids.get(identity, []))
        if len(numbered) != partitions or any(number not in numbered for number in range(partitions)):
            msg = f"topic {name}: {partitions} partitions were declared, found {sorted(numbered, key=str)}; {_WAY_OUT}"
            raise RecordDamaged(msg)
        out.append(TopicRow(identity, name, spec, schema_id, [numbered[number] for number in range(partitions)]))
    return out


_WAY_OUT = "nothing was used or changed: restore a backup, or run `penstock doctor`"


def topic(db: apsw.Connection, name: str) -> TopicRow | None:
    """One topic by its exact name."""
    return next((row for row in topics(db) if row.name == name), None)


def create_topic(db: apsw.Connection, name: str, spec: bytes, *, partitions: int) -> int:
    """Create a topic and its partitions; returns its id. Inside the caller's transaction."""
    db.execute(
        "INSERT INTO topic(name, folded, spec, schema_id, partitions, chk) VALUES(?,?,?,0,?,0)",
        (name, name.casefold(), spec, partitions),
    )
    row = TopicRow(db.last_insert_rowid(), name, spec, 0, range(partitions))
    set_topic(db, row, spec=spec, schema_id=0)
    for number in range(partitions):
        if placed.create(db, row.id, number) > PID_MAX:
            msg = f"topic {name}: {partitions} more partitions pass the log's {PID_MAX}; use fewer, or another log"
            raise ConfigError(msg, path=f"topics.{name}.partitions")
    return row.id


def set_topic(db: apsw.Connection, row: TopicRow, *, spec: bytes, schema_id: int) -> None:
    """Record a changed declaration or a newer schema."""
    db.execute(
        "UPDATE topic SET spec = ?, schema_id = ?, chk = ? WHERE id = ?",
        (spec, schema_id, row_check(row.id, row.name, spec, schema_id, len(row.pids)), row.id),
    )


def add_schema(db: apsw.Connection, topic_id: int, description: bytes, arrow: bytes | None) -> int:
    """Record a schema of the topic, or find the one with this description; returns its id."""
    row = db.execute(
        "SELECT id FROM schema WHERE topic_id = ? AND description = ? AND arrow IS ?", (topic_id, description, arrow)
    ).fetchone()
    if row is not None:
        return row[0]
    db.execute("INSERT INTO schema(topic_id, description, arrow, chk) VALUES(?,?,?,0)", (topic_id, description, arrow))
    identity = db.last_insert_rowid()
    check = row_check(identity, topic_id, description, arrow)
    db.execute("UPDATE schema SET chk = ? WHERE id = ?", (check, identity))
    return identity


def schema(db: apsw.Connection, identity: int) -> tuple[bytes, bytes | None] | None:
    """Description (JSON) and serialised Arrow schema of a schema id; None when there is no such id."""
    row = db.execute("SELECT topic_id, description, arrow, chk FROM schema WHERE id = ?", (identity,)).fetchone()
    if row is None:
        return None
    topic_id, description, arrow, check = row
    verify_row(f"schema id {identity}", check, identity, topic_id, description, arrow)
    return description, arrow


def descriptions(db: apsw.Connection, topic_id: int) -> list[bytes]:
    """The description (JSON) of every schema that was ever recorded for the topic, oldest first."""
    out: list[bytes] = []
    for identity, description, arrow, check in db.execute(
        "SELECT id, description, arrow, chk FROM schema WHERE topic_id = ? ORDER BY id", (topic_id,)
    ):
        verify_row(f"schema id {identity}", check, identity, topic_id, description, arrow)
        out.append(description)
    return out


def groups(db: apsw.Connection, *, ids: Sequence[int] | None = None) -> list[GroupRow]:
    """Every declared consumer group, or those of these ids, by name."""
    out: list[GroupRow] = []
    for identity, name, spec, partitions, warned_us, check in db.execute(
        "SELECT id, name, spec, partitions, warned_us, chk FROM grp "
        "WHERE ?1 IS NULL OR id IN (SELECT value FROM json_each(?1)) ORDER BY name",
        (None if ids is None else dumps(list(ids)),),
    ):
        verify_row(f"group {name}", check, identity, name, spec, partitions, warned_us)
        out.append(GroupRow(identity, name, spec, warned_us))
    return out


def group_partitions(db: apsw.Connection, identity: int) -> int:
    """On how many partitions the group has begun, as far as was said when it was declared."""
    row = _group(db, identity)
    return 0 if row is None else row[2]


def _group(db: apsw.Connection, identity: int) -> tuple[str, bytes, int] | None:
    row: Any = db.execute("SELECT name, spec, partitions, warned_us, chk FROM grp WHERE id = ?", (identity,)).fetchone()
    if row is None:
        return None
    name, spec, partitions, warned_us, check = row
    verify_row(f"group {name}", check, identity, name, spec, partitions, warned_us)
    return name, spec, partitions


def set_warned(db: apsw.Connection, identity: int, warned_us: int) -> None:
    """Record when it was said that the group will hold nothing any more; inside the caller's transaction."""
    row = _group(db, identity)
    if row is not None:
        check = row_check(identity, *row, warned_us)
        db.execute("UPDATE grp SET warned_us = ?, chk = ? WHERE id = ?", (warned_us, check, identity))


def declare_group(db: apsw.Connection, name: str, spec: bytes, *, partitions: int = 0) -> GroupRow:
    """Find the group or create it; the caller compares the declaration.

    `partitions` is the number of those on which the caller lets a new group begin at once.
    """
    found = next((row for row in groups(db) if row.name == name), None)
    if found is not None:
        return found
    db.execute("INSERT INTO grp(name, spec, partitions, chk) VALUES(?,?,?,0)", (name, spec, partitions))
    identity = db.last_insert_rowid()
    db.execute("UPDATE grp SET chk = ? WHERE id = ?", (row_check(identity, name, spec, partitions, 0), identity))
    return GroupRow(identity, name, spec)
