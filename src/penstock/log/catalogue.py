"""What is declared: topics with their partitions and schemas, and consumer groups."""

from __future__ import annotations

from typing import Any

import apsw

from penstock.errors import ConfigError
from penstock.log.api import GroupRow, TopicRow
from penstock.log.checks import row_check, verify_row
from penstock.log.ddl import PID_MAX


def topics(db: apsw.Connection) -> list[TopicRow]:
    """Every declared topic, by name."""
    pids: dict[int, list[int]] = {}
    for topic_id, pid in db.execute("SELECT topic_id, pid FROM partition WHERE pid > 0 ORDER BY topic_id, number"):
        pids.setdefault(topic_id, []).append(pid)
    out: list[TopicRow] = []
    for identity, name, spec, schema_id, check in db.execute(
        "SELECT id, name, spec, schema_id, chk FROM topic ORDER BY name"
    ):
        verify_row(f"topic {name}", check, identity, name, spec, schema_id)
        out.append(TopicRow(identity, name, spec, schema_id, pids.get(identity, [])))
    return out


def topic(db: apsw.Connection, name: str) -> TopicRow | None:
    """One topic by its exact name."""
    return next((row for row in topics(db) if row.name == name), None)


def folded_twin(db: apsw.Connection, name: str) -> str | None:
    """Another topic whose name differs only in case; such names would be one file on some systems."""
    row = db.execute("SELECT name FROM topic WHERE folded = ? AND name <> ?", (name.casefold(), name)).fetchone()
    return None if row is None else row[0]


def create_topic(db: apsw.Connection, name: str, spec: bytes, *, partitions: int) -> int:
    """Create a topic and its partitions; returns its id. Inside the caller's transaction."""
    db.execute("INSERT INTO topic(name, folded, spec, schema_id, chk) VALUES(?,?,?,0,0)", (name, name.casefold(), spec))
    identity = db.last_insert_rowid()
    _recheck(db, identity, name, spec, 0)
    for number in range(partitions):
        db.execute("INSERT INTO partition(topic_id, number, next, chk) VALUES(?,?,0,0)", (identity, number))
        pid = db.last_insert_rowid()
        if pid > PID_MAX:
            msg = f"topic {name}: {partitions} more partitions pass the log's {PID_MAX}; use fewer, or another log"
            raise ConfigError(msg, path=f"topics.{name}.partitions")
        db.execute("UPDATE partition SET chk = ? WHERE pid = ?", (row_check(pid, identity, number, 0), pid))
    return identity


def _recheck(db: apsw.Connection, identity: int, name: str, spec: bytes, schema_id: int) -> None:
    db.execute(
        "UPDATE topic SET spec = ?, schema_id = ?, chk = ? WHERE id = ?",
        (spec, schema_id, row_check(identity, name, spec, schema_id), identity),
    )


def set_topic(db: apsw.Connection, row: TopicRow, *, spec: bytes, schema_id: int) -> None:
    """Record a changed declaration or a newer schema."""
    _recheck(db, row.id, row.name, spec, schema_id)


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


def groups(db: apsw.Connection) -> list[GroupRow]:
    """Every declared consumer group, by name."""
    out: list[GroupRow] = []
    for identity, name, spec, partitions, check in db.execute(
        "SELECT id, name, spec, partitions, chk FROM grp ORDER BY name"
    ):
        verify_row(f"group {name}", check, identity, name, spec, partitions)
        out.append(GroupRow(identity, name, spec))
    return out


def group_partitions(db: apsw.Connection, identity: int) -> int:
    """On how many partitions the group has begun, as far as was said when it was declared."""
    row: Any = db.execute("SELECT name, spec, partitions, chk FROM grp WHERE id = ?", (identity,)).fetchone()
    if row is None:
        return 0
    name, spec, partitions, check = row
    verify_row(f"group {name}", check, identity, name, spec, partitions)
    return partitions


def declare_group(db: apsw.Connection, name: str, spec: bytes, *, partitions: int = 0) -> GroupRow:
    """Find the group or create it; the caller compares the declaration.

    `partitions` is the number of those on which the caller lets a new group begin at once.
    """
    found = next((row for row in groups(db) if row.name == name), None)
    if found is not None:
        return found
    db.execute("INSERT INTO grp(name, spec, partitions, chk) VALUES(?,?,?,0)", (name, spec, partitions))
    identity = db.last_insert_rowid()
    db.execute("UPDATE grp SET chk = ? WHERE id = ?", (row_check(identity, name, spec, partitions), identity))
    return GroupRow(identity, name, spec)
