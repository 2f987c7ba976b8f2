"""SQL text for a DuckDB target: identifiers from an allow-list and quoted, values only as parameters."""

from __future__ import annotations

import re
from collections.abc import Sequence

from penstock.errors import ConfigError

PROGRESS = "penstock_progress"
STAGED = "penstock_staged"
ROW = "penstock_row"

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")

CREATE_PROGRESS = f"""
CREATE TABLE IF NOT EXISTS {PROGRESS} (
  pipeline VARCHAR, target VARCHAR, topic VARCHAR, "partition" BIGINT,
  log VARCHAR NOT NULL, incarnation BIGINT NOT NULL, epoch BIGINT NOT NULL, "offset" BIGINT NOT NULL,
  PRIMARY KEY (pipeline, target, topic, "partition"))
"""
_WHERE = 'pipeline = ? AND target = ? AND topic = ? AND "partition" = ?'
READ_PROGRESS = f'SELECT log, incarnation, epoch, "offset" FROM {PROGRESS} WHERE {_WHERE}'
READ_TOPICS = f"SELECT topic FROM {PROGRESS} WHERE pipeline = ? AND target = ? AND topic <> ? LIMIT 1"
INSERT_PROGRESS = f"INSERT INTO {PROGRESS} VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
RAISE_EPOCH = f"UPDATE {PROGRESS} SET epoch = ? WHERE {_WHERE} AND epoch <= ?"
BEGIN_AGAIN = f'UPDATE {PROGRESS} SET "offset" = ? WHERE {_WHERE}'
OTHERS_BEGIN_AGAIN = (  # under another epoch: one that lives is fenced, and claims its partition again
    f'UPDATE {PROGRESS} SET "offset" = 0, epoch = epoch + 1 WHERE lower(target) = lower(?) AND NOT ({_WHERE})'
)
ADVANCE = (
    f'UPDATE {PROGRESS} SET "offset" = ?, epoch = ? WHERE {_WHERE}'
    ' AND log = ? AND incarnation = ? AND epoch <= ? AND "offset" = ?'
)
"""The fence: changes one row when the writer still owns the partition and nothing has moved, otherwise none."""

TABLE_COLUMNS = (
    "SELECT column_name, data_type FROM information_schema.columns"
    " WHERE table_schema = 'main' AND lower(table_name) = lower(?) ORDER BY ordinal_position"
)
RARELY_CHECKPOINTED = "PRAGMA disable_checkpoint_on_shutdown; SET checkpoint_threshold = '256KB'"
"""A checkpoint rewrites blocks that are in use, and a process that is killed in it leaves a file that cannot be opened.

DuckDB makes one whenever a file is closed, so with every commit; with this, when its write-ahead log is so long."""
STAGED_COLUMNS = f"DESCRIBE SELECT * FROM {STAGED}"


def checked_identifier(name: str, *, path: str) -> str:
    """`name` when it may stand in SQL.

    Raises:
        ConfigError: not a letter or underscore followed by at most 127 letters, digits, underscores; or reserved.
    """
    if _IDENTIFIER.fullmatch(name) is None or name.lower().startswith("penstock_"):
        expected = "a letter or _, then up to 127 letters, digits or _, and not penstock_ at the beginning"
        msg = f"{name!r} is no name for a table or column here; expected {expected}"
        raise ConfigError(msg, path=path)
    return name


def quoted(name: str) -> str:
    """The identifier in double quotes."""
    return f'"{checked_identifier(name, path="sink.column")}"'


def create_table(table: str) -> str:
    """A table with the staged columns and no rows."""
    return f"CREATE TABLE {quoted(table)} AS SELECT * FROM {STAGED} LIMIT 0"


def append(table: str, columns: Sequence[str]) -> str:
    """Every staged row into the table."""
    names = ", ".join(map(quoted, columns))
    return f"INSERT INTO {quoted(table)} ({names}) SELECT {names} FROM {STAGED}"


def upsert(table: str, columns: Sequence[str], key: Sequence[str]) -> str:
    """Per key the staged row with the highest `ROW`, over the table's row of that key. NULL is a key like others."""
    names, keys = ", ".join(map(quoted, columns)), ", ".join(map(quoted, key))
    last = f"SELECT DISTINCT ON ({keys}) {names} FROM {STAGED} ORDER BY {ROW} DESC"
    same = " AND ".join(f"t.{quoted(name)} IS NOT DISTINCT FROM s.{quoted(name)}" for name in key)
    changes = ", ".join(f"{quoted(name)} = s.{quoted(name)}" for name in columns if name not in key)
    matched = f"UPDATE SET {changes}" if changes else "DO NOTHING"
    values = ", ".join(f"s.{quoted(name)}" for name in columns)
    return (
        f"MERGE INTO {quoted(table)} AS t USING ({last}) AS s ON ({same})"
        f" WHEN MATCHED THEN {matched} WHEN NOT MATCHED THEN INSERT ({names}) VALUES ({values})"
    )
