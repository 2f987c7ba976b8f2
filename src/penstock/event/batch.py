"""The batch: the unit that moves. Rows are original bytes, columns are an Arrow record batch; never objects."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    import pyarrow as pa

Attributes = Mapping[str, Sequence[Any]]
"""Attribute name (see `envelope.ATTRIBUTES`) → one value per event; a name that is absent is unset for all."""

NO_ATTRIBUTES: Attributes = {}


def chosen(values: Sequence[Any], indexes: Sequence[int]) -> Sequence[Any]:
    """The values at `indexes`; packed numbers stay packed."""
    picked = [values[index] for index in indexes]
    return array(values.typecode, picked) if isinstance(values, array) else picked


class Rows(msgspec.Struct, frozen=True):
    """Events as the bytes they came as.

    `body` is every event's bytes, each but the last followed by one newline byte; `lengths` holds each event's length
    (an event may contain newlines: the lengths rule). `valid`: whoever recorded them has read each one as exactly one
    JSON value of the topic's type, so the body read as a sequence of values is the events, wherever its newlines are.
    """

    body: bytes
    lengths: array[int]
    attributes: Attributes = NO_ATTRIBUTES
    valid: bool = False

    @classmethod
    def of(cls, bodies: Sequence[bytes], attributes: Attributes = NO_ATTRIBUTES, *, valid: bool = False) -> Rows:
        """Rows of these bodies, in this order."""
        return cls(b"\n".join(bodies), array("I", map(len, bodies)), attributes, valid)

    def bodies(self) -> list[bytes]:
        """Each event's bytes, in order."""
        if not self.lengths:
            return []
        split = self.body.split(b"\n")
        if len(split) == len(self.lengths):
            return split
        ends = list(accumulate(self.lengths[i] + (i > 0) for i in range(len(self.lengths))))
        return [self.body[end - size : end] for end, size in zip(ends, self.lengths, strict=True)]


class Columns(msgspec.Struct, frozen=True):
    """Events of a typed topic as one Arrow record batch."""

    table: pa.RecordBatch
    attributes: Attributes = NO_ATTRIBUTES
    _message: memoryview | None = None

    def message(self) -> memoryview:
        """The table as one Arrow IPC message, its buffers LZ4-compressed, without its schema; made once.

        Most of what storing columns costs the processor: who has time before they are published may ask ahead.
        """
        if self._message is None:
            msgspec.structs.force_setattr(self, "_message", _ipc_message(self.table))
        assert self._message is not None
        return self._message


def _ipc_message(table: pa.RecordBatch) -> memoryview:
    import pyarrow as pa  # noqa: PLC0415

    out = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_stream(out, table.schema, options=options) as writer:
        writer.write_batch(table)
    return memoryview(out.getvalue())[table.schema.serialize().size :]


class NewBatch(msgspec.Struct, frozen=True):
    """Events to be recorded in one partition of one topic, in this order.

    `time_min_us`/`time_max_us` bound the event times (microseconds since 1970, UTC); None when the topic has none.
    """

    topic: str
    partition: int
    count: int
    payload: Rows | Columns
    time_min_us: int | None = None
    time_max_us: int | None = None


class Delivered(msgspec.Struct, frozen=True):
    """Recorded events of one partition: offsets `first` ≤ o < `first + count`, in order and without a gap.

    `origin` says who wrote it: ``producer/epoch/sequence`` of a publish or ``group/topic/partition`` of a step; ids
    of events without their own are derived from it and from how far they lie behind offset `base`. `schema_id` is the
    topic's schema the data was written with.
    """

    topic: str
    partition: int
    first: int
    count: int
    payload: Rows | Columns
    recorded_us: int
    schema_id: int = 0
    time_min_us: int | None = None
    time_max_us: int | None = None
    origin: str = ""
    base: int = 0

    @property
    def end(self) -> int:
        """The offset after the last event."""
        return self.first + self.count

    def parts(self, count_max: int) -> Iterator[Delivered]:
        """The batch in parts of `count_max` events, the last one smaller; ids do not change."""
        if self.count <= count_max:
            yield self
            return
        begin = 0
        for start in range(0, self.count, count_max):
            stop = min(start + count_max, self.count)
            attributes = {name: values[start:stop] for name, values in self.payload.attributes.items()}
            if isinstance(self.payload, Rows):
                lengths = self.payload.lengths[start:stop]
                size = sum(lengths) + len(lengths) - 1
                payload: Rows | Columns = Rows(
                    self.payload.body[begin : begin + size], lengths, attributes, self.payload.valid
                )
                begin += size + 1
            else:
                payload = Columns(self.payload.table.slice(start, stop - start), attributes)
            yield msgspec.structs.replace(self, first=self.first + start, count=stop - start, payload=payload)

    def tail(self, offset: int) -> Delivered:
        """The part from `offset` on, for a group whose floor lies inside this batch; ids do not change."""
        cut = offset - self.first
        if cut <= 0:
            return self
        attributes = {name: values[cut:] for name, values in self.payload.attributes.items()}
        if isinstance(self.payload, Rows):
            skip = sum(self.payload.lengths[:cut]) + cut
            payload: Rows | Columns = Rows(
                self.payload.body[skip:], self.payload.lengths[cut:], attributes, self.payload.valid
            )
        else:
            payload = Columns(self.payload.table.slice(cut), attributes)
        return msgspec.structs.replace(self, first=offset, count=self.count - cut, payload=payload)
