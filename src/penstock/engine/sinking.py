"""A sink's work: stages events in the target and commits them by the roll; the target holds the position."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from penstock.channel.api import Assigned, Delivery, LedgerWrite, Owned, Subscription
from penstock.channel.typed import TypedTopic
from penstock.engine.work import Draft, Gauge, Stopping
from penstock.errors import CorruptionError, SinkFull, TransientError
from penstock.event.batch import Delivered
from penstock.sink.api import Claim, Sink, Staged
from penstock.system.ports import System
from penstock.system.slots import Slot
from penstock.telemetry import emit

T = TypeVar("T")

PAUSE_FIRST_S = 0.05
PAUSE_MAX_S = 2.0


class Past(Protocol):
    """What a sink may ask of its topic's log outside its group."""

    async def tip(self, partition: int) -> int:
        """The offset after the log's last event."""
        ...

    async def read(self, partition: int, offset: int) -> Sequence[Delivered]:
        """Some recorded events from `offset` on; what is quarantined is left out."""
        ...

    async def passed(self, partition: int, offset: int) -> int:
        """Where what is quarantined from `offset` on ends; `offset` itself when nothing is."""
        ...


class _Held(msgspec.Struct):
    """One claimed partition: its position in the target, what is staged above it, and since when.

    `told` is up to where the log has been told, and reports count; deliveries begin at `floor`, which a new target
    may lie far below.
    """

    owned: Owned
    position: int
    staged_end: int
    told: int
    floor: int
    since_s: float = 0.0
    bytes: int = 0

    @property
    def staged(self) -> int:
        return self.staged_end - self.position


