"""Topics as tables for DuckDB: a dataset per topic that reads only the columns and blocks that a query asks for."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow import acero

from penstock.channel.api import Columnar, Scan
from penstock.errors import PenstockError
from penstock.event.batch import Delivered
from penstock.observe.columns import TopicColumns
from penstock.observe.pruning import INT64_MAX, INT64_MIN, Possible, columns_of
from penstock.telemetry import emit

SCAN_EVENTS = 20_000
Wait = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine on the channel's loop and waits for what it returns; called from DuckDB's threads."""


class Plan(msgspec.Struct, frozen=True):
    """What a query reads of a topic: a scan per partition; `needed` columns are made, `shown` ones handed over."""

    scans: Sequence[Scan]
    needed: Sequence[str]
    shown: Sequence[str]


class TopicDataset(ds.InMemoryDataset):  # pyright: ignore[reportUntypedBaseClass]
    """One topic as a dataset. DuckDB asks it for its schema, and for a scanner with columns and filter.

    What is recorded when a scan starts is what the scan sees. The base is an empty dataset of the same schema: what
    else it offers (fragments, counting) knows no events.
    """

    def __init__(self, columns: TopicColumns, channel: Columnar, wait: Wait) -> None:
        super().__init__([], schema=columns.schema)
        self._columns = columns
        self._channel = channel
        self._wait = wait
        self.failure: PenstockError | None = None

    def scanner(self, columns: Sequence[str] | None = None, filter: ds.Expression | None = None) -> TopicScan:
        """The rows that the filter keeps, as these columns (all without them)."""
        try:
            return TopicScan(self, self.plan(columns, filter), filter)
        except PenstockError as exc:
            self.failure = exc  # what reaches DuckDB is its text only
            raise

    def plan(self, columns: Sequence[str] | None, condition: ds.Expression | None) -> Plan:
        """What must be read for these columns and this filter, and no more as far as can be told."""
        schema, topic = self._columns.schema, self._columns.topic.name
        shown = list(schema.names if columns is None else columns)
        tips: Sequence[int] = self._wait(self._channel.tips(topic))
        spans = [(partition, 0, tip) for partition, tip in enumerate(tips)]
        read: list[str] = []
        time_from = time_to = None
        if condition is not None:
            read = columns_of(condition, schema)
            spans = _spans(condition, schema, read, tips)
            time_from, time_to = self._time_range(condition, read)
        needed = shown + [name for name in read if name not in shown]
        own = self._columns.own(needed)
        scans = [
            Scan(topic, partition, start, end, own, time_from, time_to)
            for partition, start, end in spans
            if start < end
        ]
        return Plan(scans, needed, shown)

    def _time_range(self, condition: ds.Expression, read: Sequence[str]) -> tuple[int | None, int | None]:
        """The event times that can match, in microseconds, as [from, to); None does not limit."""
        field = self._columns.topic.spec.time
        if field is None or field not in read:
            return None, None
        kind = self._columns.schema.field(field).type
        if kind != pa.timestamp("us", "UTC"):
            return None, None
        span = Possible(condition, self._columns.schema, field).span(INT64_MIN, INT64_MAX)
        if span is None:
            return 0, 0
        low, high = span
        return None if low == INT64_MIN else low, None if high == INT64_MAX else high + 1

    def batches(self, plan: Plan, condition: ds.Expression | None) -> Iterator[pa.RecordBatch]:
        """The plan's rows, partition after partition in offset order, as they are asked for."""
        topic = self._columns.topic.name
        try:
            for delivered in self._delivered(plan.scans):
                emit.count("penstock_query_blocks_total", topic=topic)
                batch = self._columns.batch(delivered, plan.needed)
                emit.count("penstock_query_events_total", batch.num_rows, topic=topic)
                yield from _kept(batch, condition, plan.shown)
        except PenstockError as exc:
            self.failure = exc
            raise

    def _delivered(self, scans: Sequence[Scan]) -> Iterator[Delivered]:
        for scan in scans:
            rest = scan
            while rest.start < (rest.end or 0):
                found = self._wait(self._channel.scan(rest, events_max=SCAN_EVENTS))
                if not found:
                    break
                yield from found
                rest = msgspec.structs.replace(rest, start=found[-1].end)


class TopicScan:
    """What `TopicDataset.scanner` answers: as much of `pyarrow.dataset.Scanner` as DuckDB and Polars use."""

    def __init__(self, dataset: TopicDataset, plan: Plan, condition: ds.Expression | None) -> None:
        self._dataset = dataset
        self._plan = plan
        self._condition = condition

    def to_reader(self) -> pa.RecordBatchReader:
        """The rows as a stream: nothing is read before it is asked for."""
        whole = self._dataset.schema
        schema = pa.schema([whole.field(name) for name in self._plan.shown])
        return pa.RecordBatchReader.from_batches(schema, self._dataset.batches(self._plan, self._condition))

    def to_table(self) -> pa.Table:
        """All rows at once."""
        return self.to_reader().read_all()


def _kept(batch: pa.RecordBatch, condition: ds.Expression | None, shown: Sequence[str]) -> list[pa.RecordBatch]:
    """The rows that the filter keeps, as the columns that are shown.

    In this thread: DuckDB pulls from threads of its own, where waiting for Arrow's pool can be waiting for oneself.
    """
    if condition is None:
        return [batch.select(list(shown))]
    plan = acero.Declaration.from_sequence(
        [
            acero.Declaration("table_source", acero.TableSourceNodeOptions(pa.Table.from_batches([batch]))),
            acero.Declaration("filter", acero.FilterNodeOptions(condition)),
        ]
    )
    return [kept.select(list(shown)) for kept in plan.to_table(use_threads=False).to_batches() if kept.num_rows]


def _spans(
    condition: ds.Expression, schema: pa.Schema, read: Sequence[str], tips: Sequence[int]
) -> list[tuple[int, int, int]]:
    """The partitions and offsets that can match, by the filter's use of `_partition` and `_offset`."""
    first, end = 0, max(tips, default=0)
    if "_offset" in read and end:
        span = Possible(condition, schema, "_offset").span(0, end - 1)
        if span is None:
            return []
        first, end = span[0], span[1] + 1
    partitions = range(len(tips))
    if "_partition" in read:
        possible = Possible(condition, schema, "_partition")
        partitions = [number for number in partitions if possible.within(number, number)]
    return [(number, first, min(end, tips[number])) for number in partitions]
