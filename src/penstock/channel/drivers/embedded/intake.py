"""One member's intake from the embedded log: ownership, reading ahead, and steps in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

import msgspec

from penstock.channel import rules
from penstock.channel.api import (
    Assigned,
    Committed,
    Delivery,
    FencedOff,
    Idle,
    Lost,
    Owned,
    Step,
    Subscription,
    Taken,
    Unknown,
)
from penstock.channel.drivers.embedded import reach
from penstock.channel.drivers.embedded.port import LogPort, Tidings
from penstock.errors import Closed, LogRegressed, OutcomeUnknown, PenstockError, Rejected, TransientError
from penstock.event.batch import Delivered, NewBatch
from penstock.log import placed, progress
from penstock.log.api import (
    Advance,
    Appended,
    Block,
    Claim,
    Claimed,
    GroupRow,
    Held,
    Overtaken,
    Refusal,
    Span,
    Stored,
    TopicRow,
)
from penstock.system.ports import System

STANDBY_LOOK_S = 0.1
SAFETY_LOOK_S = 1.0
INLINE_BYTES = 64 * 1024


class Host(Protocol):
    """What a member needs of the channel that it came from; see `EmbeddedChannel`."""

    @property
    def port(self) -> LogPort:
        """The open log."""
        ...

    def row(self, name: str) -> TopicRow:
        """A topic's row in the log."""
        ...

    def refuse(self, batches: Sequence[NewBatch]) -> str:
        """Why these batches cannot be stored; empty when they can."""
        ...

    async def encode(self, batches: Sequence[NewBatch]) -> list[Block]:
        """Batches as blocks."""
        ...

    def decode(self, stored: Sequence[Stored], topic: str, partition: int) -> list[Delivered]:
        """Blocks of one partition as batches."""
        ...


class _Held(msgspec.Struct, eq=False):
    """One owned partition: where the next delivery starts, and why it is not owned any more.

    `stumble` is the place of a step that was not stored and may be committed again, and the error it met.
    """

    owned: Owned
    pid: int
    position: int
    dead: str = ""
    stumble: tuple[tuple[int, int], TransientError] | None = None


