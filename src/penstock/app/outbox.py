"""What a client is about to publish, and what became of it: shared by the plain client and its asyncio twin."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, final

import msgspec

from penstock.app.outcome import Acked, Outcome, Rejected, Unknown
from penstock.channel import api
from penstock.channel.ids import without
from penstock.channel.sealed import Sealed, seal
from penstock.channel.typed import Packed, TypedTopic
from penstock.errors import ConfigError
from penstock.event.batch import Columns, NewBatch
from penstock.event.beside import Beside
from penstock.event.envelope import NewEvent
from penstock.event.partition import Key, canonical_key

CHUNK_EVENTS = 5_000
CHUNK_BYTES = 1_000_000


class Parcel:
    """Encoded events for one topic, in order, and once published, their outcomes."""

    __slots__ = (
        "_beside",
        "_bodies",
        "_kept",
        "_known",
        "_refused",
        "_settled",
        "count",
        "error",
        "first_batch",
        "packed",
        "size",
        "topic",
        "whole",
    )

    def __init__(self, topic: TypedTopic[Any]) -> None:
        self.topic = topic
        self.count = 0
        self.size = 0
        self._bodies: list[bytes] = []
        self._beside = Beside()
        self._refused: dict[int, str] = {}
        self._known: dict[int, int | Acked] = {}  # by its id it is in the log already, or the same as this earlier one
        self._kept: dict[int, int] | None = None
        self.whole = False
        """Whether all parcels of its publish are stored, or none."""
        self.packed: Packed | None = None
        self.first_batch = 0
        self._settled: _Settled | None = None
        self.error: Exception | None = None

    # -- filling ---------------------------------------------------------------------------------------------------

    def add(self, event: Any) -> int:
        """Take one event on; returns its index. One that cannot be encoded is rejected, alone."""
        if type(event) is not NewEvent:
            try:
                return self._append(self.topic.encode_quick(event))
            except Exception:  # noqa: BLE001 - `seal` finds the reason
                pass
        return self._append(self._unsealed(seal(self.topic, event), self.count))

    def take(self, sent: deque[Receipt | FrameReceipt], count_max: int) -> None:
        """Take on what was sent, in order: up to `count_max` events, up to the next frame, or past CHUNK_BYTES."""
        bodies, size = self._bodies, 0
        for index in range(count_max):
            receipt = sent.popleft()
            if type(receipt) is FrameReceipt:
                sent.appendleft(receipt)  # nobody else takes
                break
            held = receipt.held
            body = held if type(held) is bytes else self._unsealed(held, index)
            bodies.append(body)
            size += len(body)
            receipt.held, receipt.index = self, index
            if size >= CHUNK_BYTES:
                break
        self.count, self.size = len(bodies), size

    def _unsealed(self, sealed: Sealed, index: int) -> bytes:
        """Note what is beside the bytes."""
        if sealed.refused:
            self._refused[index] = sealed.refused
        elif sealed.event is not None:
            self._beside.note(sealed.event, index)
        return sealed.body

    def _append(self, body: bytes) -> int:
        index = self.count
        self._bodies.append(body)
        self.count = index + 1
        self.size += len(body)
        return index

    # -- publishing ------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Whatever can be done before it is published."""
        if self.packed is None:
            self.pack()
            return
        for batch in self.packed.batches:
            if isinstance(batch.payload, Columns):
                batch.payload.message()

    def pack(self) -> Sequence[NewBatch]:
        """Validate everything and lay it out by partition; what is refused is left out. The bytes go with it."""
        bodies, self._bodies = self._bodies, []
        attributes = self._beside.columns(self.count)
        keys = attributes.pop("key", None)
        if self.topic.spec.dedupe is not None and "id" in attributes:
            self._look_for_twins(attributes["id"], bodies, keys)
        if self._refused or self._known:
            kept = [index for index in range(self.count) if index not in self._refused and index not in self._known]
            bodies = [bodies[index] for index in kept]
            attributes = {name: [values[index] for index in kept] for name, values in attributes.items()}
            keys = None if keys is None else [keys[index] for index in kept]
            self._kept = {index: position for position, index in enumerate(kept)}
            self.packed = self.topic.pack(bodies, keys=keys, attributes=attributes) if kept else Packed([], {})
            self._refused |= {kept[position]: reason for position, reason in self.packed.refused.items()}
        else:
            self.packed = self.topic.pack(bodies, keys=keys, attributes=attributes)
            self._refused = self.packed.refused
        return self.packed.batches

    def _look_for_twins(self, ids: Sequence[str | None], bodies: Sequence[bytes], keys: Sequence[Any] | None) -> None:
        """Events that have the id of an earlier one of the parcel: the same again, or refused."""
        first: dict[str, int] = {}
        for index, event_id in enumerate(ids):
            if event_id is None or index in self._refused:
                continue
            other = first.setdefault(event_id, index)
            if other == index:
                continue
            if bodies[index] == bodies[other] and (keys is None or _alike(keys[index], keys[other])):
                self._known[index] = other
            else:
                self._refused[index] = _id_conflict(event_id, "another event of this publish")

    def leave_out(self, duplicates: Iterable[api.Duplicate]) -> None:
        """Events that are in the log already, by their ids, are not published again, and others refused for theirs."""
        assert self.packed is not None
        packed = self.packed
        members = packed.members
        if members is None:
            members = [range(batch.count) for batch in packed.batches]
        original = None if self._kept is None else {position: index for index, position in self._kept.items()}
        mine: list[api.Duplicate] = []
        for one in duplicates:
            number = one.batch - self.first_batch
            if not 0 <= number < len(packed.batches):
                continue
            mine.append(msgspec.structs.replace(one, batch=number))
            position = members[number][one.index]
            index = position if original is None else original[position]
            if one.same:
                self._known[index] = Acked(self.topic.name, one.partition, one.offset, repeated=True)
            else:
                event_id = packed.batches[number].payload.attributes["id"][one.index]
                place = f"the event at offset {one.offset} of partition {one.partition}"
                self._refused[index] = _id_conflict(event_id, place)
        batches = without(packed.batches, mine)
        gone = {(one.batch, one.index) for one in mine}
        left = [[p for i, p in enumerate(indexes) if (b, i) not in gone] for b, indexes in enumerate(members)]
        kept = [(batch, indexes) for batch, indexes in zip(batches, left, strict=True) if batch is not None]
        self.packed = Packed([batch for batch, _ in kept], packed.refused, [indexes for _, indexes in kept])

    @property
    def refused(self) -> dict[int, str]:
        """Why events will not be stored, by index."""
        return self._refused

    def refuse_all(self, reason: str) -> None:
        """Nothing of it is stored: because of `reason`, or its own."""
        self._refused = {index: self._refused.get(index, reason) for index in range(self.count)}
        self._known = {}
        self.packed = Packed([], {})

    def settle(self, publish: api.Publish, answer: api.Acked | api.Refused | api.Unknown) -> None:
        """Note the answer to the publish that carried it; the bytes are let go unless it must be asked again."""
        assert self.packed is not None
        mine = slice(self.first_batch, self.first_batch + len(self.packed.batches))
        partitions = [batch.partition for batch in self.packed.batches]
        self._settled = _Settled(
            partitions,
            first=answer.first[mine] if isinstance(answer, api.Acked) else (),
            answer=answer,
            ticket=publish if isinstance(answer, api.Unknown) else None,
        )
        self.packed.batches = []

    @property
    def known(self) -> bool:
        """Whether every outcome is known."""
        if self._settled is not None or self.error is not None:
            return True
        return self.packed is not None and len(self._refused) + len(self._known) == self.count

    def outcome(self, index: int) -> Outcome:
        """What became of one event.

        Raises:
            PenstockError: nothing of the parcel was stored, and it may be published again (a full disk, a busy log).
        """
        if index in self._refused:
            return Rejected(self.topic.name, self._refused[index])
        known = self._known.get(index)
        if isinstance(known, int):
            outcome = self.outcome(known)
            return msgspec.structs.replace(outcome, repeated=True) if isinstance(outcome, Acked) else outcome
        if known is not None:
            return known
        if self.error is not None:
            raise self.error
        assert self.packed is not None
        assert self._settled is not None
        settled = self._settled
        batch, position = self.packed.place(index if self._kept is None else self._kept[index])
        match settled.answer:
            case api.Acked(repeated=repeated):
                return Acked(self.topic.name, settled.partitions[batch], settled.first[batch] + position, repeated)
            case api.Refused(reason=reason):
                return Rejected(self.topic.name, reason)
            case api.Unknown(reason=reason):
                assert settled.ticket is not None
                return Unknown(self.topic.name, reason, settled.ticket, (self.first_batch + batch, position))

    def outcomes(self) -> list[Outcome]:
        """What became of every event, in order; see `outcome`."""
        return [self.outcome(index) for index in range(self.count)]


