"""Results as rows of a DuckDB table; the position changes in the same transaction.

The file is opened, changed and closed for every claim and commit: while it is open for writing no other process can
even read it. Within a program the tables of one file take turns. What was committed lies in DuckDB's write-ahead log
until that is long enough to be folded into the file, or the sink is closed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb
import pyarrow as pa

from penstock.channel.api import Owned
from penstock.errors import ConfigError, Fenced, IOFailed, LogRegressed, RefusedByTarget, TransientError
from penstock.sink.api import Claim, Staged
from penstock.sink.duckdb import wire
from penstock.sink.duckdb.config import DuckDBSink
from penstock.sink.duckdb.errors import WAY_OUT, holder_of, translated
from penstock.sink.duckdb.turns import turn_at
from penstock.sink.room import no_room
from penstock.system.files import link_once, locked_directory, sync_directory, sync_file
from penstock.system.points import reached

_PAUSE_FIRST_S = 0.01
_PAUSE_MAX_S = 0.25

Position = tuple[str, int, int, int]
"""log, incarnation, epoch, offset."""


class DuckDBTable:
    """A `Sink`. Delivery guarantee: effectively-once; D2 on a local disk; per key a partition's last offset wins.

    Staged batches are held in memory, bounded by the roll. A row that the target refuses at the commit (a constraint
    that the user added) refuses the whole commit; what is staged is kept until the next claim or `close`.
    """

    def __init__(self, config: DuckDBSink, *, pause: Callable[[float], None] = time.sleep) -> None:
        self.name = f"duckdb:{config.path}:{config.table}"
        self.roll = config.roll
        self.together = True
        self._config = config
        self._path = Path(os.path.realpath(config.path))  # DuckDB's log lies beside the file, not beside a link to it
        self._wal = Path(f"{self._path}.wal")
        self._pause = pause
        self._held: dict[tuple[str, int], _Held] = {}

    def claim(self, claim: Claim) -> int:
        """See `Sink`."""
        with turn_at(self._path).taken():
            return self._claim(claim)

    def _claim(self, claim: Claim) -> int:
        key = (claim.owned.topic, claim.owned.partition)
        self._held.pop(key, None)
        self._settle_directory()
        held = _Held(claim, self._config.table)
        try:
            with self._opened() as connection, _transaction(connection, "claim"):
                connection.execute(wire.CREATE_PROGRESS)
                held.target = self._table_columns(connection)
                held.position = held.end = _claim_row(connection, held, self.name)
        except _ReplyLost as lost:
            raise translated(lost.error, f"{self.name}: the claim may be there or not, claim again") from lost.error
        self._settle_directory()
        self._held[key] = held
        return held.position

    def write(self, staged: Staged) -> None:
        """See `Sink`."""
        held = self._held_of(staged.owned)
        if staged.first != held.end or staged.end < staged.first:
            msg = f"offsets [{staged.first}, {staged.end}) do not follow {held.end}"
            raise ValueError(msg)
        batch = _decoded(staged.table)
        if not batch.schema.equals(held.schema):
            batch = self._aligned(batch, held)
        held.batches.append(batch)
        held.end = staged.end

    def commit(self, owned: Owned) -> int:
        """See `Sink`. May be called again after any exception but `Fenced`."""
        held = self._held_of(owned)
        if held.end == held.position:
            return held.position
        with turn_at(self._path).taken():
            self._commit(held, owned)
        held.position = held.end
        held.batches.clear()
        return held.position

    def _commit(self, held: _Held, owned: Owned) -> None:
        try:
            if not self._path.exists():  # to open it would make it, in its place
                raise self._removed("file")
            with self._opened() as connection:
                if _row_of(connection, held) is None and not self._table_columns(connection):  # it is a new one
                    raise self._removed("file")
                self._apply(connection, held)
        except _ReplyLost as lost:
            with self._opened() as connection:
                if not self._decided(connection, held):
                    raise translated(lost.error, f"{self.name}: the commit did not go through") from lost.error
        except Fenced:
            del self._held[(owned.topic, owned.partition)]
            raise
        self._settle_directory()

    def close(self) -> None:
        """See `Sink`. What lies in DuckDB's write-ahead log is folded into the file, unless somebody else has it."""
        if self._held and self._wal.exists() and self._path.exists():
            with suppress(duckdb.Error, TransientError), turn_at(self._path).taken():
                duckdb.connect(str(self._path), config=self._options()).close()
        self._held.clear()

    def _apply(self, connection: duckdb.DuckDBPyConnection, held: _Held) -> None:
        with _transaction(connection, "commit") as transaction:
            moved = connection.execute(wire.ADVANCE, held.advance()).fetchall()[0][0]
            if moved == 0:
                transaction.rollback()
                if not self._decided(connection, held):
                    msg = f"{self.name}: the position did not move and nobody else moved it; commit again"
                    raise TransientError(msg)
                return
            if not held.batches:
                return
            table = pa.Table.from_batches(held.batches)
            connection.register(wire.STAGED, table.slice(0, 0))
            target = self._table_columns(connection)
            self._require_columns(target, held.types)
            if not target:
                if held.position > held.floor:
                    raise self._removed("table")
                connection.execute(wire.create_table(self._config.table))
            if self._config.key:
                table = table.append_column(wire.ROW, pa.array(range(table.num_rows), pa.int64()))
            connection.register(wire.STAGED, table)
            reached("duckdb.rows")
            if self._config.key:
                connection.execute(wire.upsert(self._config.table, table.schema.names[:-1], self._config.key))
            else:
                connection.execute(wire.append(self._config.table, table.schema.names))

    def _removed(self, what: str) -> Fenced:
        return Fenced(f"{self.name}: the {what} was removed meanwhile; it is filled from the beginning of the log")

    def _decided(self, connection: duckdb.DuckDBPyConnection, held: _Held) -> bool:
        """Why the position did not move: True when our own commit is there already, False when nothing happened.

        Raises:
            Fenced: a newer epoch holds the partition.
            LogRegressed: the target has another position than this owner left in it.
        """
        found = _row_of(connection, held)
        if found is not None and found[2] > held.epoch:
            raise _fenced(held, found[2])
        if found == (held.log, held.incarnation, held.epoch, held.end):
            return True
        if found == (held.log, held.incarnation, held.epoch, held.position):
            return False
        msg = (
            f"{self.name}: {held} left offset {held.position} (log {held.log}/{held.incarnation}, epoch {held.epoch}) "
            f"in {wire.PROGRESS} and finds {found}: the file was replaced or edited; restore it, or write to a new one"
        )
        raise LogRegressed(msg)

    def _settle_directory(self) -> None:
        """Make the names of the file and of its write-ahead log durable; DuckDB syncs only their content."""
        parent = self._path.parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
            if not self._path.exists():
                self._create()
            sync_directory(parent)
        except OSError as exc:
            if no_room(exc):
                msg = f"{self.name}: {exc.strerror} ({parent}); {WAY_OUT}"
                raise TransientError(msg) from exc
            msg = f"{self.name}: {exc.strerror} ({parent}); give the sink a directory that can be written"
            raise IOFailed(msg) from exc

    def _create(self) -> None:
        """Make an empty file under another name first: a death in the middle leaves one that DuckDB cannot open.

        One process at a time: the write-ahead log of a file that was removed goes, and must not be that of a new one.
        """
        with locked_directory(self._path.parent):
            if not self._path.exists():
                self._wal.unlink(missing_ok=True)
                self._make_file()

    def _make_file(self) -> None:
        place = Path(tempfile.mkdtemp(prefix=f".{self._path.name}.", suffix=".new", dir=self._path.parent))
        new = place / self._path.name
        try:
            reached("duckdb.create")
            duckdb.connect(str(new), config=self._options()).close()
            sync_file(new)
            link_once(new, self._path)
        except duckdb.Error as exc:
            raise translated(exc, f"{self.name} cannot be created") from exc
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def _options(self) -> dict[str, str | bool | int | float | list[str]]:
        return {"storage_compatibility_version": self._config.storage} if self._config.storage else {}

    def _held_of(self, owned: Owned) -> _Held:
        held = self._held.get((owned.topic, owned.partition))
        if held is None or held.epoch != owned.epoch:
            msg = f"{self.name}: epoch {owned.epoch} does not hold partition {owned.partition} of {owned.topic} here"
            raise Fenced(msg)
        return held

    @contextmanager
    def _opened(self) -> Generator[duckdb.DuckDBPyConnection]:
        connection = self._connect()
        try:
            connection.execute(wire.RARELY_CHECKPOINTED)
            yield connection
        except duckdb.Error as exc:
            raise translated(exc, self.name) from exc
        finally:
            connection.close()

    def _connect(self) -> duckdb.DuckDBPyConnection:
        """Open the file, waiting within bounds for whoever holds it."""
        turn = turn_at(self._path)
        waited, pause = 0.0, _PAUSE_FIRST_S
        try:
            while True:
                try:
                    reached("duckdb.open")
                    return duckdb.connect(str(self._path), config=self._options())
                except duckdb.Error as exc:
                    turn.held_by = self._held_by(exc, waited)
                    if waited >= self._config.wait_s:
                        raise TransientError(turn.held_by) from exc
                self._pause(pause)
                waited += pause
                pause = min(pause * 2, _PAUSE_MAX_S)
        finally:
            turn.held_by = ""

    def _held_by(self, exc: duckdb.Error, waited: float) -> str:
        """Who holds the file; raises what else it was that kept it from being opened."""
        pid = holder_of(exc)
        if pid is None:
            raise translated(exc, f"{self.name} cannot be opened") from exc
        who = f"process {pid}" if pid else "another process"
        return f"{self._path} is held by {who}, for {waited:.1f} s now; close it there, then it goes on"

    def _table_columns(self, connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
        """Column name → DuckDB type of the target's table; empty when there is none."""
        return dict(connection.execute(wire.TABLE_COLUMNS, [self._config.table]).fetchall())

    def _checked_columns(self, schema: pa.Schema) -> dict[str, str]:
        """Column name → DuckDB type of staged columns, which are all fit to be columns of a table."""
        seen: dict[str, str] = {}
        for field in schema:
            try:
                wire.checked_identifier(field.name, path="column")
            except ConfigError as exc:
                raise RefusedByTarget(str(exc)) from exc
            other = seen.setdefault(field.name.lower(), field.name)
            if other != field.name or schema.names.count(field.name) > 1:
                msg = f"columns {other} and {field.name} are one to DuckDB, which ignores case; rename one"
                raise RefusedByTarget(msg)
            if pa.types.is_null(field.type):
                msg = f"column {field.name} has no type (only nulls); give the field a type"
                raise RefusedByTarget(msg)
        for name in self._config.key:
            if name not in schema.names:
                msg = f"the key column {name} is missing; the events have {', '.join(schema.names)}"
                raise RefusedByTarget(msg)
        return _types_of(schema, self.name)

    def _require_columns(self, target: dict[str, str], staged: dict[str, str]) -> None:
        """The target's columns are the staged ones, in any order; a missing table fits all."""
        if not target:
            return
        table = f"table {self._config.table} in {self._path}"
        way_out = "alter the table by hand or write to another one"
        for name, found in staged.items():
            if name not in target:
                msg = f"column {name} ({found}) is not in {table}, which has {', '.join(target)}; {way_out}"
                raise RefusedByTarget(msg)
            if found != target[name]:
                msg = f"column {name} is {found}, in {table} it is {target[name]}; {way_out}"
                raise RefusedByTarget(msg)
        for name in target:
            if name not in staged:
                msg = f"column {name} of {table} is not among the events' columns ({', '.join(staged)}); {way_out}"
                raise RefusedByTarget(msg)

    def _aligned(self, batch: pa.RecordBatch, held: _Held) -> pa.RecordBatch:
        """The batch as the target can take it: checked, and with the columns of what is staged already."""
        types = self._checked_columns(batch.schema)
        self._require_columns(held.types or held.target, types)
        if not held.batches:
            held.schema, held.types = batch.schema, types
            return batch
        try:
            return batch.select(held.schema.names).cast(held.schema)
        except pa.ArrowException as exc:
            msg = f"{self.name}: staged columns changed from {held.schema} to {batch.schema}: {exc}"
            raise RefusedByTarget(msg) from exc


class _Held:
    """One partition as this process has claimed it, and the batches staged above its position."""

    def __init__(self, claim: Claim, target: str) -> None:
        owned = claim.owned
        self.row = [claim.pipeline, target, owned.topic, owned.partition]
        self.log, self.incarnation, self.epoch = claim.log, claim.incarnation, owned.epoch
        self.floor, self.tip = claim.floor, claim.tip
        self.position = self.end = claim.floor
        self.target: dict[str, str] = {}
        self.types: dict[str, str] = {}
        self.schema = pa.schema([])
        self.batches: list[pa.RecordBatch] = []

    def __str__(self) -> str:
        return f"pipeline {self.row[0]}, partition {self.row[3]} of {self.row[2]}"

    def advance(self) -> list[object]:
        """The parameters of `wire.ADVANCE`."""
        return [self.end, self.epoch, *self.row, self.log, self.incarnation, self.epoch, self.position]


class _ReplyLost(Exception):
    """COMMIT raised; whether the transaction was applied, the position's row tells."""

    def __init__(self, error: duckdb.Error) -> None:
        super().__init__(str(error))
        self.error = error


class _Transaction:
    """An open transaction of one connection."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self.open = True

    def rollback(self) -> None:
        """Undo; what follows in the block is outside any transaction."""
        self._connection.execute("ROLLBACK")
        self.open = False


@contextmanager
def _transaction(connection: duckdb.DuckDBPyConnection, what: str) -> Generator[_Transaction]:
    """BEGIN … COMMIT. An exception leaves it open: closing the connection rolls back.

    Raises:
        _ReplyLost: COMMIT itself raised.
    """
    reached(f"duckdb.{what}.begin")
    connection.execute("BEGIN TRANSACTION")
    transaction = _Transaction(connection)
    yield transaction
    if not transaction.open:
        return
    reached(f"duckdb.{what}.commit")
    try:
        connection.execute("COMMIT")
        reached(f"duckdb.{what}.committed")
    except duckdb.Error as exc:
        raise _ReplyLost(exc) from exc


def _row_of(connection: duckdb.DuckDBPyConnection, held: _Held) -> Position | None:
    if not connection.execute(wire.TABLE_COLUMNS, [wire.PROGRESS]).fetchall():
        return None  # a new file, which nobody has claimed anything of
    return connection.execute(wire.READ_PROGRESS, held.row).fetchone()


def _claim_row(connection: duckdb.DuckDBPyConnection, held: _Held, name: str) -> int:
    """Raise the epoch in the target (or make its first row); returns the target's position."""
    other = connection.execute(wire.READ_TOPICS, held.row[:3]).fetchone()
    if other is not None:
        msg = f"{name}: pipeline {held.row[0]} writes topic {other[0]} here, not {held.row[2]}; rename one of the two"
        raise ConfigError(msg, path="sink.pipeline")
    found = _row_of(connection, held)
    if found is None:
        connection.execute(wire.INSERT_PROGRESS, [*held.row, held.log, held.incarnation, held.epoch, held.floor])
        return held.floor
    log, incarnation, epoch, offset = found
    way_out = "restore the log's newer copy, or write to a new file; nothing was changed"
    if (log, incarnation) != (held.log, held.incarnation):
        expected = f"{held.log}/{held.incarnation}"
        msg = f"{name}: {held} was written from log {log}/{incarnation}, this one is {expected}: {way_out}"
        raise LogRegressed(msg)
    if epoch > held.epoch:
        raise _fenced(held, epoch)
    if offset > held.tip:
        msg = f"{name}: {held} holds offsets up to {offset}, the log ends at {held.tip}: {way_out}"
        raise LogRegressed(msg)
    if offset > held.floor and not held.target:
        # The table was removed: the rows are gone that this is said of, those of every partition and pipeline.
        offset = held.floor
        connection.execute(wire.BEGIN_AGAIN, [offset, *held.row])
        connection.execute(wire.OTHERS_BEGIN_AGAIN, [held.row[1], *held.row])
    connection.execute(wire.RAISE_EPOCH, [held.epoch, *held.row, held.epoch])
    return offset


def _fenced(held: _Held, epoch: int) -> Fenced:
    return Fenced(f"epoch {epoch} has {held}; epoch {held.epoch} stops")


def _types_of(schema: pa.Schema, name: str) -> dict[str, str]:
    """The DuckDB type of every column, asked of an empty database in memory."""
    connection = duckdb.connect(":memory:")
    try:
        connection.register(wire.STAGED, schema.empty_table())
        connection.execute(f"CREATE TABLE penstock_types AS SELECT * FROM {wire.STAGED}")
        return dict(connection.execute(wire.TABLE_COLUMNS, ["penstock_types"]).fetchall())
    except duckdb.Error as exc:
        raise translated(exc, f"{name} cannot hold these columns ({schema.names})") from exc
    finally:
        connection.close()


def _decoded(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Dictionary columns as plain ones: DuckDB would make an ENUM of the values that this batch happens to have."""
    for index, field in enumerate(batch.schema):
        if pa.types.is_dictionary(field.type):
            batch = batch.set_column(index, field.name, batch.column(index).dictionary_decode())
    return batch
