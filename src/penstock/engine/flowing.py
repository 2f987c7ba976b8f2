"""A flow's work: frames in, frames out, and for a running aggregate its keyed state as the step's ledger."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Any, cast

import msgspec

from penstock.channel.api import Assigned, Delivery, LedgerWrite, Subscription
from penstock.channel.rules import head
from penstock.channel.typed import TypedTopic
from penstock.delivery.deadletter import DeadLetter, to_batch
from penstock.delivery.retry import Retry
from penstock.engine.context import Identity
from penstock.engine.work import Draft, Stopping
from penstock.errors import PermanentError
from penstock.event.batch import Delivered, NewBatch
from penstock.event.partition import partitions_of
from penstock.system.ports import System
from penstock.system.slots import Slot
from penstock.telemetry import emit

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from penstock.flow.compile import Stage
    from penstock.flow.logic import Merge

STATE = "state"
INLINE_EVENTS = 2_000
PAUSE_LOOK_S = 0.1


class FlowTopics(msgspec.Struct, frozen=True):
    """The topics a stage reads, writes, and lays in what cannot be computed."""

    source: TypedTopic[Any]
    into: TypedTopic[Any]
    dead: TypedTopic[Any]


class _Result(msgspec.Struct):
    """What a run of rows came to: result columns, the state's delta, and rows given up."""

    tables: list[pa.RecordBatch] = msgspec.field(default_factory=list[Any])
    delta: dict[bytes, bytes] = msgspec.field(default_factory=dict[bytes, bytes])
    letters: list[DeadLetter] = msgspec.field(default_factory=list[DeadLetter])


