"""One member's intake from the embedded log: ownership, reading ahead, and steps in order."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Protocol

import apsw
import msgspec

from penstock.channel import rules, sharing
from penstock.channel.api import (
    Assigned,
    Committed,
    Delivery,
    FencedOff,
    Idle,
    Lost,
    Owned,
    Revoking,
    Step,
    Subscription,
    Taken,
    Unknown,
)
from penstock.channel.drivers.embedded import reach
from penstock.channel.drivers.embedded.port import LogPort
from penstock.errors import BlockDamaged, Closed, LogRegressed, OutcomeUnknown, PenstockError, Rejected, TransientError
from penstock.event.batch import Delivered, NewBatch
from penstock.log import placed, progress, quarantine
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
from penstock.telemetry import emit

SAFETY_LOOK_S = 1.0
ASKED_LOOK_S = 0.05
CONTESTED_LOOK_S = 0.02
"""How soon to look again for a partition that two members were about to claim at once."""
DAMAGED_LOOK_S = 1.0
"""How soon to look again whether events that could not be read can be, or were quarantined."""
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

    `revoked`: it is asked back, and nothing more of it is delivered; `paused`: nothing is at the moment. `bulky`: the
    last delivery was large, so the next one is read off the loop.
    `stumble` is the place of a step that was not stored and may be committed again, and the error it met. `damaged` is
    why the next events cannot be read; they are looked at again at `look_again_s`.
    """

    owned: Owned
    pid: int
    position: int
    dead: str = ""
    revoked: bool = False
    paused: bool = False
    bulky: bool = False
    stumble: tuple[tuple[int, int], TransientError] | None = None
    damaged: BlockDamaged | None = None
    look_again_s: float = 0.0

    def hands_out(self) -> bool:
        """Whether anything of it is handed out at the moment."""
        return not (self.dead or self.revoked or self.paused)