class _Settled(msgspec.Struct, frozen=True):
    """Where each batch of a parcel went: its partition and first offset; or the answer that says why it did not."""

    partitions: Sequence[int]
    first: Sequence[int]
    answer: api.Acked | api.Refused | api.Unknown
    ticket: api.Publish | None


class Receipt(msgspec.Struct, gc=False, eq=False):
    """Stands for one event that was sent: `outcome` after a `flush`.

    `held` is the event as it was sent, and once it is under way, the parcel that holds it, at `index`.
    """

    held: Any
    index: int = 0

    @property
    def outcome(self) -> Outcome | None:
        """What became of it; None while nobody knows yet.

        Raises:
            PenstockError: as `Client.publish`.
        """
        held = self.held
        return held.outcome(self.index) if isinstance(held, Parcel) and held.known else None


@final
class FrameReceipt(msgspec.Struct, gc=False, eq=False):
    """Stands for one frame that was sent: `outcomes` after a `flush`."""

    held: Parcel

    @property
    def outcomes(self) -> list[Outcome] | None:
        """What became of it, as `Client.publish_frame` says it; None while nobody knows yet.

        Raises:
            PenstockError: as `Client.publish_frame`.
        """
        return self.held.outcomes() if self.held.known else None


def laid_out(topic: TypedTopic[Any], batches: Sequence[NewBatch] | Rejected) -> Parcel:
    """A parcel of columns that are laid out by partition already; one outcome per batch, that of its first row."""
    parcel = Parcel(topic)
    if isinstance(batches, Rejected):
        parcel.count = 1
        parcel.refuse_all(batches.reason)
        return parcel
    parcel.count = len(batches)
    parcel.size = sum(batch.payload.table.nbytes for batch in batches if isinstance(batch.payload, Columns))
    parcel.packed = Packed(list(batches), {}, [[index] for index in range(len(batches))])
    return parcel


