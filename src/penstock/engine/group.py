"""Runs one consumer group: takes from the channel, lets the work handle it, commits the steps, joins again when needed.

The way of one event: `Intake.next` → `Membership.taken` → `Work.process` → `Membership.step` → `Intake.commit`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing, suppress

import msgspec

from penstock.channel.api import Channel, Idle, Intake, Owned, Taken
from penstock.engine.flight import Flight, Refused
from penstock.engine.machine import Begin, Drop, Hand, Handle, Membership, Rejoin, Rest, Skip
from penstock.engine.pausing import waited
from penstock.engine.work import Draft, Gauge, Work
from penstock.errors import BlockDamaged, Fenced, OffsetOutOfRange, PenstockError, TransientError
from penstock.system.ports import Clock, System
from penstock.system.slots import Slot
from penstock.telemetry import emit

EVENTS_MAX = 50_000
BYTES_MAX = 8_000_000
WAIT_S = 1.0
PROGRESS_EVERY_S = 0.02
"""A step that only says how far a group is waits so long for the next one: every commit costs a sync."""
REJOIN_FIRST_S = 0.05
REJOIN_MAX_S = 5.0

Slots = Callable[[str, int], Slot | None]
"""(group, partition) → this worker's attempts slot, as the owner of the partition; None where there is none."""


class Unread(BlockDamaged):
    """A group ends: all that can be read of its topic is settled, by others too. Other groups may go on."""


class GroupState(msgspec.Struct):
    """What a group or a source is doing, for reports.

    `state` is one of starting, running, idle, waiting, done, failed; `events`, `dead` and `steps` count what is
    permanent; `repeated` counts a source's events that the log had already; `gauge` says what waits; `stopped` why one
    of its partitions stands still while the others go on.
    """

    name: str
    kind: str
    topic: str
    state: str = "starting"
    reason: str = ""
    stopped: str = ""
    events: int = 0
    dead: int = 0
    steps: int = 0
    repeated: int = 0
    gauge: Gauge = msgspec.field(default_factory=Gauge)