class EmbeddedIntake:
    """See `Intake`. Made by `EmbeddedChannel.join`; used from one task, `commit` may overlap `next`."""

    def __init__(
        self, channel: Host, subscription: Subscription, *, group: GroupRow, topic: TopicRow, system: System
    ) -> None:
        self._channel = channel
        self._subscription = subscription
        self._together = subscription.group.together
        self._group = group
        self._topic = topic
        self._system = system
        self._tidings = channel.port.tidings(topic.pids)
        with ExitStack() as undo:
            undo.callback(self._tidings.close)
            self._company = channel.port.company(
                str(group.id), subscription.member, partitions=len(topic.pids), changed=self._tidings.poke
            )
            undo.pop_all()
        self._looked_s = float("-inf")
        self._settled_with: list[sharing.Seat] | None = None  # the members when there was nothing to change
        self._held: dict[int, _Held] = {}
        self._told: deque[Assigned | Revoking | Lost] = deque()
        self._turn = 0
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
            look_s = CONTESTED_LOOK_S if self._settled_with is None else SAFETY_LOOK_S
            await self._tidings.wait(min(left_s, look_s))

    def _check_here(self) -> None:
        if self.left:
            msg = f"group {self._group.name}: this member has left; join again"
            raise Closed(msg)

    async def _take(self, events_max: int, bytes_max: int) -> Taken:
        self._bury()
        if not self._told:
            await self._share()
        if self._told:
            return self._told.popleft()
        found = await self._read_ahead(events_max, bytes_max)
        if found is None:
            return self._idle()
        held, batches = found
        held.position = batches[-1].end
        # Nothing is read ahead at the end of the log: that look would only delay the handling of what was found.
        if any(h.position < self._seen[h.pid] for h in self._held.values() if h.hands_out() and not h.damaged):
            self._ahead = asyncio.ensure_future(self._read(events_max, bytes_max))
        return Delivery(held.owned, batches)

    def _bury(self) -> None:
        """Tell of the partitions that a commit has found lost; they are claimed again when this member may."""
        for number, held in list(self._held.items()):
            if held.dead:
                del self._held[number]
                self._company.mark(number, None)
                self._told.append(Lost(held.owned, held.dead))

    # -- sharing ---------------------------------------------------------------------------------------------------

    async def _share(self) -> None:
        """Give up what another member should have, and claim what this one should and nobody has."""
        claim = self._give_up()
        if claim and not self._told:
            await self._claim(claim)

    def _give_up(self) -> Sequence[int]:
        """Have the member told of what it lost and asked for what another should have; what this one may claim."""
        self._looked_s = self._system.clock.monotonic_s()
        seats = self._company.seats()
        if seats == self._settled_with:
            return ()
        todo = sharing.moves(self._company.name, seats, len(self._topic.pids), together=self._together)
        for number, by in todo.lost.items():
            held = self._held.get(number)
            if held is not None:
                held.dead = f"group {self._group.name}: {by.label or 'another member'} took partition {number} over"
        self._bury()
        asked = [self._held[number] for number in todo.give if number in self._held and not self._held[number].revoked]
        for held in asked:
            held.revoked = True
            self._told.append(Revoking(held.owned))
        self._settled_with = None if todo.lost or todo.claim else seats
        return todo.claim

    async def _claim(self, numbers: Sequence[int]) -> None:
        """Become the owner of partitions that nobody has. What another member claims at the same time is left to it."""
        for number in numbers:
            self._company.mark(number, sharing.CLAIMING)
        try:
            others = sharing.contested(self._company.name, self._company.seats(), numbers)
            mine = [number for number in numbers if number not in others]
            if mine:
                await self._take_over(mine)
        finally:
            for number in numbers:
                if number not in self._held:
                    self._company.mark(number, None)

    async def _take_over(self, numbers: Sequence[int]) -> None:
        """The claim itself: from here on steps of older epochs are refused."""
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

    def _idle(self) -> Idle:
        """Why there is nothing, when others have something: all partitions, or events they have not settled."""
        mine = {number for number, held in self._held.items() if not held.revoked}
        others = [number for number in range(len(self._topic.pids)) if number not in mine]
        damaged = next((held.damaged for held in self._held.values() if held.hands_out() and held.damaged), None)
        reason = "" if damaged is None else str(damaged)
        if not others:
            return Idle(reason, damaged=damaged)
        seats = self._company.seats()
        if not self._held:
            reason = sharing.told(self._group.name, self._company.name, seats)
        for number in filter(self._unsettled, others):
            unread = self._unread(number)
            if unread is None:
                holder = sharing.holders(seats).get(number)
                who = "nobody" if holder is None else holder.label or "another member"
                behind = f"partition {number} of group {self._group.name} is not settled; {who} has it"
                return Idle(reason, behind, damaged)
            damaged = damaged or unread  # nobody settles it: two that wait for each other's would do so for ever
        return Idle(reason, damaged=damaged)

    def _unsettled(self, number: int) -> bool:
        """Whether there is anything left for somebody to settle: what is quarantined is given to nobody."""
        pid = self._topic.pids[number]

        def look(db: apsw.Connection) -> bool:
            found = progress.progress_of(db, self._group.id, pid)
            floor, holes = (0, ()) if found is None else (found[0].floor, found[0].holes)
            end = placed.next_offset(db, pid)
            left = end - floor - len(holes)
            if left <= 0:
                return False
            for one in quarantine.of(db, pid):
                first, last = max(one.first, floor), min(one.end, end)
                left -= max(0, last - first) - sum(first <= hole < last for hole in holes)
            return left > 0

        return self._channel.port.look(look)

    def _unread(self, number: int) -> BlockDamaged | None:
        """Why whoever has this partition does not go on in it: its next events cannot be read."""
        pid, name = self._topic.pids[number], f"topic {self._topic.name}/{number}"

        def look(db: apsw.Connection) -> None:
            found = progress.progress_of(db, self._group.id, pid)
            span = Span(pid, 0 if found is None else found[0].floor, rules.OFFSET_MAX)
            placed.read(db, placed.kept(db, span), events_max=1, bytes_max=1, name=name)

        try:
            self._channel.port.look(look)
        except BlockDamaged as exc:
            return exc
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
        self._company.mark(number, claimed.epoch)
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

    def _serves(self, held: _Held) -> bool:
        """Whether deliveries of this assignment go on."""
        return self._held.get(held.owned.partition) is held and not (held.dead or held.revoked)

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
            if found is not None and self._serves(found[0]):
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
            if held is None or not held.hands_out() or held.position >= tips[held.pid]:
                continue
            if held.damaged and self._system.clock.monotonic_s() < held.look_again_s:
                continue
            self._turn = (held.owned.partition + 1) % count
            try:
                batches = await self._deliver(held, events_max, bytes_max)
            except BlockDamaged as exc:
                self._stop(held, exc)
                continue
            held.damaged = None
            if batches:
                return held, batches
            held.position = tips[held.pid]  # all that was left is quarantined
        return None

    def _stop(self, held: _Held, damaged: BlockDamaged) -> None:
        """Its next events cannot be read, and none is skipped; the other partitions go on."""
        if held.damaged is None:
            emit.count("penstock_partitions_damaged_total", group=self._group.name)
            emit.log(logging.ERROR, "partition stopped", group=self._group.name, reason=str(damaged))
        held.damaged = damaged
        held.look_again_s = self._system.clock.monotonic_s() + DAMAGED_LOOK_S

    async def _deliver(self, held: _Held, events_max: int, bytes_max: int) -> list[Delivered]:
        topic, partition, start = held.owned.topic, held.owned.partition, held.position
        span = Span(held.pid, start, rules.OFFSET_MAX)
        name = f"topic {topic}/{partition}"

        def read() -> list[Stored]:
            return self._channel.port.look(
                lambda db: placed.read(db, span, events_max=events_max, bytes_max=bytes_max, name=name)
            )

        def decode(stored: Sequence[Stored]) -> list[Delivered]:
            held.bulky = sum(len(block.data) for block in stored) >= INLINE_BYTES
            return rules.cut(self._channel.decode(stored, topic, partition), start, events_max)

        if held.bulky:
            return await self._system.offload.run(lambda: decode(read()))
        stored = read()
        if sum(len(block.data) for block in stored) < INLINE_BYTES:
            return decode(stored)
        return await self._system.offload.run(lambda: decode(stored))

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

    def pause(self, owned: Owned, *, on: bool) -> None:
        """See `Intake`."""
        held = self._held.get(owned.partition)
        if held is not None and held.owned == owned and held.paused != on:
            held.paused = on
            self._tidings.poke()

    def asked(self) -> Sequence[Owned]:
        """See `Intake`. The other members are looked at now and then."""
        if not self.left and self._system.clock.monotonic_s() - self._looked_s >= ASKED_LOOK_S:
            self._give_up()
        lost = [told.owned for told in self._told if isinstance(told, Lost)]
        return [*lost, *(held.owned for held in self._held.values() if held.revoked or held.dead)]

    async def leave(self, owned: Owned | None = None) -> None:
        """See `Intake`."""
        if owned is not None:
            held = self._held.get(owned.partition)
            if held is not None and held.owned == owned:
                del self._held[owned.partition]
                self._company.mark(owned.partition, None)
            return
        if self.left:
            return
        self.left = True
        if self._ahead is not None:
            self._ahead.cancel()
            with suppress(asyncio.CancelledError, PenstockError):
                await self._ahead
        self._tidings.close()
        self._company.close()
