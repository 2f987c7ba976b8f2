"""A handler's work: call it per event, collect outputs and dead letters, retry in place, count attempts."""

from __future__ import annotations

import asyncio
import struct
import traceback
from array import array
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import msgspec

from penstock.channel.api import Assigned, Delivery, LedgerWrite, Subscription
from penstock.channel.typed import Seen, TypedTopic, chosen
from penstock.delivery.deadletter import DeadLetter, text_of, to_batch
from penstock.delivery.retry import Retry
from penstock.engine.calling import Raised, Shape, call_async, call_sync, flatten
from penstock.engine.context import Context, Identity
from penstock.engine.work import Draft, Stopping
from penstock.errors import DecodeError, PermanentError, Reject
from penstock.event.batch import Delivered, NewBatch, Rows
from penstock.system.ports import System
from penstock.system.slots import MemorySlot, Slot
from penstock.telemetry import emit

ATTEMPTS = "attempts"
STEP_S_MAX = 0.5
STEP_BYTES_MAX = 4_000_000
SLICE_S = 0.05
INHERITED = ("correlationid", "traceparent", "tracestate")
PART_ROWS, PART_COLUMNS = 1_000, 2_000
"""Events are decoded so many at a time: they are handled while they are in the processor's cache.

More of them from columns, where every batch has fixed costs."""
PAUSE_LOOK_S = 0.1
_CHARGE = struct.Struct(">IQ")
"""Attempts so far, and the slot's `clears` when the last death was charged."""


class HandlerSpec(msgspec.Struct, frozen=True):
    """A handler as declared: its name is its group."""

    name: str
    function: Callable[..., Any]
    shape: Shape
    retry: Retry = Retry()


class Topics(msgspec.Struct, frozen=True):
    """The topics a handler reads, writes (None: it returns nothing) and lays its dead letters in."""

    source: TypedTopic[Any]
    into: TypedTopic[Any] | None
    dead: TypedTopic[Any]


class _Encoded(msgspec.Struct):
    """Results as bytes; the offset of each one's event, its number among that event's results; what has no bytes."""

    bodies: list[bytes] = msgspec.field(default_factory=list[bytes])
    causes: array[int] = msgspec.field(default_factory=lambda: array("q"))
    numbers: array[int] = msgspec.field(default_factory=lambda: array("q"))
    refused: dict[int, str] = msgspec.field(default_factory=dict[int, str])
    seen: Seen = msgspec.field(default_factory=Seen)
    size: int = 0


class _Gathered(msgspec.Struct):
    """What one draft is made of, while it is being made. `out` and `causes` are of the slice at hand."""

    partition: int
    begun: int
    out: list[Any] = msgspec.field(default_factory=list[Any])
    causes: list[int] = msgspec.field(default_factory=list[int])
    encoded: _Encoded = msgspec.field(default_factory=_Encoded)
    letters: list[DeadLetter] = msgspec.field(default_factory=list[DeadLetter])
    ledger: list[LedgerWrite] = msgspec.field(default_factory=list[LedgerWrite])
    inputs: list[Delivered] = msgspec.field(default_factory=list[Delivered])
    broken: dict[int, str] = msgspec.field(default_factory=dict[int, str])
    events: int = 0