class Group:
    """One member of one group. `run` is called once; `stop` may be called at any time from the same loop.

    Args:
        channel: open, with the group's topics declared.
        work: what is done with the events.
        system: clock and threads.
        slots: where attempts are kept across the death of the process.
        ended: whether nothing will be written to the group's topic any more; then the group ends when it has caught
            up. None: it goes on until it is stopped.
    """

    def __init__(
        self,
        channel: Channel,
        work: Work,
        *,
        system: System,
        slots: Slots | None = None,
        ended: Callable[[], bool] | None = None,
    ) -> None:
        self._channel = channel
        self._work = work
        self._system = system
        self._slots = slots
        self._ended = ended
        self._stopping = False
        self._asked: asyncio.Task[Taken] | None = None
        self._passed = False
        self._asked_for_all = True
        group = work.subscription.group
        self.state = GroupState(group.name, group.kind, group.topic, gauge=work.gauge)

    @property
    def work(self) -> Work:
        """What is done with the events."""
        return self._work

    def stop(self) -> None:
        """Finish what is in hand, commit it, and end; asked twice it changes nothing."""
        self._stopping = True
        if self._asked is not None:
            self._asked.cancel()

    def stopping(self) -> bool:
        """See `Stopping`."""
        return self._stopping

    async def run(self) -> None:
        """Work until stopped or ended.

        Raises:
            PenstockError: what stops the group for good (damage, a broken rule, a closed log); nothing was skipped.
        """
        pause = REJOIN_FIRST_S
        try:
            while not self._stopping:
                before = self.state.steps
                reason = await self._membership()
                if not reason:
                    break
                self.state.state, self.state.reason = "waiting", reason
                emit.count("penstock_group_rejoins_total", group=self.state.name)
                emit.log(logging.WARNING, "group joins again", group=self.state.name, reason=reason)
                pause = REJOIN_FIRST_S if self.state.steps > before else min(REJOIN_MAX_S, pause * 2)
                await waited(self._system.clock, pause, self.stopping)
            self.state.state = "done"
        except Exception as exc:
            self.state.state, self.state.reason = "failed", str(exc)
            exc.add_note(f"in group {self.state.name}, which reads topic {self.state.topic}")
            raise
        finally:
            await self._work.close()

    async def _membership(self) -> str:
        """From joining to leaving; returns why to join again, empty to end."""
        try:
            intake = await self._channel.join(self._work.subscription)
        except TransientError as exc:
            return str(exc)
        member = _Member(self, intake, self._work, self._system.clock)
        try:
            with emit.span("penstock.membership", group=self.state.name):
                return await self._take(intake, member)
        except (TransientError, Fenced) as exc:  # what was not stored is delivered again, to whoever owns it now
            return str(exc)
        except OffsetOutOfRange as exc:
            # What a process that stood still asks for, its heir may have settled, and then it may be gone. Joining
            # again tells who owns it: a heir that finds its place gone raises this once more, before it is assigned.
            if self._passed:
                raise
            self._passed = True
            return str(exc)
        except GeneratorExit:  # it is thrown away: there is no loop any more to wait in
            self._asked = None
            raise
        finally:
            await self._ask_no_more()
            await member.drop()
            self._work.left()
            await intake.leave()

    async def _ask_no_more(self) -> None:
        asked, self._asked = self._asked, None
        if asked is not None:
            asked.cancel()
            await asyncio.wait((asked,))
            with suppress(PenstockError, asyncio.CancelledError):
                asked.result()

    async def _take(self, intake: Intake, member: _Member) -> str:
        membership = member.membership
        while not self._stopping:
            ended = self._ended is not None and self._ended()
            member.pause(self._work.paused())
            taken = self._work.resumed() or await self._next(intake, member)
            if taken is None:
                await member.said()
                await member.breathe()
                continue
            action = membership.taken(taken) if not self._stopping else Rest()
            match action:
                case Begin():
                    self._passed = False
                    partition = action.assigned.owned.partition
                    slot = None if self._slots is None else self._slots(self.state.name, partition)
                    await member.begin(action, slot)
                case Handle():
                    self.state.state, self.state.reason = "running", ""
                    await member.handle(action)
                case Skip():
                    await member.skip(action)
                case Rest():
                    await self._rest(member, action, ended=ended)
                    if ended and self._at_end(member, action):
                        break
                case Hand():
                    await member.hand(action.owned)
                case Drop():
                    member.lost(action)
                case Rejoin():
                    return action.reason
            await member.parked()
            await member.breathe()
        await member.finish()
        return "a step was refused at the end" if member.refused else ""

    def _at_end(self, member: _Member, action: Rest) -> bool:
        """Whether everything is settled, by others too.

        Raises:
            Unread: everything that can be read is, and there is more that cannot.
        """
        left_out = member.paused or not self._asked_for_all or self._work.wait_s() is not None
        if left_out or action.behind or self._stopping or member.refused:
            return False
        if action.damaged is not None:
            raise Unread(str(action.damaged)) from action.damaged
        if self._work.gauge.unread:
            raise Unread(self._work.gauge.unread)
        return not action.reason

    async def _next(self, intake: Intake, member: _Member) -> Taken | None:
        """Ask, and be ready to be stopped while waiting; None when the work has something to say first."""
        if self._asked is None:
            wait_s = PROGRESS_EVERY_S if member.busy else min(WAIT_S, 0.05 if self._ended is not None else WAIT_S)
            parked_s = self._work.wait_s()
            wait_s = wait_s if parked_s is None else min(wait_s, parked_s)
            asked = intake.next(events_max=EVENTS_MAX, bytes_max=BYTES_MAX, wait_s=wait_s)
            self._asked = asyncio.ensure_future(asked)
            self._asked_for_all = not member.paused  # the answer may come when nothing is paused any more
        try:
            if self._work.news is not None and not await _first(self._asked, self._work.news):
                return None
            taken = await self._asked
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._stopping and (task is None or not task.cancelling()):
                self._asked = None
                return _NOTHING
            self._asked.cancel()
            raise
        self._asked = None
        return taken

    async def _rest(self, member: _Member, action: Rest, *, ended: bool) -> None:
        self.state.state = "waiting" if action.reason else "idle"
        self.state.stopped = "" if action.damaged is None else str(action.damaged)
        if action.reason != self.state.reason:
            self.state.reason = action.reason
            if action.reason and action.damaged is None:  # of that the log knows: it goes on while the others work
                emit.log(logging.INFO, "group waits", group=self.state.name, reason=action.reason)
        await member.due(everything=ended)
        await member.settled()


async def _first(asked: asyncio.Future[Taken], news: asyncio.Event) -> bool:
    """Whether what was asked is answered, and not only the work has news."""
    told = asyncio.ensure_future(news.wait())
    try:
        await asyncio.wait((asked, told), return_when=asyncio.FIRST_COMPLETED)
    finally:
        told.cancel()
    return asked.done()