class FlowWork:
    """See `Work`. One delivery is one step.

    Delivery guarantee: that of the channel's step: results, state and progress become permanent together. A row that
    cannot be computed is found by halving and laid among the dead letters; the others go on.
    """

    def __init__(
        self,
        stage: Stage,
        subscription: Subscription,
        topics: FlowTopics,
        *,
        system: System,
        retry: Retry | None = None,
    ) -> None:
        self.subscription = subscription
        self._stage = stage
        self._topics = topics
        self._system = system
        self._retry = retry or Retry()
        self._merges: dict[int, Merge] = {}
        source, into = topics.source.spec, topics.into.spec
        keyed = not stage.keys or (stage.keys == (source.key,) and into.key in (None, source.key))
        plain = stage.layout_in is None and stage.partial is None
        self._stays = plain and keyed and source.partitions == into.partitions

    async def assigned(self, assigned: Assigned, slot: Slot | None) -> Sequence[LedgerWrite]:
        """See `Work`: the state is what was committed, and nothing else."""
        if self._stage.keeps_state:
            merge = self._stage.new_merge()
            merge.restore([(key, value) for space, key, value in assigned.ledger if space == STATE])
            self._merges[assigned.owned.partition] = merge
        return ()

    async def process(self, delivery: Delivery, stopping: Stopping) -> AsyncGenerator[Draft]:
        """See `Work`."""
        partition = delivery.owned.partition
        result = _Result()
        for delivered in delivery.batches:
            if not await self._whole(delivered, result, stopping):
                return
        yield Draft(
            partition,
            delivery.batches[-1].end,
            self._outputs(result, partition),
            [LedgerWrite(STATE, key, value) for key, value in result.delta.items()],
            events=sum(d.count for d in delivery.batches),
            dead=len(result.letters),
        )

    async def due(self, *, everything: bool) -> AsyncGenerator[Draft]:
        """See `Work`: nothing is kept back."""
        return
        yield

    def committed(self, draft: Draft) -> None:
        """See `Work`."""
        emit.count("penstock_events_handled_total", draft.events, group=self._stage.name)
        if draft.dead:
            emit.count("penstock_dead_letters_total", draft.dead, group=self._stage.name)

    def left(self) -> None:
        """See `Work`: the state is restored when the partition is assigned again."""

    async def close(self) -> None:
        """See `Work`."""

    # -- computing -------------------------------------------------------------------------------------------------

    async def _whole(self, delivered: Delivered, result: _Result, stopping: Stopping) -> bool:
        """The batch as one frame, tried again with pauses, and in halves when it fails for good; False when stopped."""
        attempt = 1
        while True:
            try:
                await self._computed(delivered, result)
            except Exception as exc:  # noqa: BLE001 - a user's function may raise anything; it is an outcome
                pause_s = None if isinstance(exc, PermanentError) else self._retry.pause_s(attempt)
                if pause_s is None:
                    return await self._halved(delivered, result, exc, stopping)
                emit.count("penstock_handler_retries_total", group=self._stage.name)
                attempt += 1
                while pause_s > 0 and not stopping():
                    await self._system.clock.sleep(min(pause_s, PAUSE_LOOK_S))
                    pause_s -= PAUSE_LOOK_S
                if stopping():
                    return False
            else:
                return True

    async def _halved(self, delivered: Delivered, result: _Result, error: Exception, stopping: Stopping) -> bool:
        if delivered.count == 1:
            result.letters.append(self._letter(delivered, error))
            return True
        middle = delivered.first + delivered.count // 2
        for part in (head(delivered, middle - delivered.first), delivered.tail(middle)):
            try:
                await self._computed(part, result)
            except Exception as exc:  # noqa: BLE001 - as above
                if not await self._halved(part, result, exc, stopping):
                    return False
            await asyncio.sleep(0)
        return not stopping()

    async def _computed(self, delivered: Delivered, result: _Result) -> None:
        """Everything or nothing of the batch goes into `result` and the state."""
        merge = self._merges.get(delivered.partition) if self._stage.keeps_state else None

        def work() -> tuple[pl.DataFrame, Any]:
            from penstock.flow.frames import from_batch  # noqa: PLC0415 - Polars loads with the first event

            table = self._topics.source.table(delivered)
            rows = self._stage.rows(from_batch(table, columns=self._stage.reads))
            if merge is None:
                return rows, None
            merged = merge.apply(rows)
            return merged.changed, merged

        rows, merged = work() if delivered.count <= INLINE_EVENTS else await self._system.offload.run(work)
        from penstock.flow.frames import to_batch as frame_to_batch  # noqa: PLC0415

        schema = self._topics.into.schema
        assert schema is not None, "a flow writes columns"
        table = frame_to_batch(rows, schema.arrow)
        schema.check(table)
        if merge is not None:
            merge.accept(merged)
            result.delta.update(merged.delta)
        if table.num_rows:
            result.tables.append(table)

    def _outputs(self, result: _Result, partition: int) -> list[NewBatch]:
        outputs: list[NewBatch] = []
        if result.tables:
            import pyarrow as pa  # noqa: PLC0415

            table = pa.concat_batches(result.tables) if len(result.tables) > 1 else result.tables[0]
            outputs = self._placed(table, partition)
        if result.letters:
            outputs.append(to_batch(result.letters, topic=self._topics.dead.name, partition=partition))
        return outputs

    def _placed(self, table: pa.RecordBatch, partition: int) -> list[NewBatch]:
        """Results by partition: of their own keys, or where their inputs lie when nothing moves a row elsewhere."""
        into, keys = self._topics.into, self._stage.keys
        if self._stays:
            return [into.columns_batch(partition, table)]
        if into.spec.key is not None or not keys:
            return into.pack_columns(table)
        import polars as pl  # noqa: PLC0415

        from penstock.flow.frames import row_keys  # noqa: PLC0415

        frame = cast("pl.DataFrame", pl.from_arrow(table))
        numbers = pl.Series(partitions_of(row_keys(frame, keys), into.spec.partitions), dtype=pl.Int64)
        return [
            into.columns_batch(number, table.take((numbers == number).arg_true().to_arrow()))
            for number in sorted(set(numbers.to_list()))
        ]

    def _letter(self, delivered: Delivered, error: Exception) -> DeadLetter:
        identity = Identity(delivered, self._topics.source)
        return DeadLetter(
            group=self._stage.name,
            topic=delivered.topic,
            partition=delivered.partition,
            offset=delivered.first,
            body=identity.body(0),
            reason=str(error) or type(error).__name__,
            error=type(error).__name__,
            stack="".join(traceback.format_exception(error)),
            key=identity.key(0),
            id=identity.id(0),
        )