class HandlerWork:
    """See `Work`. One partition's events are handled one after the other, in offset order.

    Delivery guarantee: that of the channel's step: outputs, dead letters and progress of a slice of events become
    permanent together. The handler's own side effects happen at least once.
    """

    def __init__(self, spec: HandlerSpec, subscription: Subscription, topics: Topics, *, system: System) -> None:
        self.subscription = subscription
        self._spec = spec
        self._source = topics.source
        self._into = topics.into
        self._dead = topics.dead
        self._system = system
        self._slot: Slot = MemorySlot()
        self._attempts: dict[tuple[int, int], int] = {}
        self._identity: Identity | None = None
        self._size = 1  # a slow handler must not be asked for many events before the first look at the clock

    # -- ownership -------------------------------------------------------------------------------------------------

    async def assigned(self, assigned: Assigned, slot: Slot | None, stopping: Stopping) -> Sequence[LedgerWrite]:
        """See `Work`. An event that was being handled when the last owner died is charged an attempt."""
        partition = assigned.owned.partition
        self._attempts = {place: n for place, n in self._attempts.items() if place[0] != partition}
        charged: dict[int, int] = {}
        for space, key, value in assigned.ledger:
            if space == ATTEMPTS:
                offset = int.from_bytes(key)
                self._attempts[partition, offset], charged[offset] = _CHARGE.unpack(value)
        if slot is None:
            return ()
        self._slot = slot
        left = slot.left()
        if left is None or left[0] != partition:
            return ()
        offset = left[1]
        if offset < assigned.floor or offset in assigned.holes or charged.get(offset) == slot.clears:
            slot.clear()  # settled, or charged by an owner that came to its end before it could clear the slot
            return ()
        count = self._attempts.get((partition, offset), 0) + 1
        self._attempts[partition, offset] = count
        emit.count("penstock_handler_deaths_total", group=self._spec.name)
        return (LedgerWrite(ATTEMPTS, offset.to_bytes(8), _CHARGE.pack(count, slot.clears)),)

    # -- work ------------------------------------------------------------------------------------------------------

    async def process(self, delivery: Delivery, stopping: Stopping) -> AsyncGenerator[Draft]:
        """See `Work`."""
        clock = self._system.clock
        started = clock.monotonic_s()
        done = delivery.batches[0].first
        gathered = _Gathered(delivery.owned.partition, done)
        for delivered in _parts(delivery):
            gathered.inputs.append(delivered)
            events = self._decoded(delivered, gathered)
            done = delivered.first
            while done < delivered.end:
                before = clock.monotonic_s()
                until = min(delivered.end, done + self._size)
                begun = done
                done = await self._slice(delivered, islice(events, until - done), (done, until), gathered, stopping)
                gathered.events += done - begun
                held = gathered.encoded.size
                self._encode(gathered)
                await asyncio.sleep(0)  # others of this loop get their turn after each slice
                now = clock.monotonic_s()
                self._size = _next_size(max(1, done - begun), now - before, gathered.encoded.size - held)
                full = now - started > STEP_S_MAX or gathered.encoded.size > STEP_BYTES_MAX
                if full or done < until or stopping():
                    if done > gathered.begun:
                        yield self._draft(gathered, done)
                    if done < until or stopping():
                        return
                    gathered = _Gathered(delivery.owned.partition, done, inputs=[delivered], broken=gathered.broken)
                    started = clock.monotonic_s()
        if done > gathered.begun:
            yield self._draft(gathered, done)

    async def due(self, *, everything: bool) -> AsyncGenerator[Draft]:
        """See `Work`: nothing is kept back."""
        return
        yield

    def committed(self, draft: Draft) -> None:
        """See `Work`."""
        emit.count("penstock_events_handled_total", draft.events, group=self._spec.name)
        if draft.dead:
            emit.count("penstock_dead_letters_total", draft.dead, group=self._spec.name)

    def left(self) -> None:
        """See `Work`: attempts are read again when the partition is assigned again."""

    async def close(self) -> None:
        """See `Work`."""
        self._slot.close()

    def _decoded(self, delivered: Delivered, gathered: _Gathered) -> Iterator[Any]:
        """The batch's events. One that is not what the schema says is None here, and named in `gathered.broken`."""
        try:
            return iter(self._source.events(delivered))
        except DecodeError:
            events: list[Any] = []
            for offset, body in enumerate(self._source.bodies(delivered), delivered.first):
                try:
                    events.append(self._source.decode(body))
                except DecodeError as exc:
                    gathered.broken[offset] = str(exc)
                    events.append(None)
            return iter(events)

    async def _slice(
        self,
        delivered: Delivered,
        events: Iterator[Any],
        span: tuple[int, int],
        gathered: _Gathered,
        stopping: Stopping,
    ) -> int:
        """Handle the events of `span`; returns the offset behind the last one that is settled."""
        done, until = span
        while done < until:
            special = self._special(delivered.partition, done, until, gathered.broken)
            if special == done and done in gathered.broken:
                next(events)
                self._letter(delivered, done, gathered, _Cause(gathered.broken[done], "DecodeError"))
                done += 1
                continue
            if special == done:
                settled = await self._alone(delivered, next(events), done, gathered, stopping)
                if settled == done:
                    return done
                done = settled
                continue
            part = events if special is None else islice(events, special - done)
            result = await self._run(self._bound(delivered, 1), part, done, gathered)
            if isinstance(result, Raised):
                settled = await self._failed(delivered, result, gathered, stopping)
                if settled == result.offset:
                    return settled
                done = settled
            else:
                done = result
        return until

    def _special(self, partition: int, done: int, until: int, broken: dict[int, str]) -> int | None:
        """The lowest offset in [done, until) that cannot be decoded, or has attempts on record: it runs alone."""
        if not self._attempts and not broken:
            return None
        suspects = [o for p, o in self._attempts if p == partition and done <= o < until]
        return min([*suspects, *(o for o in broken if done <= o < until)], default=None)

    def _bound(self, delivered: Delivered, attempt: int) -> Callable[[Any], Any]:
        """The handler as a function of the event alone; the slot says which event it is."""
        function = self._spec.function
        if not self._spec.shape.wants_context:
            return function
        words, source = self._slot.words, self._source
        return lambda event: function(event, Context(delivered, words[1], attempt, source))

    async def _run(
        self, handler: Callable[[Any], Any], events: Iterator[Any], offset: int, gathered: _Gathered
    ) -> Raised | int:
        words = self._slot.words
        words[1] = offset
        words[0] = gathered.partition + 1
        call = _call_async if self._spec.shape.is_async else _call_sync
        result = await call(handler, events, words, offset, gathered)
        words[0] = 0
        return result

    async def _alone(
        self, delivered: Delivered, event: Any, offset: int, gathered: _Gathered, stopping: Stopping
    ) -> int:
        """An event whose handling has killed the process before."""
        place = (delivered.partition, offset)
        deaths = self._attempts[place]
        if self._spec.retry.pause_s(deaths) is None:
            settled = offset + 1
            reason = f"the process died {deaths} times while handling it"
            self._letter(delivered, offset, gathered, _Cause(reason, "ProcessDied", attempts=deaths))
        else:
            result = await self._run(self._bound(delivered, deaths + 1), iter((event,)), offset, gathered)
            settled = (
                await self._failed(delivered, result, gathered, stopping, attempt=deaths + 1)
                if isinstance(result, Raised)
                else result
            )
        if settled > offset:
            del self._attempts[place]
            gathered.ledger.append(LedgerWrite(ATTEMPTS, offset.to_bytes(8), None))
        return settled

    async def _failed(
        self, delivered: Delivered, raised: Raised, gathered: _Gathered, stopping: Stopping, *, attempt: int = 1
    ) -> int:
        """Retry in place with pauses, then give the event up; returns the offset behind it, its own when stopped."""
        while True:
            error = raised.error
            pause_s = None if isinstance(error, PermanentError) else self._spec.retry.pause_s(attempt)
            if pause_s is None:
                cause = _Cause(text_of(error), type(error).__name__, _stack(error), attempt)
                self._letter(delivered, raised.offset, gathered, cause)
                return raised.offset + 1
            emit.count("penstock_handler_retries_total", group=self._spec.name)
            if not await self._waited(pause_s, stopping):
                return raised.offset
            attempt += 1
            result = await self._run(self._bound(delivered, attempt), iter((raised.event,)), raised.offset, gathered)
            if not isinstance(result, Raised):
                return result
            raised = result

    async def _waited(self, pause_s: float, stopping: Stopping) -> bool:
        """Whether the whole pause went by without the wish to stop."""
        while pause_s > 0 and not stopping():
            await self._system.clock.sleep(min(pause_s, PAUSE_LOOK_S))
            pause_s -= PAUSE_LOOK_S
        return not stopping()

    # -- drafts ----------------------------------------------------------------------------------------------------

    def _letter(self, delivered: Delivered, offset: int, gathered: _Gathered, cause: _Cause) -> None:
        index = offset - delivered.first
        identity = self._identity_of(delivered)
        gathered.letters.append(
            DeadLetter(
                group=self._spec.name,
                topic=delivered.topic,
                partition=delivered.partition,
                offset=offset,
                body=identity.body(index),
                reason=cause.reason,
                error=cause.error,
                stack=cause.stack,
                attempts=cause.attempts,
                key=identity.key(index),
                id=identity.id(index),
            )
        )

    def _identity_of(self, delivered: Delivered) -> Identity:
        """Kept for the batch: where its events begin is found once, however many of them are given up."""
        if self._identity is None or self._identity.delivered is not delivered:
            self._identity = Identity(delivered, self._source)
        return self._identity

    def _draft(self, gathered: _Gathered, done: int) -> Draft:
        outputs = self._packed(gathered) if gathered.encoded.bodies else []
        if gathered.letters:
            outputs.append(to_batch(gathered.letters, topic=self._dead.name, partition=gathered.partition))
        return Draft(
            gathered.partition,
            done,
            outputs,
            gathered.ledger,
            events=gathered.events,
            dead=len(gathered.letters),
        )

    def _encode(self, gathered: _Gathered) -> None:
        """Results become valid bytes while they are in the processor's cache."""
        if not gathered.out:
            return
        if self._into is None:
            reason = f"handler {self._spec.name} returned an event but has no into=; name the topic, or return None"
            self._refuse(gathered, dict.fromkeys(gathered.causes, reason))
        else:
            results, causes, numbers = flatten(gathered.out, gathered.causes)
            encoded = gathered.encoded
            try:
                bodies = list(map(self._into.encode_quick, results))
            except Exception:  # noqa: BLE001 - the reasons are found one by one
                bodies = self._encoded_each(results, causes, encoded.refused)
            self._into.look(bodies, encoded.seen)
            encoded.bodies += bodies
            encoded.size += sum(map(len, bodies))
            encoded.causes.extend(causes)
            encoded.numbers.extend(array("q", bytes(8 * len(causes))) if numbers is None else numbers)
        gathered.out.clear()
        gathered.causes.clear()

    def _encoded_each(self, results: list[Any], causes: Sequence[int], refused: dict[int, str]) -> list[bytes]:
        """One body per result; of one that cannot be encoded it is empty, and its event's reason noted."""
        assert self._into is not None
        bodies: list[bytes] = []
        for result, cause in zip(results, causes, strict=True):
            try:
                bodies.append(self._into.encode(result))
            except (PermanentError, TypeError) as exc:
                refused[cause] = str(exc)
                bodies.append(b"")
        return bodies

    def _packed(self, gathered: _Gathered) -> list[NewBatch]:
        """Results as batches; all that one event gave becomes a dead letter of that event when part of it cannot be."""
        assert self._into is not None
        encoded = gathered.encoded
        bodies, causes, refused = encoded.bodies, encoded.causes, encoded.refused
        attributes: dict[str, Sequence[Any]] = {"cause": causes, **_inherited(gathered.inputs, causes)}
        if any(encoded.numbers):
            attributes["number"] = encoded.numbers
        packed = self._into.pack(bodies, attributes=attributes, seen=encoded.seen)
        for index, reason in packed.refused.items():
            refused.setdefault(causes[index], reason)
        if not refused:
            return packed.batches
        self._refuse(gathered, refused)
        keep = [index for index, cause in enumerate(causes) if cause not in refused]
        if not keep:
            return []
        kept = {name: chosen(values, keep) for name, values in attributes.items()}
        return self._into.pack([bodies[index] for index in keep], attributes=kept).batches

    def _refuse(self, gathered: _Gathered, refused: dict[int, str]) -> None:
        for offset, reason in sorted(refused.items()):
            delivered = next(d for d in gathered.inputs if d.first <= offset < d.end)
            text = f"what the handler returned cannot be published: {reason}"
            self._letter(delivered, offset, gathered, _Cause(text, "OutputRefused"))


