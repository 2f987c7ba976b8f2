"""What a client is about to publish, and what became of it: shared by the plain client and its asyncio twin."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from penstock.app.outcome import Acked, Outcome, Rejected, Unknown
from penstock.channel import api
from penstock.channel.typed import Packed, TypedTopic, time_us
from penstock.errors import PermanentError
from penstock.event.batch import NewBatch
from penstock.event.checks import check_event
from penstock.event.envelope import NewEvent
from penstock.event.partition import Key

CHUNK_EVENTS = 5_000
CHUNK_BYTES = 1_000_000

_TEXTS = ("id", "type", "source", "subject", "correlationid", "causationid", "traceparent", "tracestate")


class Parcel:
    """Encoded events for one topic, in order, and once published, their outcomes."""

    __slots__ = (
        "_refused",
        "answer",
        "attributes",
        "bodies",
        "error",
        "first_batch",
        "keys",
        "packed",
        "size",
        "topic",
    )

    def __init__(self, topic: TypedTopic[Any]) -> None:
        self.topic = topic
        self.bodies: list[bytes] = []
        self.size = 0
        self.attributes: dict[str, list[Any]] = {}
        self.keys: list[Key] | None = None
        self._refused: dict[int, str] = {}
        self.packed: Packed | None = None
        self.first_batch = 0
        self.answer: tuple[api.Publish, api.Acked | api.Refused | api.Unknown] | None = None
        self.error: Exception | None = None

    # -- filling ---------------------------------------------------------------------------------------------------

    def add(self, event: Any) -> int:
        """Take one event on; returns its index. One that cannot be encoded is rejected, alone."""
        index = len(self.bodies)
        try:
            body = self._wrapped(event, index) if type(event) is NewEvent else self.topic.encode(event)
        except (PermanentError, TypeError, ValueError) as exc:
            self._refused[index] = str(exc)
            body = b""
        self.bodies.append(body)
        self.size += len(body)
        return index

    def _wrapped(self, event: NewEvent, index: int) -> bytes:
        check_event(event)
        if event.key is not None:
            if self.topic.spec.key is not None:
                msg = f"a key beside the event, and topic {self.topic.name} takes it from field {self.topic.spec.key}"
                raise ValueError(msg)
            self._column("", index).append(event.key)
        for name in _TEXTS:
            value = getattr(event, name)
            if value is not None:
                self._column(name, index).append(value)
        if event.time is not None:
            self._column("time_us", index).append(time_us(event.time))
        if event.headers:
            self._column("headers", index).append(dict(event.headers))
        return self.topic.encode(event.data)

    def _column(self, name: str, index: int) -> list[Any]:
        """The attribute's values up to `index`; earlier events have none."""
        values = self.attributes.setdefault(name, [])
        values.extend([None] * (index - len(values)))
        return values

    # -- publishing ------------------------------------------------------------------------------------------------

    def pack(self) -> Sequence[NewBatch]:
        """Validate everything and lay it out by partition; what is refused is left out."""
        count = len(self.bodies)
        attributes = {name: self._column(name, count) for name in self.attributes}
        keys = attributes.pop("", None)
        good = self.bodies
        if self._refused:
            kept = [index for index in range(count) if index not in self._refused]
            good = [self.bodies[index] for index in kept]
            attributes = {name: [values[index] for index in kept] for name, values in attributes.items()}
            keys = None if keys is None else [keys[index] for index in kept]
            packed = self.topic.pack(good, keys=keys, attributes=attributes) if good else Packed([], [], {})
            place: list[tuple[int, int]] = [(-1, -1)] * count
            for position, index in enumerate(kept):
                place[index] = packed.place[position]
            refused = {kept[position]: reason for position, reason in packed.refused.items()}
            self.packed = Packed(packed.batches, place, self._refused | refused)
        else:
            self.packed = self.topic.pack(good, keys=keys, attributes=attributes)
        return self.packed.batches

    def refuse_all(self, reason: str) -> None:
        """Nothing of it is stored: because of `reason`, or its own."""
        own = {} if self.packed is None else self.packed.refused
        self.packed = Packed([], [], {index: own.get(index, reason) for index in range(len(self.bodies))})

    def outcome(self, index: int) -> Outcome:
        """What became of one event.

        Raises:
            PenstockError: nothing of the parcel was stored, and it may be published again (a full disk, a busy log).
        """
        if self.packed is not None and index in self.packed.refused:
            return Rejected(self.topic.name, self.packed.refused[index])
        if self.error is not None:
            raise self.error
        assert self.packed is not None
        assert self.answer is not None
        publish, answer = self.answer
        batch, position = self.packed.place[index]
        number = self.first_batch + batch
        match answer:
            case api.Acked():
                partition = publish.batches[number].partition
                return Acked(self.topic.name, partition, answer.first[number] + position, answer.repeated)
            case api.Refused():
                return Rejected(self.topic.name, answer.reason)
            case api.Unknown():
                return Unknown(self.topic.name, answer.reason, publish, (number, position))

    def outcomes(self) -> list[Outcome]:
        """What became of every event, in order; see `outcome`."""
        return [self.outcome(index) for index in range(len(self.bodies))]


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """Stands for one event that was sent: `outcome` after a `flush`."""

    parcel: Parcel
    index: int

    @property
    def outcome(self) -> Outcome | None:
        """What became of it; None while nobody knows yet.

        Raises:
            PenstockError: as `Client.publish`.
        """
        parcel = self.parcel
        if parcel.answer is None and parcel.error is None and (parcel.packed is None or parcel.packed.batches):
            return None
        return parcel.outcome(self.index)


def assemble(parcels: Iterable[Parcel], *, producer: str, epoch: int, sequence: int) -> api.Publish:
    """One publish of all parcels."""
    batches: list[NewBatch] = []
    for parcel in parcels:
        parcel.first_batch = len(batches)
        batches += parcel.pack() if parcel.packed is None else parcel.packed.batches
    return api.Publish(producer, epoch, sequence, batches)


def together(parcels: Sequence[Parcel]) -> bool:
    """Whether all of it can be stored; if not, nothing is: the others are rejected because of the first bad one."""
    for parcel in parcels:
        parcel.pack()
    bad = next((p for p in parcels if p.packed is not None and p.packed.refused), None)
    if bad is None or bad.packed is None:
        return True
    index, reason = min(bad.packed.refused.items())
    for parcel in parcels:
        parcel.refuse_all(f"published together with an event that was refused ({bad.topic.name}, {index}: {reason})")
    return False


def resolved(unknown: Unknown, answer: api.Acked | api.Refused | api.Unknown) -> Outcome:
    """The outcome of an event whose publish was asked for again."""
    number, position = unknown.place
    match answer:
        case api.Acked():
            partition = unknown.ticket.batches[number].partition
            return Acked(unknown.topic, partition, answer.first[number] + position, answer.repeated)
        case api.Refused():
            return Rejected(unknown.topic, answer.reason)
        case api.Unknown():
            return msgspec.structs.replace(unknown, reason=answer.reason)
