"""A part of a batch as a handler works through it: its events, their keys, and which of them wait behind another."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate, compress, islice
from typing import Any

import msgspec

from penstock.channel.typed import TypedTopic
from penstock.delivery.lot import ident_of
from penstock.engine.context import Identity
from penstock.errors import DecodeError
from penstock.event.batch import Columns, Delivered, Rows
from penstock.event.partition import canonical_key

PART_ROWS, PART_COLUMNS = 1_000, 2_000
"""Events are decoded so many at a time: they are handled while they are in the processor's cache.

More of them from columns, where every batch has fixed costs."""
STRIDE = 64


def parts_of(batches: Sequence[Delivered]) -> Iterator[Delivered]:
    """The batches in parts."""
    for batch in batches:
        yield from batch.parts(PART_ROWS if isinstance(batch.payload, Rows) else PART_COLUMNS)


_TURNED = bytes((1, 0, *range(2, 256)))
_WAITS = re.compile(b"\0").finditer


class Part:
    """Decoded events of `delivered`. One that is not what the schema says is None, and named in `broken`."""

    def __init__(self, delivered: Delivered, topic: TypedTopic[Any]) -> None:
        self.delivered = delivered
        self.first, self.end = delivered.first, delivered.end
        self.broken: dict[int, str] = {}
        self._topic = topic
        self._mask: bytearray | None = None  # 0: it waits behind another event of its key
        self.events = self._decoded()
        keys = topic.keys(delivered, self.events)
        self.keys: Sequence[Any] = [None] * len(self.events) if keys is None else keys
        """Each event's key, None where it has none. As recorded: a handler may change what it is given."""

    @cached_property
    def picker(self) -> Picker:
        """Single events of it."""
        return Picker(self.delivered)

    def _decoded(self) -> Sequence[Any]:
        if self.delivered.count == 1 and isinstance(self.delivered.payload, Rows):  # an event that is handled again
            return self._each()
        try:
            return self._topic.events(self.delivered)
        except DecodeError:
            return self._each()

    def _each(self) -> list[Any]:
        events: list[Any] = []
        for offset, body in enumerate(self._topic.bodies(self.delivered), self.first):
            try:
                events.append(self._topic.decode(body))
            except DecodeError as exc:
                self.broken[offset] = str(exc)
                events.append(None)
        return events

    def key(self, offset: int) -> bytes | None:
        """The canonical key of one event."""
        try:
            return canonical_key(self.keys[offset - self.first])
        except ValueError:
            return None

    def ident(self, offset: int) -> bytes:
        """What the event's key is told by in the lot."""
        return ident_of(self.key(offset), offset)

    # -- who waits -------------------------------------------------------------------------------------------------

    def hold(self, keys: Mapping[Any, object], since: int | None = None) -> None:
        """From offset `since` on (None: all of it) events of these keys wait, and no others."""
        low = 0 if since is None else since - self.first
        mask = bytearray(b"\1") * low if self._mask is None else self._mask[:low]
        if keys:
            mask += bytearray(map(keys.__contains__, islice(self.keys, low, None))).translate(_TURNED)
        self._mask = mask.ljust(len(self.events), b"\1") if 0 in mask else None

    def hold_behind(self, offset: int) -> None:
        """The later events of this event's key wait."""
        if not self.has_behind(offset):
            return
        if self._mask is None:
            self._mask = bytearray(b"\1") * len(self.events)
        keys, index = self.keys, offset - self.first
        key = keys[index]
        last = self._lasts[key]
        while index < last:
            index = keys.index(key, index + 1)
            self._mask[index] = 0

    def has_behind(self, offset: int) -> bool:
        """Whether a later event has this event's key."""
        index = offset - self.first
        key = self.keys[index]
        return key is not None and self._lasts[key] > index

    @cached_property
    def _lasts(self) -> dict[Any, int]:
        """Where each key is last: looked for once, and not with every failure."""
        return {key: index for index, key in enumerate(self.keys)}

    def waits(self, offset: int) -> bool:
        """Whether the event waits behind another of its key."""
        return self._mask is not None and not self._mask[offset - self.first]

    def waiting(self, start: int, end: int) -> list[int]:
        """Offsets in [start, end) that wait."""
        if self._mask is None:
            return []
        first = self.first  # they are few: a number for each of the others would cost more than the search
        return [first + found.start() for found in _WAITS(self._mask, start - first, end - first)]

    def free(self, start: int, end: int) -> bool:
        """Whether any event of [start, end) does not wait."""
        if self._mask is None:
            return start < end
        return self._mask.find(1, start - self.first, end - self.first) >= 0

    def calls(self, start: int, end: int) -> PartCalls:
        """Those in [start, end) that do not wait."""
        low = start - self.first
        mask = None if self._mask is None else islice(self._mask, low, None) if low else iter(self._mask)
        return PartCalls(list(self.events[low : end - self.first]), start, mask)


