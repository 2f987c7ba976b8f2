"""Between the channel's batches and the log's blocks: pure mapping, nothing is stored here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from zlib import crc32

import msgspec

from penstock.channel.api import Step, TopicSpec
from penstock.event.batch import Columns, Delivered, NewBatch, Rows
from penstock.log import blocks
from penstock.log.api import Block, Stored

_pack = msgspec.msgpack.Encoder().encode
_json = msgspec.json.Encoder(order="deterministic").encode


def to_block(batch: NewBatch, *, pid: int, schema_id: int) -> Block:
    """Encode one batch for its partition."""
    if isinstance(batch.payload, Rows):
        data, size = blocks.encode_rows(batch.payload)
    else:
        data, size = blocks.encode_columns(batch.payload)
    return Block(pid, batch.count, schema_id, size, data, batch.time_min_us, batch.time_max_us)


def content_of(batches: Sequence[NewBatch]) -> int:
    """A checksum of what is published, the same for the same content whatever the libraries' versions.

    Rows are covered whole; columns by their count, names, first and last row (a full pass would cost more than it
    guards against: a sequence reused for other content is a programming mistake).
    """
    check = 0
    for batch in batches:
        check = crc32(f"{batch.topic}/{batch.partition}/{batch.count}".encode(), check)
        if isinstance(batch.payload, Rows):
            check = crc32(batch.payload.body, check)
        elif batch.count:
            table = batch.payload.table
            ends = [table.slice(0, 1).to_pylist(), table.slice(batch.count - 1, 1).to_pylist()]
            check = crc32(repr(ends).encode(), check)
    return check


def to_delivered(stored: Stored, *, topic: str, partition: int, arrow: bytes | None) -> Delivered:
    """Decode one stored block."""
    return Delivered(
        topic=topic,
        partition=partition,
        first=stored.first,
        count=stored.count,
        payload=blocks.decode(stored.data, arrow=arrow),
        recorded_us=stored.recorded_us,
        schema_id=stored.schema_id,
        time_min_us=stored.time_min_us,
        time_max_us=stored.time_max_us,
        origin=stored.origin,
        base=stored.first,
    )


def head(delivered: Delivered, count: int) -> Delivered:
    """The first `count` events of a batch; ids do not change."""
    if count >= delivered.count:
        return delivered
    attributes = {name: values[:count] for name, values in delivered.payload.attributes.items()}
    if isinstance(delivered.payload, Rows):
        lengths = delivered.payload.lengths[:count]
        payload: Rows | Columns = Rows(delivered.payload.body[: sum(lengths) + count - 1], lengths, attributes)
    else:
        payload = Columns(delivered.payload.table.slice(0, count), attributes)
    return msgspec.structs.replace(delivered, count=count, payload=payload)


def oversized(batch: NewBatch, spec: TopicSpec) -> str | None:
    """Why the batch cannot be stored, when one of its events is larger than the topic allows."""
    limit = spec.event_bytes_max
    if isinstance(batch.payload, Rows):
        largest = max(batch.payload.lengths, default=0)
        if largest <= limit:
            return None
        index = batch.payload.lengths.index(largest)
        return (
            f"topic {batch.topic}: event {index} of the batch has {largest} bytes, the limit is {limit}; store the "
            "body elsewhere and publish a reference, or raise the topic's event_bytes_max"
        )
    if batch.count and batch.payload.table.nbytes > limit * batch.count:
        return f"topic {batch.topic}: {batch.payload.table.nbytes} bytes in {batch.count} events; the limit is {limit}"
    return None


def spec_to_json(spec: TopicSpec) -> bytes:
    """The declaration as the log keeps it; the schema is recorded on its own."""
    return _json(msgspec.structs.replace(spec, schema=None, arrow=None))


spec_from_json: Callable[[bytes], TopicSpec] = msgspec.json.Decoder(TopicSpec).decode


def origin_of(step: Step) -> str:
    """Who wrote a step's outputs: ids of outputs without their own are derived from it and the input's offset."""
    return f"{step.group}:{step.owned.topic}:{step.owned.partition}"


def bytes_of(batch: NewBatch) -> int:
    """About how many bytes a batch takes in memory."""
    return len(batch.payload.body) if isinstance(batch.payload, Rows) else batch.payload.table.nbytes
