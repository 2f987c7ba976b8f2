"""A topic with its Python type: from events to batches per partition, and back. Used by clients, engine and sources."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import msgspec

from penstock.channel.api import Topic
from penstock.errors import ConfigError, DecodeError, PermanentError, Rejected
from penstock.event.batch import Attributes, Columns, Delivered, NewBatch, Rows, chosen
from penstock.event.beside import time_us
from penstock.event.checks import check_event
from penstock.event.envelope import NewEvent
from penstock.event.partition import KEY_BYTES_MAX, Key, canonical_key, partition_of, partitions_of
from penstock.schema import ColumnsSchema, Hiding, Invalid, Schema
from penstock.schema.hiding import Hide, as_it_is

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")
SLICE = 1000


class Packed(msgspec.Struct):
    """Events as batches, and why some were refused, by index in the input.

    `members` holds for each batch the indexes of its events; None when one batch holds everything.
    """

    batches: list[NewBatch]
    refused: dict[int, str]
    members: Sequence[Sequence[int]] | None = None
    _places: dict[int, tuple[int, int]] | None = None

    def place(self, index: int) -> tuple[int, int]:
        """The batch of a good event, and its index in it; worked out when somebody asks."""
        if self.members is None:
            return 0, index
        if self._places is None:
            self._places = {
                index: (number, position)
                for number, indexes in enumerate(self.members)
                for position, index in enumerate(indexes)
            }
        return self._places[index]


class Seen(msgspec.Struct):
    """What validating events showed: why some are refused, by index; each one's key and event time where it has any."""

    count: int = 0
    refused: dict[int, str] = msgspec.field(default_factory=dict[int, str])
    keys: list[Any] = msgspec.field(default_factory=list[Any])
    times: list[Any] = msgspec.field(default_factory=list[Any])

    def forget(self, count: int) -> None:
        """Go back to the first `count` events."""
        self.count = count
        del self.keys[count:], self.times[count:]
        self.refused = {index: reason for index, reason in self.refused.items() if index < count}


_QUICK_KEYS: dict[str, Callable[[Any], bytes]] = {"str": str.encode, "int": b"%d".__mod__, "bytes": bytes}


def _quick_key(schema: Schema[Any] | ColumnsSchema | None, name: str) -> Callable[[Any], bytes] | None:
    """`canonical_key` for a field that always holds one kind of value; its length is looked at afterwards."""
    if not isinstance(schema, Schema) or schema.field(name).optional:
        return None
    return _QUICK_KEYS.get(schema.field(name).kind)


