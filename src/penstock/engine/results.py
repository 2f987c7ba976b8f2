"""What a handler's calls gave, on its way into a step: results as valid bytes, dead letters, ledger entries."""

from __future__ import annotations

import traceback
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from penstock.channel.api import LedgerWrite
from penstock.channel.typed import Seen, TypedTopic
from penstock.delivery.deadletter import DeadLetter, name_of, storable, text_of, to_batch, with_try
from penstock.delivery.lot import Head, Now, Try
from penstock.delivery.once import SPACE as ONCE
from penstock.delivery.once import Mark, Marks
from penstock.engine.calling import (
    EVENT_RESULTS_BYTES_MAX,
    RUN_BYTES_MAX,
    TOO_MUCH,
    Flat,
    Gave,
    OutputRefused,
    Sealing,
    flatten,
)
from penstock.engine.context import Identity
from penstock.engine.work import Draft
from penstock.errors import Reject
from penstock.event.batch import Delivered, NewBatch, chosen
from penstock.event.beside import Beside

MARK_BYTES = 1_000
"""What a mark counts in a step: a row of the ledger keeps the log from others about as long as so many bytes."""
INHERITED = ("correlationid", "traceparent", "tracestate")


class Topics(msgspec.Struct, frozen=True):
    """The topics a handler reads, writes (None: it returns nothing) and lays its dead letters in.

    `commands` holds what people want to be done about those; None where there are none.
    """

    source: TypedTopic[Any]
    into: TypedTopic[Any] | None
    dead: TypedTopic[Any]
    commands: TypedTopic[Any] | None = None


class Cause(msgspec.Struct, frozen=True):
    """Why an event is given up."""

    reason: str
    error: str
    stack: str = ""
    attempts: int = 1
    tries: Sequence[Try] = ()
    again: int = 0
    holds: bool = False

    @classmethod
    def of(
        cls, error: BaseException, attempts: int, tries: Sequence[Try] = (), *, again: int = 0, holds: bool = False
    ) -> Cause:
        """What was raised. Where that was says nothing of a rejection, a decision, nor of what was returned."""
        stack = "" if isinstance(error, Reject | OutputRefused) else stack_of(error)
        return cls(text_of(error), name_of(error), stack, attempts, tries, again, holds)


class Cut(msgspec.Struct, frozen=True):
    """Results from this offset on were let go: too many bytes, or with a reason, because this one's are refused."""

    offset: int
    reason: str = ""


def _size(bodies: Sequence[bytes], flat: Flat) -> int:
    """Bytes of the first results of `flat`, `bodies`, with their headers."""
    return sum(map(len, bodies)) + sum(one.beside for index, one in flat.sealed.items() if index < len(bodies))


def stack_of(error: BaseException) -> str:
    """The traceback from the handler on: how it came to be called is the same for all.

    Of an exception that cannot be told of (its notes or its cause may be any code) only the places; it can be stored.
    """
    whole = trace = BaseException.__getattribute__(error, "__traceback__")
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("penstock.engine."):
        trace = trace.tb_next
    try:
        lines = traceback.format_exception(type(error), error, trace or whole)
    except Exception:  # noqa: BLE001 - a user's exception may raise anything
        lines = [*traceback.format_tb(trace or whole), name_of(error)]
    return storable("".join(lines))


class _Encoded(msgspec.Struct):
    """Results as bytes; the offset of each one's event, its number among that event's results; what has no bytes.

    `beside` has what the handler put around them.
    """

    bodies: list[bytes] = msgspec.field(default_factory=list[bytes])
    causes: array[int] = msgspec.field(default_factory=lambda: array("q"))
    numbers: array[int] = msgspec.field(default_factory=lambda: array("q"))
    refused: dict[int, str] = msgspec.field(default_factory=dict[int, str])
    beside: Beside = msgspec.field(default_factory=Beside)
    seen: Seen = msgspec.field(default_factory=Seen)