def assemble(parcels: Iterable[Parcel]) -> list[NewBatch]:
    """What one publish of all parcels holds."""
    batches: list[NewBatch] = []
    for parcel in parcels:
        parcel.first_batch = len(batches)
        batches += parcel.pack() if parcel.packed is None else parcel.packed.batches
    return batches


def leave_out(parcels: Sequence[Parcel], answer: api.Acked | api.Refused | api.Unknown) -> None:
    """Leave out of the publish that was answered so what is in the log already; see `Parcel.leave_out`."""
    if isinstance(answer, api.Refused) and answer.duplicates:
        for parcel in parcels:
            parcel.leave_out(answer.duplicates)
        if any(parcel.whole for parcel in parcels):
            _whole(parcels)


def together(parcels: Sequence[Parcel]) -> bool:
    """Whether all of it can be stored; if not, nothing is: the others are rejected because of the first bad one."""
    for parcel in parcels:
        parcel.whole = True
        parcel.pack()
    return _whole(parcels)


def _whole(parcels: Sequence[Parcel]) -> bool:
    bad = next((parcel for parcel in parcels if parcel.refused), None)
    if bad is None:
        return True
    index, reason = min(bad.refused.items())
    for parcel in parcels:
        parcel.refuse_all(f"published together with an event that was refused ({bad.topic.name}, {index}: {reason})")
    return False


def ticket_of(unknown: Unknown) -> api.Publish:
    """What has to be asked for again.

    Raises:
        ConfigError: the outcome is known.
    """
    if not isinstance(unknown, Unknown):  # pyright: ignore[reportUnnecessaryIsInstance]
        msg = f"found {type(unknown).__name__}; expected the Unknown that a publish answered with"
        raise ConfigError(msg, path="client.resolve")
    return unknown.ticket


def resolved(unknown: Unknown, answer: api.Acked | api.Refused | api.Unknown) -> Outcome:
    """The outcome of an event whose publish was asked for again.

    A refusal settles it only where it says that the event was never stored, and never will be.
    """
    number, position = unknown.place
    match answer:
        case api.Acked():
            partition = unknown.ticket.batches[number].partition
            return Acked(unknown.topic, partition, answer.first[number] + position, answer.repeated)
        case api.Refused(conflict="" | "epoch"):
            return Rejected(unknown.topic, answer.reason)
        case api.Refused(conflict="id"):
            return _told_apart(unknown, answer)
        case api.Refused() | api.Unknown():
            return msgspec.structs.replace(unknown, reason=answer.reason)


def _told_apart(unknown: Unknown, answer: api.Refused) -> Outcome:
    """The publish was never stored, and cannot be any more as it is: others have brought events of it meanwhile."""
    for one in answer.duplicates:
        if (one.batch, one.index) == unknown.place and one.same:
            return Acked(unknown.topic, one.partition, one.offset, repeated=True)
    return Rejected(unknown.topic, f"{answer.reason}; publish this event again")


def _alike(key: Key, other: Key) -> bool:
    """Whether two keys are the same bytes, as they are in the log."""
    return canonical_key(key) == canonical_key(other)


def _id_conflict(event_id: str, other: str) -> str:
    return (
        f"id conflict: {event_id!r} is the id of {other}, which has another content, and the topic records each id "
        "once; give this event an id of its own, or correct what published the other"
    )