class PartCalls:
    """See `Calls`. Nothing is done for it per event: what iterates over a list ends where the list does.

    `mask` says of each event whether it is called, when its turn has come; None: all are.
    """

    def __init__(self, events: list[Any], start: int, mask: Iterator[int] | None) -> None:
        self.masked = mask is not None
        self._cut = False
        self._events = events
        self._start = start
        self._mask = mask

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """See `Calls`."""
        numbered = enumerate(self._events, self._start)
        return numbered if self._mask is None else compress(numbered, self._mask)

    def cut_short(self) -> None:
        """See `Calls`."""
        self._cut = True
        del self._events[1:]

    def uncalled(self, last: int) -> int | None:
        """See `Calls`. Where nothing was called, `last` is the first one's: it waits, and needs no call."""
        return last + 1 if self._cut else None


class Picker:
    """Single events of a batch, as batches of one; their ids do not change."""

    def __init__(self, delivered: Delivered) -> None:
        payload = delivered.payload
        self.delivered = delivered
        self.size = len(payload.body) if isinstance(payload, Rows) else payload.table.nbytes

    @cached_property
    def _before(self) -> Sequence[int]:
        """How many bytes of events lie before each STRIDE-th one: lists of all ends, or bodies, cost more than sums."""
        payload = self.delivered.payload
        assert isinstance(payload, Rows)
        lengths = payload.lengths
        strides = (sum(lengths[index : index + STRIDE]) for index in range(0, len(lengths), STRIDE))
        return list(accumulate(strides, initial=0))

    def _body(self, payload: Rows, index: int) -> bytes:
        lengths, stride = payload.lengths, index // STRIDE
        start = self._before[stride] + sum(lengths[stride * STRIDE : index]) + index
        return payload.body[start : start + lengths[index]]

    def event(self, offset: int, topic: TypedTopic[Any]) -> Any:
        """The event at `offset`, decoded anew.

        Raises:
            DecodeError: it is not what the schema says.
        """
        payload = self.delivered.payload
        if not isinstance(payload, Rows):
            return topic.events(self.one(offset))[0]
        return topic.decode(self._body(payload, offset - self.delivered.first))

    def one(self, offset: int) -> Delivered:
        """The event at `offset` as a batch."""
        delivered = self.delivered
        index, payload = offset - delivered.first, delivered.payload
        attributes = payload.attributes
        if attributes:
            attributes = {name: values[index : index + 1] for name, values in attributes.items()}
        if isinstance(payload, Rows):
            one: Rows | Columns = Rows(self._body(payload, index), payload.lengths[index : index + 1], attributes)
        else:
            one = Columns(payload.table.slice(index, 1), attributes)
        return msgspec.structs.replace(delivered, first=offset, count=1, payload=one)


def redriven(topic: str, partition: int, *, offset: int, body: bytes, key: bytes | None, identity: str) -> Delivered:
    """An event that comes from the dead letters, as if it were read from the log again."""
    attributes: dict[str, Sequence[Any]] = {"id": [identity]} if identity else {}
    if key is not None:
        attributes["key"] = [key]
    return Delivered(topic, partition, offset, 1, Rows.of([body], attributes), recorded_us=0, base=offset)


def in_its_envelope(event: Delivered, one: Delivered, topic: TypedTopic[Any]) -> Delivered:
    """A redriven event with what lay beside it, and when it was recorded, when `one`, at its offset, is what it was.

    Its bytes are the letter's, which may be edited.
    """
    if Identity(one, topic).id(0) != Identity(event, topic).id(0):
        return event
    attributes = {**one.payload.attributes, **event.payload.attributes}
    return msgspec.structs.replace(one, payload=msgspec.structs.replace(event.payload, attributes=attributes))


__all__ = ["PART_COLUMNS", "PART_ROWS", "Part", "Picker", "in_its_envelope", "parts_of", "redriven"]
