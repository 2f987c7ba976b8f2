"""A topic as columns for SQL: the fields of its type, and what the log knows of each event beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pyarrow as pa

from penstock.channel.typed import TypedTopic
from penstock.delivery.deadletter import from_row
from penstock.engine.context import Identity
from penstock.errors import PermanentError
from penstock.event.batch import Delivered, Rows
from penstock.event.partition import canonical_key
from penstock.schema import ColumnsSchema, Schema
from penstock.schema.adapting import adapt

# What the log knows of each event. Where a type has a field of such a name, the field it is.
METADATA: pa.Schema = pa.schema(
    [
        pa.field("_partition", pa.int32(), nullable=False),
        pa.field("_offset", pa.int64(), nullable=False),
        pa.field("_recorded_time", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("_key", pa.string()),
        pa.field("_id", pa.string(), nullable=False),
        pa.field("_headers", pa.map_(pa.string(), pa.string())),
    ]
)
RAW: pa.Schema = pa.schema([pa.field("body", pa.binary(), nullable=False)])
DEAD: pa.Schema = pa.schema(
    [
        pa.field("group", pa.string(), nullable=False),
        pa.field("topic", pa.string(), nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("stack", pa.string(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("body", pa.binary(), nullable=False),
    ]
)

Payload = Callable[[Delivered, Sequence[str]], pa.RecordBatch]


class TopicColumns:
    """How the events of one topic become columns; `schema` lists all there are."""

    def __init__(self, topic: TypedTopic[Any], own: pa.Schema, payload: Payload) -> None:
        self.topic = topic
        self._own = set(own.names)
        self._payload = payload
        self._key_field = topic.spec.key if topic.schema is not None else None
        beside = [field for field in METADATA if field.name not in self._own]
        self.schema: pa.Schema = pa.schema([*own, *beside])

    def own(self, names: Sequence[str]) -> list[str]:
        """What must be read out of the events themselves for the columns `names`, in the type's order."""
        wanted = {name for name in names if name in self._own}
        if "_key" in names and self._key_field is not None:
            wanted.add(self._key_field)
        return [name for name in self.schema.names if name in wanted]

    def batch(self, delivered: Delivered, names: Sequence[str]) -> pa.RecordBatch:
        """The events as these columns, in this order."""
        own = self.own(names)
        payload = self._payload(delivered, own) if own else None
        arrays: list[pa.Array] = []
        for name in names:
            if name in self._own:
                assert payload is not None
                arrays.append(payload.column(name))
            elif name == "_key":
                arrays.append(self._keys(delivered, payload))
            else:
                arrays.append(_METADATA[name](delivered, self.topic))
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema([self.schema.field(name) for name in names]))

    def _keys(self, delivered: Delivered, payload: pa.RecordBatch | None) -> pa.Array:
        """Keys as text; bytes that are no text as escapes."""
        if self._key_field is None or payload is None:
            keys = delivered.payload.attributes.get("key") or [None] * delivered.count
        else:
            keys = payload.column(self._key_field).to_pylist()
        canonical = map(canonical_key, keys)
        return pa.array([None if k is None else k.decode(errors="backslashreplace") for k in canonical], pa.string())


def columns_of(topic: TypedTopic[Any], *, dead_letters: bool) -> TopicColumns:
    """The columns of a topic: of its type, of a dead letter, or the raw body."""
    if dead_letters:
        return TopicColumns(topic, DEAD, _dead)
    if topic.schema is None:
        return TopicColumns(topic, RAW, _raw)

    return TopicColumns(topic, topic.schema.arrow, _typed(topic, topic.schema))


def _typed(topic: TypedTopic[Any], schema: Schema[Any] | ColumnsSchema) -> Payload:
    def payload(delivered: Delivered, names: Sequence[str]) -> pa.RecordBatch:
        if isinstance(delivered.payload, Rows):
            return topic.table(delivered).select(list(names))
        # Written with an older, compatible type it may lack columns, or have narrower ones.
        wanted: pa.Schema = pa.schema([schema.arrow.field(name) for name in names])
        if isinstance(schema, ColumnsSchema):
            return ColumnsSchema(schema.name, wanted).conform(delivered.payload.table)
        fields = tuple(schema.field(name) for name in names)
        return adapt(msgspec.structs.replace(schema.shape, fields=fields), delivered.payload.table, wanted)

    return payload


def _bodies(delivered: Delivered) -> list[bytes]:
    if isinstance(delivered.payload, Rows):
        return delivered.payload.bodies()
    msg = (
        f"topic {delivered.topic}: columns at offset {delivered.first}, though the topic has no type; it cannot be read"
    )
    raise PermanentError(msg)


def _raw(delivered: Delivered, names: Sequence[str]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(_bodies(delivered), pa.binary())], schema=RAW).select(list(names))


def _dead(delivered: Delivered, names: Sequence[str]) -> pa.RecordBatch:
    headers = delivered.payload.attributes["headers"]
    letters = [from_row(body, h) for body, h in zip(_bodies(delivered), headers, strict=True)]
    arrays = [pa.array([getattr(letter, name) for letter in letters], DEAD.field(name).type) for name in names]
    return pa.RecordBatch.from_arrays(arrays, names=list(names))


def _partition(delivered: Delivered, _topic: TypedTopic[Any]) -> pa.Array:
    return pa.repeat(pa.scalar(delivered.partition, pa.int32()), delivered.count)


def _offset(delivered: Delivered, _topic: TypedTopic[Any]) -> pa.Array:
    return pa.array(range(delivered.first, delivered.end), pa.int64())


def _recorded_time(delivered: Delivered, _topic: TypedTopic[Any]) -> pa.Array:
    moment = pa.scalar(delivered.recorded_us, pa.int64()).cast(METADATA.field("_recorded_time").type)
    return pa.repeat(moment, delivered.count)


def _id(delivered: Delivered, topic: TypedTopic[Any]) -> pa.Array:
    identity = Identity(delivered, topic)
    return pa.array([identity.id(index) for index in range(delivered.count)], pa.string())


def _headers(delivered: Delivered, _topic: TypedTopic[Any]) -> pa.Array:
    headers = delivered.payload.attributes.get("headers") or [None] * delivered.count
    pairs = [None if h is None else list(h.items()) for h in headers]
    return pa.array(pairs, METADATA.field("_headers").type)


_METADATA: dict[str, Callable[[Delivered, TypedTopic[Any]], pa.Array]] = {
    "_partition": _partition,
    "_offset": _offset,
    "_recorded_time": _recorded_time,
    "_id": _id,
    "_headers": _headers,
}
