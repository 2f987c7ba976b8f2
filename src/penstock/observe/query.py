"""SQL over the topics of a log: DuckDB runs it, each topic is a table, results come as a stream of batches."""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import duckdb
import pyarrow as pa

from penstock.channel.rules import unknown_name
from penstock.errors import Closed, ConfigError, PenstockError
from penstock.observe.carrying import SPAN_MACRO, carried
from penstock.observe.columns import columns_of
from penstock.observe.reading import is_dead_letters, typed
from penstock.observe.tables import TopicDataset

if TYPE_CHECKING:
    from penstock.channel.api import Columnar, Topic
    from penstock.system import System

T = TypeVar("T")

BATCH_ROWS = 8192
_UNKNOWN = re.compile(r'Table with name "?(.+?)"? does not exist')
_RESERVED = {"main", "temp", "system", "information_schema", "pg_catalog"}


class SqlError(PenstockError):
    """DuckDB refused or failed the SQL; the message is its own."""


class Answer:
    """The rows of one query, as a stream: nothing is held that was not asked for. Used from the channel's loop."""

    def __init__(self, tables: Tables, reader: pa.RecordBatchReader) -> None:
        self._names = _once(reader.schema.names)
        fields = zip(self._names, reader.schema, strict=True)
        self.schema: pa.Schema = pa.schema([field.with_name(name) for name, field in fields])
        self._tables = tables
        self._reader = reader

    async def next(self) -> pa.RecordBatch | None:
        """The next rows, at most `BATCH_ROWS` of them; None at the end.

        Raises:
            SqlError: the query failed while it ran.
            PenstockError: a topic could not be read.
        """
        return await self._tables.work(self._read)

    def _read(self) -> pa.RecordBatch | None:
        try:
            return self._reader.read_next_batch().rename_columns(self._names)
        except StopIteration:
            return None


def _once(names: Sequence[str]) -> list[str]:
    """Each name once, as DuckDB names the columns of a table it makes: of two `a` the second is `a_1`."""
    out: list[str] = []
    for name in names:
        free, number = name, 0
        while free in out or (number and free in names):
            number += 1
            free = f"{name}_{number}"
        out.append(free)
    return out


class Tables:
    """Every topic of an open channel as a table of one DuckDB session. Used from the channel's loop; close it.

    A topic is a table of its name: fields of its type, then what the log knows (`_partition`, `_offset`,
    `_recorded_time`, `_key`, `_id`, `_headers`). A name with one dot may be written without quotes. The log cannot be
    changed by SQL; files and tables of the session can.
    """

    def __init__(self, channel: Columnar, topics: Mapping[str, Topic], system: System) -> None:
        self._system = system
        self._loop = asyncio.get_running_loop()
        self._waiting: set[Future[Any]] = set()
        self._running: set[asyncio.Future[Any]] = set()
        self._closed = False
        self._datasets: dict[str, TopicDataset] = {}
        spill = Path(tempfile.gettempdir()) / f"penstock-query-{os.getpid()}"
        self._db = duckdb.connect(config={"temp_directory": str(spill), "python_enable_replacements": False})
        self._db.execute("SET TimeZone = 'UTC'")
        self._db.execute(SPAN_MACRO)
        for name, topic in topics.items():
            columns = columns_of(typed(topic), dead_letters=is_dead_letters(topic))
            dataset = self._datasets[name] = TopicDataset(columns, channel, self._wait)
            self._db.register(name, dataset)
            self._also_unquoted(name)

    def _also_unquoted(self, name: str) -> None:
        """`check.dead` without quotes is table `dead` of schema `check`: let it be the topic."""
        schema, dot, table = name.partition(".")
        if dot and "." not in table and schema.lower() not in _RESERVED:
            self._db.execute(f'CREATE SCHEMA IF NOT EXISTS "{schema}"')
            self._db.execute(f'CREATE VIEW "{schema}"."{table}" AS SELECT * FROM "{name}"')

    async def query(self, sql: str) -> Answer:
        """Run SQL, of which the last statement may be a query; statements that answer nothing give an empty table.

        Raises:
            SqlError: DuckDB's message.
            ConfigError: an unknown table; close names are listed.
        """

        def start() -> pa.RecordBatchReader:
            relation: Any = self._db.sql(sql)  # its stub does not know that statements give None
            if relation is None:
                return pa.RecordBatchReader.from_batches(pa.schema([]), [])
            projection = carried(relation.columns, relation.types)
            if projection is not None:
                relation = relation.project(projection)
            return relation.to_arrow_reader(BATCH_ROWS)

        return Answer(self, await self.work(start))

    async def work(self, what: Callable[[], T]) -> T:
        """Run something of the session off the loop; when this is cancelled, the session's query is interrupted."""
        running = asyncio.ensure_future(self._system.offload.run(what))
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            self._db.interrupt()
            raise
        except (duckdb.Error, pa.ArrowException, OSError) as exc:
            raise self._translated(exc) from None

    def _translated(self, exc: Exception) -> PenstockError:
        for dataset in self._datasets.values():
            if dataset.failure is not None:
                failure, dataset.failure = dataset.failure, None
                return failure
        unknown = _UNKNOWN.search(str(exc)) if isinstance(exc, duckdb.CatalogException) else None
        if unknown is not None:
            if unknown[1] in self._datasets:
                msg = f'{unknown[1]} has dots in its name: quote it, as in FROM "{unknown[1]}"'
                return ConfigError(msg, path="sql")
            return ConfigError(unknown_name(unknown[1], list(self._datasets), what="topic"), path="sql")
        return SqlError(str(exc).split(". Detail: Python exception", 1)[0].strip())

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a read on the channel's loop for one of DuckDB's threads."""
        if self._closed:
            work.close()
            msg = "this session was closed; open another"
            raise Closed(msg)
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        self._waiting.add(future)
        if self._closed:  # `close` may have looked before it was there
            future.cancel()
        try:
            return future.result()
        finally:
            self._waiting.discard(future)

    async def close(self) -> None:
        """Interrupt what still runs and let the session go; may be called twice."""
        if self._closed:
            return
        self._closed = True
        self._db.interrupt()
        for future in list(self._waiting):
            future.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._system.offload.run(self._db.close)