class _Member:
    """From what the work says to steps: one membership. What befalls one partition leaves the others alone."""

    def __init__(self, group: Group, intake: Intake, work: Work, clock: Clock) -> None:
        state = group.state
        self.membership = Membership(state.name)
        self._flight = Flight(intake, clock, stopping=group.stopping, settled=self._permanent, waiting=self._waiting)
        self._kept: dict[int, Draft] = {}  # by partition: drafts that only move its floor
        self._stepped_s = float("-inf")
        self._intake = intake
        self._group = group
        self._clock = clock
        self._work = work
        self._state = state
        self._said_s = clock.monotonic_s()
        self.refused = False
        self.paused: set[Owned] = set()

    @property
    def busy(self) -> bool:
        """Whether anything that was worked on is not permanent yet."""
        return bool(self._flight or self._kept)

    # -- partitions that come and go -------------------------------------------------------------------------------

    async def begin(self, action: Begin, slot: Slot | None) -> None:
        """Take a partition over."""
        owned = action.assigned.owned
        ledger = await self._work.assigned(action.assigned, slot, self._group.stopping)
        if not ledger:
            return
        step = self.membership.ledger_step(owned.partition, ledger)
        self._apart(await self._flight.send(None, step))
        await self.settled()
        if slot is not None and self.membership.owns(owned):
            slot.clear()  # what it said is on record now, and not before

    async def hand(self, owned: Owned) -> None:
        """Everything of the partition that is in hand becomes permanent, then it is given up."""
        await self._each(self._work.finish(owned.partition))
        kept = self._kept.pop(owned.partition, None)
        if kept is not None:
            await self._step(kept)
        await self.settled()
        self._gone(owned)
        await self._intake.leave(owned)

    def lost(self, action: Drop) -> None:
        """The partition is somebody else's, or will be assigned anew."""
        if self._gone(action.owned):
            emit.count("penstock_partitions_lost_total", group=self._state.name)
            emit.log(logging.WARNING, "partition lost", group=self._state.name, reason=action.reason)

    def _gone(self, owned: Owned) -> bool:
        if not self.membership.gone(owned):
            return False
        self._kept.pop(owned.partition, None)
        self._work.left(owned.partition)
        return True

    def _apart(self, refused: Sequence[Refused]) -> None:
        """Steps that were not stored: their partitions are not ours any more."""
        for step, outcome in refused:
            drop = self.membership.answered(step.owned, outcome)
            if drop is not None:
                self.refused = True
                self.lost(drop)

    async def breathe(self) -> None:
        """After a refused step: whoever is at the partition too gets a moment."""
        if self.refused:
            self.refused = False
            await waited(self._clock, REJOIN_FIRST_S, self._group.stopping)

    # -- work ------------------------------------------------------------------------------------------------------

    async def skip(self, action: Skip) -> None:
        """Only the floor moves."""
        await self._step_or_keep(action.draft)

    async def handle(self, action: Handle) -> None:
        """Work on a delivery, until it is settled or its partition is asked back or gone."""
        owned = action.delivery.owned

        def stopping() -> bool:
            return self._group.stopping() or not self.membership.owns(owned) or owned in self._intake.asked()

        async with aclosing(self._work.process(action.delivery, stopping)) as drafts:
            async for draft in drafts:
                await self._step_or_keep(draft)
                for other in self._intake.asked():
                    if other != owned and self.membership.owns(other):
                        await self.hand(other)  # whoever waits for it does not wait for the end of this delivery
                if not self.membership.owns(owned):
                    return

    def pause(self, paused: Collection[Owned]) -> None:
        """Of these partitions nothing more is wanted at the moment; of the others it is."""
        for owned in self.paused.difference(paused):
            self._intake.pause(owned, on=False)
        for owned in set(paused) - self.paused:
            self._intake.pause(owned, on=True)
        self.paused = set(paused)

    async def due(self, *, everything: bool) -> None:
        """What the work has kept back, and what is kept back here: it is quiet."""
        self._said_s = self._clock.monotonic_s()
        await self._each(self._work.due(everything=everything))
        while self._kept:
            _, draft = self._kept.popitem()
            await self._step(draft)

    async def parked(self) -> None:
        """What waited for a time that has come, or for a quiet moment for too long."""
        wait_s = self._work.wait_s()
        late = self._clock.monotonic_s() - self._said_s >= WAIT_S
        if late or (wait_s is not None and wait_s <= 0):
            await self.said()

    async def said(self) -> None:
        """What the work has to say by now."""
        self._said_s = self._clock.monotonic_s()
        await self._each(self._work.due(everything=False))

    async def _each(self, drafts: AsyncGenerator[Draft]) -> None:
        async with aclosing(drafts):
            async for draft in drafts:
                await self._step_or_keep(draft)

    # -- steps -----------------------------------------------------------------------------------------------------

    async def _step_or_keep(self, draft: Draft) -> None:
        if not self.membership.works_on(draft.partition):
            return  # it has gone since the draft was made
        kept = self._kept.pop(draft.partition, None)
        if kept is not None:
            after = kept.after if draft.after is None else draft.after
            draft = msgspec.structs.replace(draft, after=after, events=kept.events + draft.events)
        bare = not (draft.outputs or draft.ledger or draft.references)
        if bare and self._clock.monotonic_s() - self._stepped_s < PROGRESS_EVERY_S:
            self._kept[draft.partition] = draft
        else:
            await self._step(draft)

    async def _step(self, draft: Draft) -> None:
        """Send it, unless its partition has gone meanwhile."""
        self._stepped_s = self._clock.monotonic_s()
        self._apart(await self._flight.room())
        if self.membership.works_on(draft.partition):
            self._apart(await self._flight.send(draft, self.membership.step(draft)))

    async def finish(self) -> None:
        """Everything that is in hand becomes permanent."""
        await self.due(everything=True)
        await self.settled()

    async def settled(self) -> None:
        """Wait for every step in flight."""
        self._apart(await self._flight.land())

    async def drop(self) -> None:
        """See `Flight.drop`."""
        await self._flight.drop()

    def _permanent(self, draft: Draft | None) -> None:
        if draft is not None:
            self._state.steps += 1
            self._state.events += draft.events
            self._state.dead += draft.dead
            self._work.committed(draft)

    def _waiting(self, reason: str) -> None:
        self._state.state, self._state.reason = "waiting", reason


_NOTHING = Idle()
