"""A handler whose events of different keys run side by side: order inside a key, progress by floor and holes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence

import msgspec

from penstock.channel.api import Assigned, Delivery, LedgerWrite, Subscription
from penstock.delivery.lot import Head
from penstock.engine.calling import Gave, OutputRefused, Raised, Sealing, call_async
from penstock.engine.handler import HandlerSpec
from penstock.engine.handling import STEP_BYTES_MAX, HandlerWork
from penstock.engine.parts import Part, parts_of
from penstock.engine.place import Place
from penstock.engine.results import Cause, Made, Topics
from penstock.engine.watching import Hand
from penstock.engine.work import Draft, Read, Stopping
from penstock.errors import PenstockError
from penstock.system.ports import System
from penstock.system.slots import SIDE_BY_SIDE, Slot

WINDOW_MAX = 5_000
"""How far beyond the floor events are begun: what is settled there are holes, and those are bounded."""
STEP_EVERY_S = 0.02
QUEUED_MAX = 2_000
"""Events of a partition that wait behind one of their key that is being handled."""

Lane = tuple[int, bytes]
"""A partition and what tells a key."""


class _Waiting(msgspec.Struct, eq=False):
    """An event that is being handled, or waits for one of its key that is. `head`: it was parked."""

    place: Place
    part: Part
    offset: int
    head: Head | None = None


class _Progress(msgspec.Struct, eq=False):
    """One partition: everything below `floor` is settled, and each of `done` above; `taken` comes next.

    `finished` events are handled, and their results not validated yet: many at once cost less. `full` are the drafts of
    what was too much for one step, in order.
    """

    floor: int
    taken: int
    made: Made
    done: set[int]
    finished: list[tuple[_Waiting, Gave]]
    full: deque[Draft]
    alone_until: int = 0
    stepped_s: float = float("-inf")
    queued: int = 0
    crowded: bool = False
    """Too much is begun: the rest is put aside, so that a slow event holds up no other partition, nor what is due."""

    def look(self) -> bool:
        """Whether it is crowded: from a bound on, and until there is room for much."""
        part = 2 if self.crowded else 1
        self.crowded = self.taken - self.floor >= WINDOW_MAX // part or self.queued >= QUEUED_MAX // part
        return self.crowded

    def settled(self, offset: int) -> None:
        """It needs no more work."""
        self.done.add(offset)
        while self.floor in self.done:
            self.done.discard(self.floor)
            self.floor += 1


class ConcurrentWork(HandlerWork):
    """See `HandlerWork`. At most `spec.concurrency` events are handled at once, never two of one key.

    When the process dies nobody can say which of them killed it: the next owner runs those that were not settled one
    by one, and charges a death only to an event that was alone.
    """

    def __init__(
        self, spec: HandlerSpec, subscription: Subscription, topics: Topics, *, system: System, read: Read
    ) -> None:
        super().__init__(spec, subscription, topics, system=system, read=read)
        self.news = self._told = asyncio.Event()
        self._lanes: dict[Lane, deque[_Waiting]] = {}
        self._at: dict[asyncio.Task[None], int] = {}  # who is at work, and on which partition
        self._ready: deque[tuple[Lane, _Waiting]] = deque()
        self._progress: dict[int, _Progress] = {}
        self._hands: dict[asyncio.Task[None], memoryview] = {}  # what each of them handles: partition + 1, offset
        self._error: BaseException | None = None
        self._suspects = False
        self._sealing = Sealing(topics.into)

    # -- ownership -------------------------------------------------------------------------------------------------

    async def assigned(self, assigned: Assigned, slot: Slot | None, stopping: Stopping) -> Sequence[LedgerWrite]:
        """See `Work`."""
        if slot is not None and slot.left_side_by_side():
            self._suspects = True
            if slot.left() is None:
                slot.clear()
        writes = await super().assigned(assigned, slot, stopping)
        place = self._places[assigned.owned.partition]
        until = assigned.floor + WINDOW_MAX if self._suspects else max(place.deaths, default=-1) + 1
        made = self._made(place)
        self._progress[place.partition] = _Progress(
            assigned.floor, assigned.floor, made, set(assigned.holes), [], deque(), until
        )
        return writes

    async def finish(self, partition: int) -> AsyncGenerator[Draft]:
        """See `Work`: what is being handled of it is waited for, what is only begun is left to the next owner."""
        self._forget_ready(partition)
        while partition in self._at.values():
            if self._error is not None:
                raise self._error
            self._told.clear()
            await self._told.wait()
        for draft in self._drafts(everything=True, only=partition):
            yield draft

    def left(self, partition: int | None = None) -> None:
        """See `Work`: what is being handled of it is cancelled, and handled again by the next owner."""
        for number in list(self._progress) if partition is None else [partition]:
            self._forget_ready(number)
            for task in [task for task, at in self._at.items() if at == number]:
                task.cancel()
                del self._at[task]
            for lane in [lane for lane in self._lanes if lane[0] == number]:
                del self._lanes[lane]
            self._progress.pop(number, None)
        if partition is None:
            self._error = None
        super().left(partition)

    def _forget_ready(self, partition: int) -> None:
        self._ready = deque(one for one in self._ready if one[0][0] != partition)

    # -- new events ------------------------------------------------------------------------------------------------

    async def process(self, delivery: Delivery, stopping: Stopping) -> AsyncGenerator[Draft]:
        """See `Work`. It returns when everything is begun, or waits for one of its key; `due` has the rest."""
        place = self._places[delivery.owned.partition]
        progress = self._progress[place.partition]
        batches = place.with_aside(delivery.batches)
        alone = [batch for batch in batches if batch.first < progress.alone_until]
        if alone:
            async for draft in self._one_by_one(place, progress, Delivery(delivery.owned, alone), stopping):
                yield draft
            if place.aside:
                place.put_aside([*place.aside, *batches[len(alone) :]])
                return
        for delivered in parts_of(batches[len(alone) :]):
            if stopping():
                return
            part = Part(delivered, self._topics.source)
            for gap in range(progress.taken, part.first):  # settled before, by an owner before this one
                progress.settled(gap)
            progress.taken = part.first
            while progress.taken < part.end:
                async for draft in self._room(place, progress, stopping):
                    yield draft
                if stopping():
                    return
                if place.paused() or progress.look():
                    place.put_aside([batch.tail(progress.taken) for batch in batches if batch.end > progress.taken])
                    return
                self._begin(_Waiting(place, part, progress.taken))
                progress.taken += 1

    async def _one_by_one(
        self, place: Place, progress: _Progress, delivery: Delivery, stopping: Stopping
    ) -> AsyncGenerator[Draft]:
        """Suspects: what was begun beside an event that killed the process; beside other partitions' events, too."""
        while self._at and not stopping():
            self._told.clear()
            for draft in self._drafts(everything=False):
                yield draft
            if self._at:
                await self._told.wait()
        if stopping():
            return
        while self._unsaid(progress):  # what was handled before stands in a step before
            for draft in self._drafts(everything=True, only=place.partition):
                yield draft
        async for draft in super().process(delivery, stopping):
            if draft.after is not None:
                progress.floor = progress.taken = draft.after
            yield draft
        if progress.taken >= progress.alone_until:
            self._suspects = False

    async def _room(self, place: Place, progress: _Progress, stopping: Stopping) -> AsyncGenerator[Draft]:
        """Wait until one more event may be begun, or none may."""
        while not (stopping() or place.paused()):
            if progress.taken - progress.floor >= WINDOW_MAX:  # much of it may be finished
                for draft in self._drafts(everything=True, only=place.partition):
                    yield draft
            if len(self._ready) < self._spec.concurrency or progress.look():
                return
            self._told.clear()
            for draft in self._drafts(everything=False):
                yield draft
            if self._at:
                await self._told.wait()

    # -- side by side ----------------------------------------------------------------------------------------------

    def _begin(self, waiting: _Waiting) -> None:
        """Handle the event, or queue it behind one of its key."""
        place, part, offset = waiting.place, waiting.part, waiting.offset
        if waiting.head is None and offset in part.broken:
            self._progress[place.partition].made.inputs.append(part.delivered)
            self._progress[place.partition].made.letter(
                part.delivered, offset, Cause(part.broken[offset], "DecodeError")
            )
            self._done(waiting)
            return
        ident = part.ident(offset)  # a redriven event's too: its place in the lot is its own, its key is not
        lane = (place.partition, ident)
        if waiting.head is None and ident in place.lot.heads:
            place.lot.follow(ident, (offset,))
            self._progress[place.partition].settled(offset)
            return
        if lane in self._lanes:
            self._lanes[lane].append(waiting)
            self._progress[place.partition].queued += 1
            return
        self._lanes[lane] = deque()
        self._start(lane, waiting)

    def _start(self, lane: Lane, waiting: _Waiting) -> None:
        self._ready.append((lane, waiting))
        if len(self._at) < self._spec.concurrency:
            words = self._slot.words
            words[1] = SIDE_BY_SIDE
            words[0] = waiting.place.partition + 1
            task = asyncio.ensure_future(self._work())
            self._at[task] = waiting.place.partition
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """What ends one of them ends the group, and not in silence."""
        self._hands.pop(task, None)
        if task not in self._at:
            return
        if task.cancelled():
            self._error = PenstockError(f"handler {self.name} was cancelled from inside; it has not ended")
        else:
            self._error = task.exception()
        self._told.set()

    async def _work(self) -> None:
        """One of those that run side by side: event after event, as long as there are any."""
        task = asyncio.current_task()
        assert task is not None
        mine = self._hands[task] = memoryview(bytearray(32)).cast("Q")
        while self._ready and not self._stopping():
            lane, waiting = self._ready.popleft()
            self._at[task] = lane[0]
            mine[3] += 1
            mine[0] = lane[0] + 1
            head, part, offset = waiting.head, waiting.part, waiting.offset
            attempt = 1 if head is None else head.attempts + 1
            again, marks = 0 if head is None else head.again, waiting.place.marks
            handler = self._bound(part.delivered, attempt, again, marks=marks, words=mine)
            gave = Gave(self._sealing)
            pair = iter(((offset, part.events[offset - part.first]),))
            raised = await call_async(handler, pair, mine, gave)
            mine[0] = 0
            if task not in self._at:  # the partition is somebody else's
                return
            if gave.rejected:
                raised = Raised(offset, gave.rejected.pop()[1])
            self._handled(lane, waiting, raised, gave)
            if len(self._ready) < self._spec.concurrency // 2:
                self._told.set()
        del self._at[task]
        if not self._at:
            self._slot.words[0] = 0
        self._told.set()

    def in_hand(self) -> Sequence[Hand]:
        """See `Watched`."""
        hands = [
            Hand((id(task), mine[3], mine[1]), mine[0] - 1, mine[1], task.get_coro())
            for task, mine in list(self._hands.items())
            if mine[0]
        ]
        return [*super().in_hand(), *hands]

    def _handled(self, lane: Lane, waiting: _Waiting, raised: Raised | None, gave: Gave) -> None:
        """Take the results, or what was raised, and go on with the key's next event."""
        place, head = waiting.place, waiting.head
        progress = self._progress[place.partition]
        if raised is None and head is None and self._spec.on_failure.given_up == "continue":
            place.succeeded()
            progress.finished.append((waiting, gave))
            queue = self._lanes.pop(lane)
            if queue:
                self._next_of(lane, place, queue)
            return
        self._take_all_finished(progress)  # some may be of this key, and were before it
        made = progress.made
        if not made.inputs or made.inputs[-1] is not waiting.part.delivered:
            made.inputs.append(waiting.part.delivered)
        if raised is None:
            made.gave = gave
            if head is not None:
                self._mark(head, made)
            cut = made.gather(whole=False)
            if cut is not None:
                raised = Raised(waiting.offset, OutputRefused(cut.reason))
        queue = self._lanes.pop(lane)
        if raised is None:
            place.succeeded()
            made.mark(place.marks.settle(waiting.offset))
            if head is not None:
                self._settled(place, head, made, b"handled", self._now())
            else:
                self._done(waiting)
        elif head is not None:
            self._failed_again(place, waiting.part.delivered, head, raised.take(), made)
        else:
            self._failed_first(waiting, raised, made)
        place.marks.drop(waiting.offset)  # unless they are settled
        self._fill(progress)
        if queue:
            self._next_of(lane, place, queue)

    def _failed_first(self, waiting: _Waiting, raised: Raised, made: Made) -> None:
        """Park the event, or give it up: it is settled either way."""
        place, part, offset = waiting.place, waiting.part, waiting.offset
        taken = len(place.lot.heads)
        self._park_or_give_up(place, part, raised.take(), made, place.new_head(part, offset))
        if len(place.lot.heads) == taken:
            made.events += 1
        self._progress[place.partition].settled(offset)

    def _next_of(self, lane: Lane, place: Place, queue: deque[_Waiting]) -> None:
        """What waited behind a handled event: the next is handled, or what is new is parked behind a parked one."""
        if lane[1] in place.lot.heads:
            new = [waiting for waiting in queue if waiting.head is None]
            for waiting in new:
                place.lot.follow(lane[1], (waiting.offset,))
                self._progress[place.partition].settled(waiting.offset)
            self._progress[place.partition].queued -= len(new)
            queue = deque(waiting for waiting in queue if waiting.head is not None)
            if not queue:
                return
        self._progress[place.partition].queued -= 1
        following = queue.popleft()
        self._lanes[lane] = queue
        self._start(lane, following)

    def _done(self, waiting: _Waiting) -> None:
        progress = self._progress[waiting.place.partition]
        progress.made.events += 1
        progress.made.ledger += waiting.place.forgive(waiting.offset)
        progress.settled(waiting.offset)

    # -- parked events and steps -----------------------------------------------------------------------------------

    async def due(self, *, everything: bool) -> AsyncGenerator[Draft]:
        """See `Work`: parked events are begun, and what has been handled since the last step is one."""
        self._told.clear()
        for place in list(self._places.values()):
            await self._retried_here(place, self._stopping)
        while everything and self._at:
            if self._error is not None:
                raise self._error
            await self._told.wait()
            self._told.clear()
        for draft in self._drafts(everything=everything):
            yield draft

    async def _retried_here(self, place: Place, stopping: Stopping) -> None:
        """Begin the parked events that are due."""
        if stopping():
            return
        progress, said = self._progress[place.partition], self._made(place)
        await self._commanded(place, said)
        progress.made.ledger += said.ledger  # only now: what is handled meanwhile may fill a step
        now, due_s = self._now(), place.next_due_s()
        place.let_go()
        if due_s is None or due_s > now.s:
            return
        for head in place.lot.due(now.s):
            full = len(self._ready) >= self._spec.concurrency or progress.queued >= QUEUED_MAX
            if full or (place.open and any(lane[0] == place.partition for lane in self._lanes)):
                return  # an open breaker lets one event through at a time
            if self._suspects or head.offset in place.deaths:
                if self._at:
                    return
                self._take_all_finished(progress)
                await self._retry(place, head, progress.made, now)
                if place.open:
                    return
                continue
            part = await place.fetch(head, self._topics.source, self._read)
            if part is None:
                self._passed_over(place, head, progress.made, now)
                continue
            place.lot.lend(head)
            if head.offset in part.broken:
                self._lay_down_broken(place, part, head, progress.made)
                continue
            self._begin(_Waiting(place, part, head.offset, head))

    def _has_room(self, place: Place) -> bool:
        return super()._has_room(place) and not self._progress[place.partition].look()

    def wait_s(self) -> float | None:
        """See `Work`."""
        if self._at:
            return STEP_EVERY_S
        if any(self._unsaid(progress) for progress in self._progress.values()):
            return 0.0
        return super().wait_s()

    def _unsaid(self, progress: _Progress) -> bool:
        place = self._places[progress.made.partition]
        made = progress.made
        return bool(progress.full or progress.finished or made or made.events or place.lot.dirty)

    def _take_finished(self, progress: _Progress) -> None:
        """Results of what is finished become part of the step, as many as it can hold."""
        finished, made = progress.finished, progress.made
        for waiting, gave in finished:
            made.gave.add(gave)
            if not made.inputs or made.inputs[-1] is not waiting.part.delivered:
                made.inputs.append(waiting.part.delivered)
        cut = made.gather()
        count = (
            len(finished) if cut is None else next(i for i, one in enumerate(finished) if one[0].offset == cut.offset)
        )
        progress.finished = finished[count:]
        for waiting, _ in finished[:count]:
            made.mark(waiting.place.marks.settle(waiting.offset))
            self._done(waiting)

    def _take_all_finished(self, progress: _Progress) -> None:
        while progress.finished:
            self._take_finished(progress)
            self._fill(progress)

    def _fill(self, progress: _Progress) -> None:
        """What is enough for a step becomes one, though nobody can send it yet: more would be too much."""
        if progress.made.size >= STEP_BYTES_MAX:
            progress.full.append(self._next_draft(progress))

    def _next_draft(self, progress: _Progress) -> Draft:
        place, made = self._places[progress.made.partition], progress.made
        progress.made = self._made(place)
        return msgspec.structs.replace(self._draft(place, made, progress.floor), holes=sorted(progress.done))

    def _drafts(self, *, everything: bool, only: int | None = None) -> Iterator[Draft]:
        """A step for each partition where something was settled; small ones wait for one another.

        Each is made when it is asked for: while one is sent, another partition may be lost.
        """
        if self._error is not None:
            raise self._error
        for partition in list(self._progress) if only is None else [only]:
            while (filled := self._progress.get(partition)) is not None and filled.full:
                yield filled.full.popleft()
            progress, now_s = self._progress.get(partition), self._system.clock.monotonic_s()
            if progress is None or not self._unsaid(progress):
                continue
            early = now_s - progress.stepped_s < STEP_EVERY_S and progress.made.size < STEP_BYTES_MAX
            if early and self._at and not everything:
                continue
            self._take_finished(progress)
            progress.stepped_s = now_s
            yield self._next_draft(progress)
