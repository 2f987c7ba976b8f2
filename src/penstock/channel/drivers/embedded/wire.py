"""Between the channel's values and the log's: pure mapping, nothing is stored here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from zlib import crc32

import msgspec

from penstock.channel.api import Horizon, TopicSpec
from penstock.channel.ids import ids_of
from penstock.event.batch import Delivered, NewBatch, Rows
from penstock.log import blocks
from penstock.log.api import Block, Stored

_json = msgspec.json.Encoder(order="deterministic").encode


def to_block(batch: NewBatch, *, pid: int, schema_id: int, horizon: Horizon | None = None) -> Block:
    """Encode one batch for its partition; of a topic with a `horizon` with the ids of its events."""
    if isinstance(batch.payload, Rows):
        data, size = blocks.encode_rows(batch.payload)
    else:
        data, size = blocks.encode_columns(batch.payload)
    times = (batch.time_min_us, batch.time_max_us)
    return Block(pid, batch.count, schema_id, size, data, crc32(data), *times, ids_of(batch, horizon))


def to_delivered(
    stored: Stored, *, topic: str, partition: int, arrow: bytes | None, columns: Sequence[str] | None = None
) -> Delivered:
    """Decode one stored block, of columns only those of `columns`."""
    return Delivered(
        topic=topic,
        partition=partition,
        first=stored.first,
        count=stored.count,
        payload=blocks.decode(stored.data, arrow=arrow, columns=columns),
        recorded_us=stored.recorded_us,
        schema_id=stored.schema_id,
        time_min_us=stored.time_min_us,
        time_max_us=stored.time_max_us,
        origin=stored.origin,
        base=stored.base,
    )


def spec_to_json(spec: TopicSpec) -> bytes:
    """The declaration as the log keeps it; the schema is recorded on its own."""
    return _json(msgspec.structs.replace(spec, schema=None, arrow=None))


spec_from_json: Callable[[bytes], TopicSpec] = msgspec.json.Decoder(TopicSpec).decode
to_json: Callable[[object], bytes] = _json
