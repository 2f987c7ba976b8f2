"""A topic's events as a frame: for notebooks, tests and looking."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import polars as pl
import pyarrow as pa

from penstock.app.declared import Program
from penstock.app.opened import open_app
from penstock.app.plan import plan_app
from penstock.delivery import deadletter
from penstock.errors import ConfigError
from penstock.system.pipe import Worker
from penstock.system.ports import real_system

READ_EVENTS_MAX = 100_000


def read_frame(app: Program, topic: str, *, columns: Sequence[str] | None, limit: int | None) -> pl.DataFrame:
    """The topic's events, partition by partition, each in offset order; works inside a running loop too.

    Raises:
        ConfigError: no such topic, it has no type, no such column, or what is no number of events.
    """
    if columns is not None and (isinstance(columns, str) or not isinstance(columns, Sequence)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(f"{columns!r}; expected names of columns, such as ['id', 'price']", path="read.columns")
    if limit is not None and (not isinstance(limit, int) or limit < 0):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(f"{limit!r}; expected how many events at most, or None for all", path="read.limit")
    worker = Worker(name="penstock-read")
    worker.start()
    try:
        return worker.call(lambda: asyncio.run(_read(app, topic, columns=columns, limit=limit)))
    finally:
        worker.end()


async def _read(app: Program, topic: str, *, columns: Sequence[str] | None, limit: int | None) -> pl.DataFrame:
    system = real_system()
    try:
        opened = await open_app(app, plan_app(app), system)
    except BaseException:
        system.offload.close()
        raise
    try:
        typed = opened.topic(topic)
        if typed.schema is None and topic.endswith(deadletter.SUFFIX):
            msg = f"dead letters have no type; see them with `penstock query 'from \"{topic}\"'` or `penstock dlq list`"
            raise ConfigError(msg, path=f"topics.{topic}")
        schema = typed.columns(columns)
        tables: list[pa.RecordBatch] = []
        left = limit
        for partition, begin in enumerate(await opened.channel.begins(topic)):
            offset = begin
            while left is None or left > 0:
                count = READ_EVENTS_MAX if left is None else min(left, READ_EVENTS_MAX)
                batches = await opened.channel.read(topic, partition, offset, events_max=count)
                if not batches:
                    break
                for delivered in batches:
                    table = typed.table(delivered)
                    tables.append(table if columns is None else table.select(schema.names))
                    left = None if left is None else left - delivered.count
                offset = batches[-1].end
        return cast("pl.DataFrame", pl.from_arrow(pa.Table.from_batches(tables, schema=schema)))
    finally:
        await opened.close()
        system.offload.close()