class Made:
    """What one draft is made of, while it is being made.

    `gave` holds what the run of calls at hand gave, until `gather`.
    `inputs` are the batches that anything here came from, of two that have an offset the smaller one has the event
    (one that was redriven is a batch by itself); `redriven` the offsets whose results are out of order.
    `marked` has those of the partition's `marks` that events settled here have made.
    """

    def __init__(self, group: str, topics: Topics, partition: int, marks: Marks) -> None:
        self.partition = partition
        self.marks = marks
        self.marked: list[Mark] = []
        self.gave = Gave(Sealing(topics.into))
        self.ledger: list[LedgerWrite] = []
        self.inputs: list[Delivered] = []
        self.redriven: set[int] = set()
        self._refused: set[int] = set()
        self._failed: dict[int, tuple[int, tuple[Try, ...]]] = {}
        self._now_us = 0
        self.events = self.retries = 0
        self.size = 0
        self._group = group
        self._topics = topics
        self._encoded = _Encoded()
        self._letters: list[DeadLetter] = []
        self._identity: Identity | None = None

    def __bool__(self) -> bool:
        return bool(self._encoded.bodies or self._letters or self.ledger or self.marked)

    def take_rejected(self) -> list[tuple[int, Reject]]:
        """What the last run of calls rejected."""
        taken, self.gave.rejected = self.gave.rejected, []
        return taken

    def mark(self, marks: Sequence[Mark]) -> None:
        """Events that are settled here have made these marks."""
        if marks:
            self.marked += marks
            self.size += MARK_BYTES * len(marks)

    def failed_before(self, heads: Iterable[Head], now: Now) -> None:
        """These are handled again now: a letter that tells of one of them tells of its failed attempts, too."""
        self._now_us = now.us
        self._failed.update({head.offset: (head.attempts, head.tries) for head in heads if head.attempts})

    # -- results ---------------------------------------------------------------------------------------------------

    def gather(self, *, whole: bool = True) -> Cut | None:
        """Take on what the calls gave: it is validated while it is in the processor's cache.

        Args:
            whole: an event whose results cannot be published becomes a dead letter with the draft, and the others
                stay; if not, what came behind it is let go, for what becomes of it is not for the draft to say.

        Returns:
            From where on results were let go, if any were; at least one event's are kept, or refused.
        """
        gave = self.gave
        if not gave.out:
            return None
        into = self._topics.into
        cut: Cut | None = None
        if into is None:
            reason = f"handler {self._group} returned an event but has no into=; name the topic, or return None"
            if whole:
                self._refuse(dict.fromkeys(gave.causes, reason))
            else:
                cut = Cut(gave.causes[0], reason)
        else:
            cut = self._gather(into, flatten(gave), whole=whole)
        gave.out.clear()
        gave.causes.clear()
        return cut

    def _gather(self, into: TypedTopic[Any], flat: Flat, *, whole: bool) -> Cut | None:
        encoded, cut = self._encoded, None
        bodies, causes, numbers = flat.bodies, flat.causes, flat.numbers
        refused: dict[int, str] = {}
        for index, one in flat.sealed.items():
            if one.refused:
                refused.setdefault(causes[index], one.refused)
        if _size(bodies, flat) > RUN_BYTES_MAX:
            count = self._fitting(bodies, flat, refused)
            if count < len(causes):
                cut = Cut(causes[count])
                for let_go in causes[count:]:  # its results are refused when it is handled again, and only then
                    refused.pop(let_go, None)
            bodies, causes = bodies[:count], causes[:count]
        before = encoded.seen.count
        into.look(bodies, encoded.seen)
        if not whole:
            into.look_at_keys(encoded.seen, before)
            known = {causes[i - before]: r for i, r in encoded.seen.refused.items() if i >= before} | refused
            if known:
                cut, refused = Cut(min(known), known[min(known)]), {}
                count = causes.index(cut.offset)
                encoded.seen.forget(before)
                bodies, causes = bodies[:count], causes[:count]
                into.look(bodies, encoded.seen)
        for index, one in flat.sealed.items():
            if one.event is not None and index < len(bodies):
                encoded.beside.note(one.event, len(encoded.bodies) + index)
        encoded.refused.update(refused)
        encoded.bodies += bodies
        encoded.causes.extend(causes)
        encoded.numbers.extend(array("q", bytes(8 * len(causes))) if numbers is None else numbers[: len(causes)])
        self.size += _size(bodies, flat)
        return cut

    @staticmethod
    def _fitting(bodies: list[bytes], flat: Flat, refused: dict[int, str]) -> int:
        """How many results to keep: whole events, at least one; one that gives too much is refused when it is first."""
        causes, start, before, size = flat.causes, 0, 0, 0  # where the event's results start; bytes before it, and all
        for index, body in enumerate(bodies):
            if causes[index] != causes[start]:
                if size > RUN_BYTES_MAX:
                    return index
                start, before = index, size
            size += len(flat.sealed.get(index, body))
            if size - before > EVENT_RESULTS_BYTES_MAX:
                if start:
                    return start
                refused[causes[0]] = TOO_MUCH
                behind = next((i for i in range(index, len(causes)) if causes[i] != causes[0]), len(causes))
                bodies[:behind] = [b""] * behind
                return behind
        return len(bodies)

    def _packed(self) -> list[NewBatch]:
        """Results as batches; all that one event gave becomes a dead letter of that event when part of it cannot be."""
        into, encoded = self._topics.into, self._encoded
        assert into is not None
        bodies, causes, refused = encoded.bodies, encoded.causes, encoded.refused
        attributes = self._attributes()
        keys = attributes.pop("key", None)
        packed = into.pack(bodies, keys=keys, attributes=attributes, seen=encoded.seen)
        for index, reason in packed.refused.items():
            refused.setdefault(causes[index], reason)
        if not refused:
            return packed.batches
        self._refuse(refused)
        keep = [index for index, cause in enumerate(causes) if cause not in refused]
        if not keep:
            return []
        kept = {name: chosen(values, keep) for name, values in attributes.items()}
        keys = keys and chosen(keys, keep)
        return into.pack([bodies[index] for index in keep], keys=keys, attributes=kept).batches

    def _attributes(self) -> dict[str, Sequence[Any]]:
        """What lies beside the results: what the handler said, else what they take over from their events.

        A key that lies beside an event is its results', too, where they have none of their own.
        """
        assert self._topics.into is not None
        encoded, causes = self._encoded, self._encoded.causes
        beside = (self._topics.source.spec.key, self._topics.into.spec.key) == (None, None)
        found = _inherited(self.inputs, causes, (*INHERITED, "key") if beside else INHERITED)
        for name, said in encoded.beside.columns(len(causes)).items():
            other = found.get(name)
            found[name] = said if other is None else [o if s is None else s for s, o in zip(said, other, strict=True)]
        found["cause"] = causes
        if any(encoded.numbers):
            found["number"] = encoded.numbers
        if self.redriven:
            headers = found.get("headers") or [None] * len(causes)
            mark = {"redriven": "out of order"}
            found["headers"] = [
                {**(said or {}), **mark} if cause in self.redriven else said
                for said, cause in zip(headers, causes, strict=True)
            ]
        return found

    def _refuse(self, refused: dict[int, str]) -> None:
        self._refused.update(refused)
        for offset, reason in sorted(refused.items()):
            delivered = min((d for d in self.inputs if d.first <= offset < d.end), key=_count)
            error, (failed, tries) = OutputRefused(reason), self._failed.get(offset, (0, ()))
            if failed:
                hide = self._identity_of(delivered).hide(offset - delivered.first)
                tries = with_try(tries, error, self._now_us, hide)
            self.letter(delivered, offset, Cause(str(error), type(error).__name__, attempts=failed + 1, tries=tries))

    # -- dead letters ----------------------------------------------------------------------------------------------

    def letter(self, delivered: Delivered, offset: int, cause: Cause) -> None:
        """Give an event of `delivered` up."""
        index = offset - delivered.first
        identity = self._identity_of(delivered)
        body, hide = identity.body(index), identity.hide(index)
        self._letters.append(
            DeadLetter(
                group=self._group,
                topic=delivered.topic,
                partition=delivered.partition,
                offset=offset,
                body=body,
                reason=hide(cause.reason),
                error=cause.error,
                stack=hide(cause.stack),
                attempts=cause.attempts,
                key=identity.key(index),
                id=identity.id(index),
                tries=cause.tries,
                again=cause.again,
                holds=cause.holds,
            )
        )
        self.size += len(body) + len(cause.stack) + len(cause.reason)

    def _identity_of(self, delivered: Delivered) -> Identity:
        """Kept for the batch: where its events begin is found once, however many of them are given up."""
        if self._identity is None or self._identity.delivered is not delivered:
            self._identity = Identity(delivered, self._topics.source)
        return self._identity

    # -- the draft -------------------------------------------------------------------------------------------------

    def draft(self, after: int | None, *, oldest: int | None) -> Draft:
        """The draft that settles everything before `after` (None: the floor stays), with what was made here."""
        outputs = self._packed() if self._encoded.bodies else []
        if self._letters:
            outputs.append(to_batch(self._letters, topic=self._topics.dead.name, partition=self.partition))
        said = self.marks.writes(self.marked, self._refused)
        self.ledger += [LedgerWrite(ONCE, key, value) for key, value in said]
        dead = len(self._letters)
        return Draft(self.partition, after, outputs, self.ledger, oldest=oldest, events=self.events, dead=dead)


def _inherited(inputs: Sequence[Delivered], causes: Sequence[int], names: Sequence[str]) -> dict[str, Sequence[Any]]:
    """What results take over from the events they came from: what they belong to, and the trace they are part of."""
    found: dict[str, Sequence[Any]] = {}
    for name in names:
        if not any(name in delivered.payload.attributes for delivered in inputs):
            continue
        wanted = sorted(set(causes))
        by_offset: dict[int, Any] = {}
        for delivered in sorted(inputs, key=_count, reverse=True):
            values, first = delivered.payload.attributes.get(name), delivered.first
            among = wanted[bisect_left(wanted, first) : bisect_left(wanted, delivered.end)]
            by_offset.update((offset, None if values is None else values[offset - first]) for offset in among)
        found[name] = [by_offset.get(cause) for cause in causes]
    return found


def _count(delivered: Delivered) -> int:
    return delivered.count
