"""A handler's work: call it per event, collect results and dead letters, park what fails, count attempts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Sequence

import msgspec

from penstock.channel.api import Assigned, Delivery, LedgerWrite, Owned, Subscription
from penstock.delivery.deadletter import with_try
from penstock.delivery.lot import Head, Now
from penstock.engine.again import Again, Line
from penstock.engine.calling import Raised
from penstock.engine.commands import Commands, unread
from penstock.engine.failing import Failed, Failures
from penstock.engine.handler import Handler, HandlerSpec
from penstock.engine.parts import Part, parts_of
from penstock.engine.place import SPACES, Place
from penstock.engine.results import Cause, Made, Topics
from penstock.engine.work import Draft, Gauge, Read, Stopping
from penstock.errors import Reject
from penstock.event.batch import Delivered
from penstock.system.ports import System
from penstock.system.slots import Slot
from penstock.telemetry import emit

STEP_S_MAX = 0.5
STEP_BYTES_MAX = 4_000_000
SLICE_S = 0.05
TOGETHER_MAX = 1_000


class HandlerWork(Handler):
    """See `Work`. Events of one key are handled one after the other, in offset order.

    Delivery guarantee: that of the channel's step: results, dead letters, what is parked and progress become permanent
    together. The handler's own side effects happen at least once.
    """

    def __init__(
        self, spec: HandlerSpec, subscription: Subscription, topics: Topics, *, system: System, read: Read
    ) -> None:
        super().__init__(spec, topics, system)
        self.subscription = msgspec.structs.replace(subscription, ledger_spaces=SPACES)
        self.gauge = Gauge()
        self.news: asyncio.Event | None = None
        self._read = read
        self._places: dict[int, Place] = {}
        self._stopping: Stopping = lambda: False
        self._size = 1  # a slow handler must not be asked for many events before the first look at the clock

    # -- ownership -------------------------------------------------------------------------------------------------

    async def assigned(self, assigned: Assigned, slot: Slot | None, stopping: Stopping) -> Sequence[LedgerWrite]:
        """See `Work`. An event that was being handled when the last owner died is charged an attempt."""
        partition = assigned.owned.partition
        commands = Commands(self._spec.name, self._topics.commands, partition, assigned.ledger)
        place = Place(assigned, self._spec.on_failure, commands, self._now())
        self._places[place.partition] = place
        self._stopping = stopping
        if self._spec.on_failure.given_up == "continue":
            place.release(self._now())
        self._measure()
        if slot is None:
            return ()
        self._slot = slot
        left = slot.left()
        if left is None or left[0] != place.partition:
            return ()
        offset, mark = left[1], slot.clears.to_bytes(8)
        settled = offset < assigned.floor and not place.lot.waits(offset)
        if settled or offset in assigned.holes or place.charged.get(offset) == mark:
            slot.clear()  # settled, or charged by an owner that came to its end before it could clear the slot
            return ()
        emit.count("penstock_handler_deaths_total", group=self._spec.name)
        return (place.charge(offset, mark),)

    async def finish(self, partition: int) -> AsyncGenerator[Draft]:
        """See `Work`: nothing is kept back; what is parked is on record."""
        return
        yield

    def left(self, partition: int | None = None) -> None:
        """See `Work`: all of it is read again when the partition is assigned again."""
        if partition is None:
            self._places.clear()
        else:
            self._places.pop(partition, None)
        self.gauge.unread = unread(place.commands for place in self._places.values())

    # -- new events ------------------------------------------------------------------------------------------------

    async def process(self, delivery: Delivery, stopping: Stopping) -> AsyncGenerator[Draft]:
        """See `Work`."""
        clock = self._system.clock
        started = clock.monotonic_s()
        place = self._places[delivery.owned.partition]
        batches = place.with_aside(delivery.batches)
        if place.paused():
            place.put_aside(batches)
            return
        begun = done = batches[0].first
        made = self._made(place)
        for delivered in parts_of(batches):
            await self._retry_due(place, made, self._now(), stopping)  # the fewer wait, the fewer will wait behind them
            part = Part(delivered, self._topics.source)
            place.hold(part)
            made.inputs.append(delivered)
            done = delivered.first
            while done < delivered.end:
                before, held = clock.monotonic_s(), made.size
                until = min(delivered.end, done + self._size)
                start, done = done, await self._slice(place, part, (done, until), made)
                await asyncio.sleep(0)  # others of this loop get their turn after each slice
                now = clock.monotonic_s()
                if done > start:  # what was made before may have been enough for a step
                    self._size = _next_size(self._size, done - start, now - before, made.size - held)
                full = now - started > STEP_S_MAX or made.size > STEP_BYTES_MAX
                if full or done < until or stopping() or place.paused():
                    if done > begun or made or place.lot.dirty:
                        yield self._draft(place, made, done if done > begun else None)
                    begun, made = done, self._made(place)
                    async for draft in self._retried(place, stopping):
                        yield draft
                    if stopping():
                        return
                    if place.paused():
                        place.put_aside([batch.tail(done) for batch in batches if batch.end > done])
                        return
                    made.inputs.append(delivered)
                    place.hold(part)
                    started = clock.monotonic_s()
        if done > begun:
            yield self._draft(place, made, done)

    def paused(self) -> Collection[Owned]:
        """See `Work`: nothing more is delivered either until what was put aside is taken on."""
        told = [(place, place.paused()) for place in self._places.values()]
        for place, reason in told:
            if reason and not place.was_paused:
                emit.count("penstock_handler_pauses_total", group=self._spec.name)
            place.was_paused = bool(reason)
        self.gauge.paused = next((reason for _, reason in told if reason), "")
        return [place.owned for place, reason in told if reason or place.aside]

    def resumed(self) -> Delivery | None:
        """See `Work`."""
        for place in self._places.values():
            if place.aside and self._has_room(place):
                return Delivery(place.owned, place.with_aside(()))
        return None

    def _has_room(self, place: Place) -> bool:
        """Whether what was put aside can be taken on."""
        return not place.paused()

    async def _slice(self, place: Place, part: Part, span: tuple[int, int], made: Made) -> int:
        """Handle events of `span` while there is time; returns the offset behind the last that is settled or parked."""
        done, until = span
        waiting = len(place.lot.heads) + place.lot.events
        late_s = self._system.clock.monotonic_s() + STEP_S_MAX
        while done < until and not place.paused() and made.size <= STEP_BYTES_MAX:
            if done > span[0] and self._system.clock.monotonic_s() >= late_s:
                break
            special = self._special(place, part, done, until)
            limit = until if special is None else max(special, done + 1)
            if special == done and not part.waits(done):
                done = await self._specially(place, part, done, made)
            else:
                done = await self._plainly(place, part, (done, limit), made, late_s)
        place.follow(part, span[0], done)
        made.events += done - span[0] - (len(place.lot.heads) + place.lot.events - waiting)
        return done

    def _special(self, place: Place, part: Part, done: int, until: int) -> int | None:
        """The lowest offset in [done, until) that cannot be decoded, or that killed the process: it runs alone."""
        if not place.deaths and not part.broken:
            return None
        return min((o for o in (*place.deaths, *part.broken) if done <= o < until), default=None)

    async def _plainly(self, place: Place, part: Part, span: tuple[int, int], made: Made, late_s: float) -> int:
        if not part.free(*span):
            return span[1]
        calls = part.calls(*span)
        failures = Failures(self._failed_once, place, part, calls, now=self._now, late_s=late_s)
        made.gave.goes_on = failures.goes_on
        result = await self._call(part.delivered, calls, made, start=span[0])
        made.gave.goes_on = None
        end = span[1] if result is None else result.offset if isinstance(result, Raised) else result
        for offset, rejection in made.take_rejected():
            if offset < end:
                made.letter(part.delivered, offset, Cause.of(rejection, 1))
        if part.free(span[0], end):
            place.succeeded()
        for failed in failures.take(end):
            self._lay_aside(place, part, failed, made)
        if not isinstance(result, Raised):
            return end
        self._park_or_give_up(place, part, result.take(), made, place.new_head(part, end))
        return end + 1

    async def _specially(self, place: Place, part: Part, offset: int, made: Made) -> int:
        """An event that is broken, or whose handling has killed the process before."""
        if offset in part.broken:
            made.letter(part.delivered, offset, Cause(part.broken[offset], "DecodeError"))
            made.ledger += place.forgive(offset)
            return offset + 1
        deaths = place.deaths[offset]
        if self._spec.retries.default.pause_s(deaths) is None:
            self._give_up(place, part, offset, self._died(deaths), made)
        else:
            one = iter(((offset, part.events[offset - part.first]),))
            result = await self._call_one(part.delivered, one, made, start=offset, attempt=deaths + 1)
            if isinstance(result, Raised):
                head = place.new_head(part, offset)
                head.attempts = deaths
                self._park_or_give_up(place, part, result.take(), made, head)
        made.ledger += place.forgive(offset)
        return offset + 1

    def _park_or_give_up(self, place: Place, part: Part, error: BaseException, made: Made, head: Head) -> None:
        """A new event has failed, and is `head` of those that wait for it."""
        now = self._now()
        self._lay_aside(place, part, Failed(head, self._failed_once(part.delivered, head, error, now), now), made)

    def _lay_aside(self, place: Place, part: Part, failed: Failed, made: Made) -> None:
        """Park a new event that has failed, or give it up."""
        head, then = failed.head, failed.then
        if isinstance(then, Cause):
            self._give_up(place, part, head.offset, then, made)
            return
        made.retries += 1
        place.park(part, head.offset, head, then, failed.at)
        place.failed(head)

    def _give_up(self, place: Place, part: Part, offset: int, cause: Cause, made: Made) -> None:
        """A dead letter; under the policy *block* the event's key waits for what people say."""
        made.letter(part.delivered, offset, cause)
        if cause.holds:
            place.park(part, offset, place.new_head(part, offset), None, self._now())
            made.events += 1  # it is dealt with, though its key waits

    # -- parked events ---------------------------------------------------------------------------------------------

    async def due(self, *, everything: bool) -> AsyncGenerator[Draft]:
        """See `Work`: parked events whose time has come, and what people said about dead letters."""
        for place in list(self._places.values()):
            async for draft in self._retried(place, self._stopping):
                yield draft

    def wait_s(self) -> float | None:
        """See `Work`."""
        if any(place.has_commands() for place in self._places.values()):
            return 0.0
        due = [s for s in (place.next_due_s() for place in self._places.values()) if s is not None]
        return max(0.0, min(due) - self._system.clock.monotonic_s()) if due else None

    async def _retried(self, place: Place, stopping: Stopping) -> AsyncGenerator[Draft]:
        if stopping():
            return
        made = self._made(place)
        await self._commanded(place, made)
        now = self._now()
        while await self._retry_due(place, made, now, stopping):
            yield self._draft(place, made, None)
            made = self._made(place)
            await asyncio.sleep(0)
        place.let_go()
        if made or place.lot.dirty:
            yield self._draft(place, made, None)

    async def _retry_due(self, place: Place, made: Made, now: Now, stopping: Stopping) -> bool:
        """Handle the heads that are due at `now`; whether some are left, for what was made is enough for a step."""
        started_s = self._system.clock.monotonic_s()
        while (due_s := place.next_due_s()) is not None and due_s <= now.s and not stopping():
            if self._system.clock.monotonic_s() - started_s > STEP_S_MAX or made.size > STEP_BYTES_MAX:
                return True
            await self._retry_some(place, made, now, stopping)
            if place.open:  # an open breaker lets one event through at a time
                break
        return False

    async def _retry_some(self, place: Place, made: Made, now: Now, stopping: Stopping) -> None:
        """Heads that are due, each with what waits behind it, in one run of calls where nothing is in the way."""
        lines: list[Line] = []
        room = min(TOGETHER_MAX, self._size)
        for head in place.lot.due(now.s):
            special = head.body is not None or head.offset in place.deaths
            if special or place.open or self._spec.on_failure.given_up == "block":
                if not lines:
                    await self._retry(place, head, made, now)
                break
            lines.append(place.line_of(head, room))
            room -= len(lines[-1].offsets)
            place.lot.lend(head)
            if room <= 0:
                break
        if lines:
            await self._retry_together(place, lines, made, now, stopping)
            await asyncio.sleep(0)

    async def _retry_together(
        self, place: Place, lines: Sequence[Line], made: Made, now: Now, stopping: Stopping
    ) -> None:
        source = self._topics.source
        pickers, read, cut = await place.pickers(lines, source, self._read)
        again = Again(lines, pickers, source, now)
        made.inputs += again.inputs
        made.failed_before([line.head for line in lines], now)
        made.size += read  # it is kept until the step is made
        start, held = self._system.clock.monotonic_s(), made.size
        while True:
            calls = again.calls
            result = await self._call_retried(again, made, start=lines[0].head.offset)
            end = result.offset if isinstance(result, Raised) else cut if result is None else result
            for offset, rejection in made.take_rejected():
                if end is None or offset < end:
                    self._failed_among(place, again, offset, rejection, made)
            if again.calls - calls > isinstance(result, Raised):
                place.succeeded()
            if not isinstance(result, Raised):
                break
            self._failed_among(place, again, result.offset, result.take(), made)
            late = self._system.clock.monotonic_s() - start > STEP_S_MAX
            if place.open or late or made.size - held > STEP_BYTES_MAX or again.cut or stopping():
                break
        for line in lines:
            await self._line_ended(place, line, end, made, now)
        self._size = _next_size(self._size, again.calls, self._system.clock.monotonic_s() - start, made.size - held)

    def _failed_among(self, place: Place, again: Again, offset: int, error: BaseException, made: Made) -> None:
        """An event of a line has failed: what came before it is settled, and it is the head."""
        line = again.line(offset)
        head = place.lot.heads[line.head.ident]
        if head.offset < offset:
            self._settled(place, head, made, b"handled", again.now, through=offset - 1)
        if not isinstance(error, Reject):
            line.stop, line.failed = offset, True
        self._failed_again(place, again.batch(offset), place.lot.heads[line.head.ident], error, made)

    async def _line_ended(self, place: Place, line: Line, end: int | None, made: Made, now: Now) -> None:
        """Settle what was called of a line; nothing from `end` on was."""
        head, called = place.lot.heads.get(line.head.ident), line.called(end)
        if head is None or line.failed:
            return
        if head.offset < called:
            self._settled(place, head, made, b"handled", now, through=called - 1)
        elif head is line.head and line.stop == head.offset:
            await self._retry(place, head, made, now)
        elif head is line.head:  # let go: it is due as before
            place.lot.postpone(head, 0.0, now)

    async def _retry(self, place: Place, head: Head, made: Made, now: Now) -> None:
        """Handle a parked event again, or for the first time when it waited behind another."""
        part = await place.fetch(head, self._topics.source, self._read)
        if part is None:
            self._passed_over(place, head, made, now)
            return
        offset, delivered = head.offset, part.delivered
        if offset in part.broken:
            self._lay_down_broken(place, part, head, made)
            return
        if not made.inputs or made.inputs[-1] is not delivered:
            made.inputs.append(delivered)
        attempt = head.attempts + place.deaths.get(offset, 0) + 1
        if self._has_died_enough(place, head):
            self._lay_down(place, delivered, head, self._died(place.deaths[offset], head), made)
            return
        self._mark(head, made)
        event = iter(((offset, part.events[offset - part.first]),))
        result = await self._call_one(delivered, event, made, start=offset, attempt=attempt, again=head.again)
        if isinstance(result, Raised):
            self._failed_again(place, delivered, head, result.take(), made)
            return
        place.succeeded()
        self._settled(place, head, made, b"handled", now)

    def _has_died_enough(self, place: Place, head: Head) -> bool:
        deaths = place.deaths.get(head.offset, 0)
        return deaths > 0 and self._spec.retries.default.pause_s(head.attempts + deaths) is None

    def _failed_again(self, place: Place, delivered: Delivered, head: Head, error: BaseException, made: Made) -> None:
        now = self._now()
        first, transient = head.attempts == 0, place.policy.is_transient(error)
        head.transient = transient
        if place.doubted or not transient:
            place.failed(head)
        if place.open and transient:  # it is the target that fails: nothing is charged, neither attempt nor time
            waited_s = head.waited_s
            place.lot.postpone(head, place.probed(self._spec.retries.for_error(error), now), now)
            head.waited_s = waited_s
            return
        head.tries = with_try(head.tries, error, now.us, self._hide(delivered, head))
        head.attempts += place.deaths.get(head.offset, 0) + 1
        made.ledger += place.forgive(head.offset)
        pause_s = self._pause_s(error, head.attempts, head.waited_s)
        if pause_s is None:
            self._lay_down(place, delivered, head, self._cause(error, head.attempts, head), made)
            return
        made.retries += 1
        place.lot.postpone(head, pause_s, now)
        if first and transient:
            place.failed(head)

    def _lay_down_broken(self, place: Place, part: Part, head: Head, made: Made) -> None:
        """A parked event that cannot be decoded."""
        cause = Cause(part.broken[head.offset], "DecodeError", again=head.again)
        self._lay_down(place, part.delivered, head, cause, made)

    def _lay_down(self, place: Place, delivered: Delivered, head: Head, cause: Cause, made: Made) -> None:
        """A parked event, which `delivered` has, is given up."""
        place.doubt()  # it is not given up for the target
        made.letter(delivered, head.offset, cause)
        if not cause.holds:
            self._settled(place, head, made, b"failed again", self._now())
            return
        if head.letter >= 0:
            made.ledger.append(place.commands.resolve(head.letter, b"failed again"))
        made.ledger += place.forgive(head.offset)
        made.events += 1
        head.letter, head.body = -1, None
        place.lot.postpone(head, None, self._now())

    def _passed_over(self, place: Place, head: Head, made: Made, now: Now) -> None:
        """A parked event is quarantined."""
        place.doubt()
        self._settled(place, head, made, b"handled", now)

    def _settled(
        self, place: Place, head: Head, made: Made, outcome: bytes, now: Now, *, through: int | None = None
    ) -> None:
        """A parked event is settled, and what waits behind it up to `through`."""
        if head.letter >= 0:
            made.ledger.append(place.commands.resolve(head.letter, outcome))
        made.ledger += place.forgive(head.offset)
        made.events += place.settle(head, now, through=through)

    async def _commanded(self, place: Place, made: Made) -> None:
        """Take what people said about dead letters, now and then."""
        now, taken = self._now(), 0
        for command in await place.commands.look(self._read, now.s):
            if command is not None:
                if not place.has_room(command):
                    break
                made.ledger += place.take(command, now)
            taken += 1
        if taken:
            made.ledger.append(place.commands.taken(taken))
        self.gauge.unread = unread(place.commands for place in self._places.values())

    # -- shared ----------------------------------------------------------------------------------------------------

    def _made(self, place: Place) -> Made:
        return Made(self._spec.name, self._topics, place.partition, place.marks)

    def _draft(self, place: Place, made: Made, after: int | None) -> Draft:
        made.ledger += place.writes()
        if made.retries:
            emit.count("penstock_handler_retries_total", made.retries, group=self._spec.name)
        self._measure()
        if after is not None:
            place.marks.floor = after
        return made.draft(after, oldest=place.lot.oldest)

    def _measure(self) -> None:
        self.gauge.keys = sum(len(place.lot.heads) for place in self._places.values())
        self.gauge.events = sum(place.lot.events for place in self._places.values())

    def _now(self) -> Now:
        return Now(self._system.clock.now_us(), self._system.clock.monotonic_s())

    def committed(self, draft: Draft) -> None:
        """See `Work`."""
        labels = {"group": self._spec.name, "partition": str(draft.partition)}
        emit.count("penstock_events_handled_total", draft.events, **labels)
        if draft.dead:
            emit.count("penstock_dead_letters_total", draft.dead, group=self._spec.name)

    async def close(self) -> None:
        """See `Work`."""
        self._slot.close()


def _next_size(size: int, called: int, seconds: float, result_bytes: int) -> int:
    """The next slice, when so many of `size` events were called: about SLICE_S long, results of a step's size at most.

    It grows to four times what was called at most; that there were no more to call does not make it smaller.
    """
    most = max(size, called * 4)
    longest = called * SLICE_S / seconds if seconds > 0 else most
    largest = called * STEP_BYTES_MAX / result_bytes if result_bytes else most
    return max(1, min(most, int(min(longest, largest)) + 1))