class TypedTopic(Generic[T]):
    """One declared topic and, when it has one, its schema. Holds no connection; may be used from any thread."""

    def __init__(self, topic: Topic, schema: Schema[T] | ColumnsSchema | None) -> None:
        self.spec = topic.spec
        self.schema_id = topic.schema_id
        self.name = topic.spec.name
        self.schema = schema
        self.hiding = Hiding.of(schema.shape) if isinstance(schema, Schema) else None
        self.encode_quick = schema.encode_quick if isinstance(schema, Schema) else self.encode
        """As `encode`, but it raises whatever an encoder raises: ask `encode` for the reason."""
        self._key: Callable[[Any], Key] | None = attrgetter(topic.spec.key) if topic.spec.key else None
        self._quick_key = None if topic.spec.key is None else _quick_key(schema, topic.spec.key)
        self._time: Callable[[Any], datetime] | None = attrgetter(topic.spec.time) if topic.spec.time else None

    # -- events to batches -----------------------------------------------------------------------------------------

    def encode(self, event: T) -> bytes:
        """One event as the bytes it is stored as.

        Raises:
            DecodeError: a consumer could not read it; the field is named.
        """
        if self.schema is not None:
            return self.schema.encode(event)
        if isinstance(event, bytes):
            return event
        msg = f"topic {self.name} has no type and takes bytes; found {type(event).__name__}"
        raise DecodeError(msg)

    def hide(self, body: bytes) -> Hide:
        """What takes the personal values of the event with these bytes out of a text about it."""
        return as_it_is if self.hiding is None else self.hiding.from_texts(body)

    def check_envelope(self, event: NewEvent) -> None:
        """Whether events of this topic may come in such an envelope; the data is looked at when it is encoded.

        Raises:
            Rejected: names the attribute, what was found and what was expected.
        """
        check_event(event)
        if event.key is not None and self.spec.key is not None:
            raise Rejected(f"a key beside the event, and topic {self.name} takes it from field {self.spec.key}")

    def pack(
        self,
        bodies: list[bytes],
        *,
        keys: Sequence[Key] | None = None,
        attributes: Attributes | None = None,
        seen: Seen | None = None,
    ) -> Packed:
        """Validate encoded events and lay them out by partition, keeping their order within each.

        Args:
            bodies: encoded events, as `encode` gives them.
            keys: for topics whose type has no key field: one per event.
            attributes: one value per event for each name.
            seen: what `look` found in all of them, when the caller has had it look at them already.
        """
        if seen is None:
            seen = Seen()
            for start in range(0, len(bodies), SLICE):
                self.look(bodies[start : start + SLICE], seen)
        canonical = self._canonical(seen.keys if self._key is not None else keys, seen.refused)
        return self._lay_out(bodies, canonical, seen, attributes=attributes or {})

    def look(self, bodies: list[bytes], seen: Seen) -> None:
        """Validate the next slice, small enough for its events to stay in the cache; keep what laying out needs."""
        start, seen.count = seen.count, seen.count + len(bodies)
        limit = self.spec.event_bytes_max
        if max(map(len, bodies), default=0) > limit:
            large = ((index, len(body)) for index, body in enumerate(bodies, start) if len(body) > limit)
            seen.refused.update({index: self._too_large(size) for index, size in large})
        if self.schema is None:
            return
        found = self.schema.validate_lines(bodies)
        events = found.events if isinstance(found, Invalid) else found
        if isinstance(found, Invalid):
            why = {start + index: self.hide(bodies[index])(reason) for index, reason in found.reasons.items()}
            seen.refused.update(why)
        for get, values in ((self._key, seen.keys), (self._time, seen.times)):
            if get is not None:
                values.extend(map(get, events) if events is found else (None if e is None else get(e) for e in events))

    def look_at_keys(self, seen: Seen, start: int) -> None:
        """Note in `seen` which events from index `start` on have a key that cannot be one, as laying out does."""
        if self._key is None:
            return
        refused = {index - start: reason for index, reason in seen.refused.items() if index >= start}
        self._canonical(seen.keys[start:], refused)
        seen.refused.update({start + index: reason for index, reason in refused.items()})

    def _too_large(self, size: int) -> str:
        return (
            f"an event of {size} bytes; topic {self.name} takes at most {self.spec.event_bytes_max}: store the body "
            "elsewhere and publish a reference, or raise the topic's event_bytes_max"
        )

    def _canonical(self, keys: Sequence[Any] | None, refused: dict[int, str]) -> list[bytes | None] | None:
        """The keys' bytes; None when events have none. Keys that cannot be are noted in `refused`."""
        if keys is None:
            return None
        if self._quick_key is not None and not refused:
            found = list(map(self._quick_key, keys))
            if max(map(len, found), default=0) <= KEY_BYTES_MAX:
                return cast("list[bytes | None]", found)
        out: list[bytes | None] = [None] * len(keys)
        for index, key in enumerate(keys):
            try:
                out[index] = canonical_key(key)
            except ValueError as exc:
                refused.setdefault(index, str(exc))
        return out

    def _lay_out(
        self,
        bodies: list[bytes],
        keys: list[bytes | None] | None,
        seen: Seen,
        *,
        attributes: Attributes,
    ) -> Packed:
        refused, times = seen.refused, seen.times or None
        stored = dict(attributes)
        if keys is not None and self._key is None:
            stored["key"] = keys
        count = len(bodies)
        # A batch holds at least one event: a source's chunk may hold nothing but bad lines.
        if bodies and not refused and (keys is None or self.spec.partitions == 1):
            batch = self._batch(0, bodies, stored, times)
            return Packed([batch], refused)
        numbers = [0] * count if keys is None else partitions_of(keys, self.spec.partitions)
        members: dict[int, list[int]] = {}
        for index, number in enumerate(numbers):
            if index not in refused:
                members.setdefault(number, []).append(index)
        batches: list[NewBatch] = []
        for number, indexes in sorted(members.items()):
            part = {name: chosen(values, indexes) for name, values in stored.items()}
            moments = None if times is None else [times[i] for i in indexes]
            batches.append(self._batch(number, [bodies[i] for i in indexes], part, moments))
        return Packed(batches, refused, [indexes for _, indexes in sorted(members.items())])

    def _batch(
        self, number: int, bodies: list[bytes], attributes: Attributes, times: Sequence[datetime | None] | None
    ) -> NewBatch:
        known = [t for t in times if t is not None] if times else []
        low, high = (time_us(min(known)), time_us(max(known))) if known else (None, None)
        rows = Rows.of(bodies, attributes, valid=self.schema is not None)
        return NewBatch(self.name, number, len(bodies), rows, low, high)

    def pack_columns(self, table: pa.RecordBatch, attributes: Attributes | None = None) -> list[NewBatch]:
        """Lay out columns by partition, keeping the rows' order within each. The columns are valid already."""
        import pyarrow as pa  # noqa: PLC0415

        pc = _compute()
        given = attributes or {}
        if table.num_rows == 0:
            return []
        if self.spec.key is None or self.spec.partitions == 1:
            return [self.columns_batch(0, table, given)]
        encoded = pc.dictionary_encode(table.column(self.spec.key))
        per_key = partitions_of([canonical_key(k) for k in encoded.dictionary.to_pylist()], self.spec.partitions)
        numbers = pc.fill_null(pc.take(pa.array(per_key, pa.int32()), encoded.indices), partition_of(None, 1))
        out: list[NewBatch] = []
        for number in sorted(set(per_key) | ({0} if encoded.null_count else set())):
            indexes = pc.indices_nonzero(pc.equal(numbers, pa.scalar(number, pa.int32())))
            if len(indexes) == 0:
                continue
            part = {name: chosen(values, indexes.to_pylist()) for name, values in given.items()}
            out.append(self.columns_batch(number, table.take(indexes), part))
        return out

    def columns_batch(self, number: int, table: pa.RecordBatch, attributes: Attributes | None = None) -> NewBatch:
        """These columns as one batch of partition `number`, with the bounds of their event times."""
        low = high = None
        if self.spec.time is not None:
            import pyarrow as pa  # noqa: PLC0415

            ends = _compute().min_max(table.column(self.spec.time).cast(pa.timestamp("us", "UTC")).cast(pa.int64()))
            low, high = ends["min"].as_py(), ends["max"].as_py()
        return NewBatch(self.name, number, table.num_rows, Columns(table, attributes or {}), low, high)

    # -- batches to events -----------------------------------------------------------------------------------------

    def events(self, delivered: Delivered) -> Sequence[T]:
        """The batch's events as objects of the topic's type (bytes for a topic without one), in offset order.

        Raises:
            DecodeError: an event's bytes are not what the schema says (an older, incompatible writer).
        """
        payload = delivered.payload
        if self.schema is None:
            assert isinstance(payload, Rows)
            return payload.bodies()  # type: ignore[return-value]
        if isinstance(payload, Rows):
            return cast("Sequence[T]", self.schema.decode_lines(payload.body, delivered.count, valid=payload.valid))
        return cast("Sequence[T]", self.schema.from_columns(payload.table))

    def keys(self, delivered: Delivered, events: Sequence[Any]) -> Sequence[Any] | None:
        """The batch's keys as its events, or what lies beside them, hold them; None when they have none.

        An event that is None (it could not be decoded) has the key None.
        """
        payload, field = delivered.payload, self.spec.key
        if field is None or self._key is None:
            return payload.attributes.get("key")
        if isinstance(payload, Columns):
            return payload.table.column(field).to_pylist()
        if isinstance(self.schema, Schema):
            try:
                return list(map(self._key, events))
            except AttributeError:  # some could not be decoded
                return [None if event is None else self._key(event) for event in events]
        return [None if event is None else event[field] for event in events]

    def decode(self, body: bytes) -> T:
        """One event from its bytes.

        Raises:
            DecodeError: the bytes are not what the schema says.
        """
        return body if self.schema is None else self.schema.decode(body)  # type: ignore[return-value]

    def table(self, delivered: Delivered) -> pa.RecordBatch:
        """The batch's events as columns of the topic's schema, in offset order."""
        if self.schema is None:
            msg = f"topic {self.name} has no type, so it has no columns; declare the topic with a type"
            raise PermanentError(msg)
        payload = delivered.payload
        if isinstance(payload, Rows):
            return self.schema.lines_to_columns(payload.body, delivered.count)
        return self.schema.conform(payload.table)

    def empty(self) -> pa.RecordBatch:
        """No events, as columns."""
        import pyarrow as pa  # noqa: PLC0415

        return pa.RecordBatch.from_pylist([], schema=self.columns())

    def columns(self, names: Sequence[str] | None = None) -> pa.Schema:
        """The topic's Arrow schema, or these columns of it.

        Raises:
            ConfigError: the topic has no type, or no such column.
        """
        if self.schema is None:
            msg = "it has no type, so it has no columns; declare it with a type"
            raise ConfigError(msg, path=f"topics.{self.name}")
        arrow = self.schema.arrow
        if names is None:
            return arrow
        unknown = [name for name in names if name not in arrow.names]
        if unknown:
            msg = f"no column {', '.join(unknown)}; it has {', '.join(arrow.names)}"
            raise ConfigError(msg, path=f"topics.{self.name}")
        import pyarrow as pa  # noqa: PLC0415

        return pa.schema([arrow.field(name) for name in names])

    def bodies(self, delivered: Delivered) -> list[bytes]:
        """Each event's bytes; for blocks of columns, the JSON they would be."""
        payload = delivered.payload
        if isinstance(payload, Rows):
            return payload.bodies()
        assert self.schema is not None
        return self.schema.columns_to_lines(payload.table)


def _compute() -> Any:
    """Arrow's functions, which are made at run time: no checker knows them."""
    import pyarrow.compute as pc  # noqa: PLC0415

    return pc
