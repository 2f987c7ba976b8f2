"""What a user says about a DuckDB table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from penstock.config import path_text
from penstock.errors import ConfigError
from penstock.sink.api import Roll
from penstock.sink.duckdb.wire import checked_identifier
from penstock.sink.roll import roll_of

if TYPE_CHECKING:
    from penstock.sink.api import Sink

WAIT_S_DEFAULT = 5.0
ROLL_DEFAULT = Roll(events_max=200_000, seconds=1.0)


class DuckDBSink(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One table of one DuckDB file; both are created when missing.

    `key` names the columns that identify a row (the last event of a key wins); empty appends every event.
    `wait_s` bounds how long a commit waits for whoever holds the file. `storage` is the oldest DuckDB version that
    must be able to read a newly created file, such as ``v1.0.0``; empty means the installed one.
    """

    path: str
    table: str
    key: tuple[str, ...] = ()
    roll: Roll = ROLL_DEFAULT
    wait_s: float = WAIT_S_DEFAULT
    storage: str = ""

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns that the events must have: those of the key."""
        return self.key

    def open(self) -> Sink:
        """The sink itself; the caller closes it. Nothing is touched before the first claim."""
        from penstock.sink.duckdb.driver import DuckDBTable  # noqa: PLC0415 - the library loads on first use

        return DuckDBTable(self)


def duckdb_table(  # every option by name, one face for users
    path: str | os.PathLike[str],
    *,
    table: str,
    key: Sequence[str] = (),
    roll: Roll | str | float = ROLL_DEFAULT,
    wait_s: float = WAIT_S_DEFAULT,
    storage: str = "",
) -> DuckDBSink:
    """Results as rows of `table` in the DuckDB file `path`: one row per `key`, or one per event without a key.

    Delivery guarantee: effectively-once; D2 on a local disk; per key the last offset of a partition wins.

    Args:
        path: the file, relative to the program's directory; made when it is missing.
        table: a letter or _, then up to 127 letters, digits or _; made when it is missing.
        key: the columns that identify a row, or one column's name; empty: every event is a row.
        roll: when staged events are committed; a duration alone is enough.
        wait_s: for how many seconds a commit waits for whoever holds the file; then the sink says so and tries again.
        storage: the oldest DuckDB version that must be able to read a newly made file, such as ``v1.0.0``; empty: the
            installed one.

    Raises:
        ConfigError: an empty path, a name that is no plain identifier, a key named twice.
    """
    text = path_text(path, path="duckdb_table.path", example="build/results.duckdb")
    if not text or text.startswith(":memory:"):
        msg = f"{text!r} is no file; expected a path such as 'build/results.duckdb'"
        raise ConfigError(msg, path="duckdb_table.path")
    names = tuple([key] if isinstance(key, str) else key)
    checked_identifier(table, path="duckdb_table.table")
    for name in names:
        checked_identifier(name, path="duckdb_table.key")
    if len({name.lower() for name in names}) < len(names):
        msg = f"{', '.join(names)} names a column twice; DuckDB does not tell upper from lower case"
        raise ConfigError(msg, path="duckdb_table.key")
    if not isinstance(wait_s, int | float) or not wait_s >= 0:  # pyright: ignore[reportUnnecessaryIsInstance]
        msg = f"{wait_s!r} s; expected 0 (never wait) or more"
        raise ConfigError(msg, path="duckdb_table.wait_s")
    return DuckDBSink(text, table, names, roll_of(roll, path="duckdb_table.roll"), wait_s, storage)