class _Cause(msgspec.Struct, frozen=True):
    reason: str
    error: str
    stack: str = ""
    attempts: int = 1


async def _call_sync(
    handler: Callable[[Any], Any], events: Iterator[Any], words: memoryview, offset: int, gathered: _Gathered
) -> Raised | int:
    return call_sync(handler, events, words, offset=offset, out=gathered.out, causes=gathered.causes)


async def _call_async(
    handler: Callable[[Any], Any], events: Iterator[Any], words: memoryview, offset: int, gathered: _Gathered
) -> Raised | int:
    return await call_async(handler, events, words, offset=offset, out=gathered.out, causes=gathered.causes)


def _inherited(inputs: Sequence[Delivered], causes: Sequence[int]) -> dict[str, Sequence[Any]]:
    """What results take over from the events they came from: what they belong to, and the trace they are part of."""
    found: dict[str, Sequence[Any]] = {}
    for name in INHERITED:
        given = [(delivered, delivered.payload.attributes.get(name)) for delivered in inputs]
        by_offset = {
            offset: value for d, values in given if values is not None for offset, value in enumerate(values, d.first)
        }
        if by_offset:
            found[name] = [by_offset.get(cause) for cause in causes]
    return found


def _parts(delivery: Delivery) -> Iterator[Delivered]:
    for batch in delivery.batches:
        yield from batch.parts(PART_ROWS if isinstance(batch.payload, Rows) else PART_COLUMNS)


def _next_size(size: int, seconds: float, result_bytes: int) -> int:
    """The next slice: about SLICE_S long, results of a step's size at most, at most four times the last one."""
    longest = size * SLICE_S / seconds if seconds > 0 else size * 4
    largest = size * STEP_BYTES_MAX / result_bytes if result_bytes else size * 4
    return max(1, min(size * 4, int(min(longest, largest)) + 1))


def _stack(error: BaseException) -> str:
    """The traceback; a rejection is a decision, not a mistake, and where it was made says nothing."""
    return "" if isinstance(error, Reject) else "".join(traceback.format_exception(error))