class EmbeddedIntake:
    """See `Intake`. Made by `EmbeddedChannel.join`; used from one task, `commit` may overlap `next`."""

    def __init__(
        self, channel: Host, subscription: Subscription, *, group: GroupRow, topic: TopicRow, system: System
    ) -> None:
        self._channel = channel
        self._subscription = subscription
        self._group = group
        self._topic = topic
        self._system = system
        self._owner = channel.port.ownership(group.id)
        self._held: dict[int, _Held] = {}
        self._told: deque[Assigned | Lost] = deque()
        self._turn = 0
        self._tidings: Tidings | None = None
        self._seen: dict[int, int] = {}  # where each partition ended at the last look
        self._ahead: asyncio.Task[tuple[_Held, list[Delivered]] | None] | None = None
        self._order = asyncio.Lock()
        self.left = False

    # -- taking ----------------------------------------------------------------------------------------------------

    async def next(self, *, events_max: int, bytes_max: int, wait_s: float) -> Taken:
        """See `Intake`."""
        deadline_s = self._system.clock.monotonic_s() + wait_s
        while True:
            self._check_here()
            taken = await self._take(events_max, bytes_max)
            left_s = deadline_s - self._system.clock.monotonic_s()
            if not isinstance(taken, Idle) or left_s <= 0:
                return taken
            if taken.reason:
                await self._system.clock.sleep(min(left_s, STANDBY_LOOK_S))
            else:
                assert self._tidings is not None
                await self._tidings.wait(min(left_s, SAFETY_LOOK_S))

    def _check_here(self) -> None:
        if self.left:
            msg = f"group {self._group.name}: this member has left; join again"
            raise Closed(msg)

    async def _take(self, events_max: int, bytes_max: int) -> Taken:
        self._bury()
        if not self._told and len(self._held) < len(self._topic.pids):
            standby = await self._become_owner()
            if standby is not None:
                return standby
        if self._told:
            return self._told.popleft()
        found = await self._read_ahead(events_max, bytes_max)
        if found is None:
            return Idle()
        held, batches = found
        held.position = batches[-1].end
        # Nothing is read ahead at the end of the log: that look would only delay the handling of what was found.
        if any(h.position < self._seen[h.pid] for h in self._held.values() if not h.dead):
            self._ahead = asyncio.ensure_future(self._read(events_max, bytes_max))
        return Delivery(held.owned, batches)

    def _bury(self) -> None:
        """Tell of the partitions that a commit has found lost; they are claimed again when this member may."""
        for number, held in list(self._held.items()):
            if held.dead:
                del self._held[number]
                self._told.append(Lost(held.owned, held.dead))

    async def _become_owner(self) -> Idle | None:
        """Claim what is not held; Idle with the reason when another member owns the group."""
        if not self._owner.try_acquire(self._subscription.member):
            for held in self._held.values():
                held.dead = f"group {self._group.name}: another member took it over"
            if self._held:
                self._bury()
                return None
            name = self._owner.label() or "another member"
            return Idle(f"group {self._group.name} is owned by {name}; waiting for it to go")
        numbers = [number for number in range(len(self._topic.pids)) if number not in self._held]
        pids = [self._topic.pids[number] for number in numbers]
        result = await (await self._channel.port.queue(Claim(self._group.id, pids)))
        assert isinstance(result, Claimed)
        restored = [await self._restored(claimed) for claimed in result.held]
        self._check_here()
        tips = self._tips()
        for number, claimed in zip(numbers, result.held, strict=True):
            self._check_not_ahead(number, claimed, tips[claimed.pid])
            self._channel.port.look(lambda db, c=claimed, n=number: reach.check(db, self._group, self._topic, c, n))
        for number, reading in zip(numbers, restored, strict=True):
            if not reading.overtaken:
                self._assign(number, reading)
        if self._tidings is None:
            self._tidings = self._channel.port.tidings(self._topic.pids)
        if any(reading.overtaken for reading in restored):
            return Idle(f"group {self._group.name} was taken over by another member while this one began")
        return None

    async def _restored(self, claimed: Held) -> progress.LedgerReading:
        """The ledger of a claimed partition; a large one is read off the loop."""
        look = self._channel.port.look
        reading = progress.LedgerReading(self._group.id, claimed, spaces=self._subscription.ledger_spaces)
        if reading.more(look):
            await self._system.offload.run(lambda: reading.rest(look))
        return reading

    def _check_not_ahead(self, number: int, claimed: Held, tip: int) -> None:
        if max(claimed.floor, *(hole + 1 for hole in claimed.holes), 0) <= tip:
            return
        msg = (
            f"group {self._group.name} is at offset {claimed.floor} of topic {self._topic.name}/{number}, the log ends "
            f"at {tip}: the log was restored from an older copy; nothing was skipped. Put the newer log back, or give "
            "the group a new name to start again"
        )
        raise LogRegressed(msg)

    def _assign(self, number: int, reading: progress.LedgerReading) -> None:
        identity, claimed = self._channel.port.identity, reading.held
        owned = Owned(self._topic.name, number, claimed.epoch)
        self._held[number] = _Held(owned, claimed.pid, claimed.floor)
        self._told.append(
            Assigned(
                owned,
                claimed.floor,
                claimed.holes,
                reading.entries,
                identity.log,
                identity.incarnation,
                claimed.number,
                claimed.oldest,
            )
        )

    def _tips(self) -> dict[int, int]:
        pids = self._topic.pids
        return self._channel.port.look(lambda db: {pid: placed.next_offset(db, pid) for pid in pids})

    async def _read_ahead(self, events_max: int, bytes_max: int) -> tuple[_Held, list[Delivered]] | None:
        """What was read while the last delivery was worked on, cut to what is asked for now; else read now."""
        ahead = self._ahead
        if ahead is not None:
            try:
                found = await asyncio.shield(ahead)  # a cancelled call leaves it for the next one
            finally:
                if ahead.done():
                    self._ahead = None
            if found is not None and not found[0].dead and found[0].owned.partition in self._held:
                held, batches = found
                batches = rules.cut(batches, held.position, events_max)
                return held, list(rules.within(batches, bytes_max))
        return await self._read(events_max, bytes_max)

    async def _read(self, events_max: int, bytes_max: int) -> tuple[_Held, list[Delivered]] | None:
        """The next delivery, partitions in turn; None when all are at their end."""
        tips = self._seen = self._tips()
        count = len(self._topic.pids)
        for step in range(count):
            held = self._held.get((self._turn + step) % count)
            if held is None or held.dead or held.position >= tips[held.pid]:
                continue
            self._turn = (held.owned.partition + 1) % count
            batches = await self._deliver(held, events_max, bytes_max)
            if batches:
                return held, batches
            held.position = tips[held.pid]  # all that was left is quarantined
        return None

    async def _deliver(self, held: _Held, events_max: int, bytes_max: int) -> list[Delivered]:
        topic, partition, start = held.owned.topic, held.owned.partition, held.position
        span = Span(held.pid, start, rules.OFFSET_MAX)
        name = f"topic {topic}/{partition}"
        stored = self._channel.port.look(
            lambda db: placed.read(db, span, events_max=events_max, bytes_max=bytes_max, name=name)
        )

        def decode() -> list[Delivered]:
            return rules.cut(self._channel.decode(stored, topic, partition), start, events_max)

        if sum(len(block.data) for block in stored) < INLINE_BYTES:
            return decode()
        return await self._system.offload.run(decode)

    # -- settling --------------------------------------------------------------------------------------------------

    async def commit(self, step: Step) -> Committed | FencedOff | Unknown:
        """See `Intake`. The fence is checked inside the transaction."""
        held = self._held.get(step.owned.partition)
        if self.left or held is None or held.owned != step.owned:
            return FencedOff(f"{rules.where(step)} is not owned at epoch {step.owned.epoch}")
        async with self._order:
            if held.dead:
                return FencedOff(held.dead)
            reason = self._channel.refuse(step.outputs)
            if reason:
                msg = f"{rules.where(step)}, output {reason}; nothing of the step was stored"
                raise Rejected(msg)
            pending = await self._channel.port.queue(await self._advance(held, step))
        try:
            result = await pending
        except OutcomeUnknown as exc:
            held.dead = str(exc)
            return Unknown(held.dead)
        except TransientError as exc:
            if held.stumble is None or held.stumble[0] > rules.order_of(step):
                held.stumble = (rules.order_of(step), exc)
            raise
        return self._settled(held, step, result)

    def _settled(self, held: _Held, step: Step, result: object) -> Committed | FencedOff:
        if isinstance(result, Overtaken):
            if held.stumble is not None and held.stumble[0] < rules.order_of(step):
                raise held.stumble[1]  # the step before this one was not stored, so this one could not be either
            held.dead = result.reason
            return FencedOff(result.reason)
        if isinstance(result, Refusal):
            msg = f"{result.reason}; nothing of the step was stored"
            raise Rejected(msg)
        assert isinstance(result, Appended)
        held.stumble = None
        return Committed(result.first)

    async def _advance(self, held: _Held, step: Step) -> Advance:
        references = [
            (self._channel.row(topic).pids[partition], first, end - first)
            for topic, partition, first, end in step.settle.references
        ]
        return Advance(
            group_id=self._group.id,
            pid=held.pid,
            epoch=step.owned.epoch,
            before=step.settle.floor_before,
            after=step.settle.floor_after,
            holes=step.settle.holes,
            references=references,
            blocks=await self._channel.encode(step.outputs),
            ledger=[(w.space, w.key, w.value) for w in step.ledger],
            origin=rules.origin_of(step),
            number=step.settle.number,
            oldest=step.settle.oldest,
        )

    async def extend(self, owned: Owned, references: Sequence[int], for_s: float) -> None:
        """See `Intake`: the log keeps ownership, there is nothing to extend."""

    async def leave(self) -> None:
        """See `Intake`."""
        if self.left:
            return
        self.left = True
        if self._ahead is not None:
            self._ahead.cancel()
            with suppress(asyncio.CancelledError, PenstockError):
                await self._ahead
        if self._tidings is not None:
            self._tidings.close()
        self._owner.close()