class SinkWork:
    """See `Work`. A commit in the target comes first; the log's floor follows as a hint.

    Delivery guarantee: the sink's (effectively-once where the target keeps the position). A target that says "not
    now" is asked again, with pauses, for as long as it takes; nothing is staged meanwhile. One that has given up what
    was staged, for want of room, is claimed anew: by the group, which joins again.
    """

    def __init__(
        self, sink: Sink, subscription: Subscription, source: TypedTopic[Any], *, past: Past, system: System
    ) -> None:
        self.subscription = subscription
        self.gauge = Gauge()
        self.news: asyncio.Event | None = None
        self._sink = sink
        self._source = source
        self._past = past
        self._system = system
        self._held: dict[int, _Held] = {}
        self._stopping: Stopping = _never
        self._left = False
        self._running: asyncio.Future[Any] | None = None

    async def assigned(self, assigned: Assigned, slot: Slot | None, stopping: Stopping) -> Sequence[LedgerWrite]:
        """See `Work`: fences older owners out of the target and learns the position there."""
        self._stopping = stopping
        await self._drop_left()
        claim = Claim(
            pipeline=self.subscription.group.name,
            owned=assigned.owned,
            log=assigned.log,
            incarnation=assigned.incarnation,
            # A target that holds nothing gets everything: the log's floor is not the target's. Only a group that has
            # never committed begins where the log put it: at the first event that is kept.
            floor=assigned.floor if assigned.number == 0 else 0,
            tip=await self._past.tip(assigned.owned.partition),
        )
        position = await self._patiently(lambda: self._sink.claim(claim), kept=True)
        told = min(position, assigned.floor)
        self._held[assigned.owned.partition] = _Held(assigned.owned, position, position, told, assigned.floor)
        return ()

    async def process(self, delivery: Delivery, stopping: Stopping) -> AsyncGenerator[Draft]:
        """See `Work`."""
        held = self._held[delivery.owned.partition]
        for delivered in delivery.batches:
            if not await self._caught_up(held, delivered.first):
                return
            if delivered.end > held.staged_end:
                await self._stage(held, delivered.tail(held.staged_end))
            await self._commit_due()
            for draft in self._drafts():
                yield draft

    async def due(self, *, everything: bool) -> AsyncGenerator[Draft]:
        """See `Work`."""
        await self._drop_left()
        for held in list(self._held.values()):
            await self._caught_up(held, held.floor)
        await self._commit_due(everything=everything)
        for draft in self._drafts():
            yield draft

    def wait_s(self) -> float | None:
        """See `Work`: nothing waits for a time of its own."""
        return None

    def paused(self) -> Collection[Owned]:
        """See `Work`: never."""
        return ()

    def resumed(self) -> Delivery | None:
        """See `Work`."""
        return None

    def committed(self, draft: Draft) -> None:
        """See `Work`."""
        emit.count("penstock_events_sunk_total", draft.events, sink=self._sink.name)

    async def finish(self, partition: int) -> AsyncGenerator[Draft]:
        """See `Work`: what is staged is committed."""
        held = self._held.get(partition)
        if held is not None and await self._caught_up(held, held.floor):
            if held.staged:
                await self._commit(held)
            for draft in self._drafts():
                yield draft

    def left(self, partition: int | None = None) -> None:
        """See `Work`. What a lost partition has staged is dropped when the sink is closed, or claims it again."""
        if partition is not None:
            self._held.pop(partition, None)
        if partition is None or not self._held:
            self._held.clear()
            self._left = True

    async def close(self) -> None:
        """See `Work`. Cancelled, it ends no sooner: the thread that is in the target cannot be left alone with it."""
        closing = asyncio.ensure_future(self._alone(self._sink.close))
        cancelled: asyncio.CancelledError | None = None
        while not closing.done():
            try:
                await asyncio.wait([closing])
            except asyncio.CancelledError as exc:
                cancelled = exc
        closing.result()
        if cancelled is not None:
            raise cancelled

    # -- the target ------------------------------------------------------------------------------------------------

    async def _drop_left(self) -> None:
        """What the last membership has staged is given up as a whole: its partitions may be somebody else's now."""
        if self._left:
            await self._alone(self._sink.close)
            self._left = False

    async def _caught_up(self, held: _Held, offset: int) -> bool:
        """Stage what the log holds between the target's end and `offset`; False when stopped before that."""
        while held.staged_end < offset:
            for delivered in await self._read(held):
                if self._stopping():
                    return False
                await self._stage(held, delivered)
                await self._commit_due()
        return True

    async def _read(self, held: _Held) -> Sequence[Delivered]:
        found = await self._past.read(held.owned.partition, held.staged_end)
        if found and found[0].first == held.staged_end:
            return found
        passed = await self._past.passed(held.owned.partition, held.staged_end)
        if passed > held.staged_end and (not found or found[0].first == passed):
            await self._pass_over(held, passed)
            return found
        there = f"the next one that is there is {found[0].first}" if found else "nothing is there"
        place = f"topic {held.owned.topic}/{held.owned.partition}"
        msg = (
            f"{self._sink.name} goes on at offset {held.staged_end} of {place}, and {there}: the log was restored from "
            "an older copy, or it is damaged; nothing was skipped. `penstock doctor` looks at the log"
        )
        raise CorruptionError(msg)

    async def _pass_over(self, held: _Held, end: int) -> None:
        """A target takes offsets without a gap: of those that are quarantined it gets no rows."""
        gap = Staged(held.owned, held.staged_end, end, self._source.empty())
        await self._alone(lambda: self._sink.write(gap))
        held.staged_end = end

    async def _stage(self, held: _Held, delivered: Delivered) -> None:
        if held.staged == 0:
            held.since_s = self._system.clock.monotonic_s()
        table = self._source.table(delivered)
        if delivered.first > held.staged_end:
            await self._pass_over(held, delivered.first)
        staged = Staged(held.owned, delivered.first, delivered.end, table)
        await self._alone(lambda: self._sink.write(staged))
        held.staged_end = delivered.end
        held.bytes += table.nbytes

    async def _commit_due(self, *, everything: bool = False) -> None:
        """Commit every partition whose roll is full or over, whichever of them is being worked on."""
        for held in self._held.values():
            if held.staged and (everything or self._full(held)):
                await self._commit(held)

    def _full(self, held: _Held) -> bool:
        roll = self._sink.roll
        waited = self._system.clock.monotonic_s() - held.since_s
        return held.staged >= roll.events_max or held.bytes >= roll.bytes_max or waited >= roll.seconds

    async def _commit(self, held: _Held) -> None:
        with emit.span("penstock.sink.commit", sink=self._sink.name, events=held.staged):
            held.position = await self._patiently(lambda: self._sink.commit(held.owned), kept=False)
        held.staged_end = max(held.staged_end, held.position)
        held.bytes = 0

    def _drafts(self) -> Iterator[Draft]:
        """What the log is still to be told: a target that is filled anew has events below the log's floor."""
        for held in list(self._held.values()):
            if held.position > held.told:
                yield self._draft(held)

    def _draft(self, held: _Held) -> Draft:
        events = held.position - held.told
        held.told = held.position
        return Draft(held.owned.partition, max(held.position, held.floor), events=events)

    async def _alone(self, act: Callable[[], T]) -> T:
        """In another thread, one call at a time: a cancelled one is waited for before the next begins."""
        while self._running is not None and not self._running.done():
            await asyncio.wait([self._running])
        running = self._running = asyncio.ensure_future(self._system.offload.run(act))
        running.add_done_callback(_seen)  # a cancelled caller does not ask how it ended
        return await asyncio.shield(running)

    async def _patiently(self, act: Callable[[], T], *, kept: bool) -> T:
        """Do it, again and again while the target says "not now"; the last try before an end may still fail.

        Args:
            act: a claim or a commit.
            kept: whether it can be done again after `SinkFull`, which leaves nothing to commit.
        """
        pause_s = PAUSE_FIRST_S
        while True:
            try:
                return await self._alone(act)
            except TransientError as exc:
                if self._stopping() or (isinstance(exc, SinkFull) and not kept):
                    raise
                emit.count("penstock_sink_waits_total", sink=self._sink.name)
                emit.log(logging.WARNING, "sink waits", sink=self._sink.name, reason=str(exc))
                await self._system.clock.sleep(pause_s)
                pause_s = min(PAUSE_MAX_S, pause_s * 2)


def _seen(running: asyncio.Future[Any]) -> None:
    if not running.cancelled():
        running.exception()


def _never() -> bool:
    return False
