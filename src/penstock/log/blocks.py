"""The two kinds of block on disk: `rows` (original bytes) and `columns` (an Arrow record batch), told by a byte.

Layout: kind (1 byte: R or C), codec (1 byte: 0 none, 1 LZ4 frame), two zero bytes, then three little-endian u32:
size of the attributes, size of the payload before compression, number of events; then the attributes (msgpack, as
they are), then the payload. A rows payload is one u32 length per event followed by the bodies joined by newlines; a
columns payload is one Arrow IPC record batch message, whose buffers Arrow compresses itself, without its schema.
"""

from __future__ import annotations

import struct
import sys
from array import array
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.errors import BlockDamaged
from penstock.event.batch import NO_ATTRIBUTES, Attributes, Columns, Rows

if TYPE_CHECKING:
    import pyarrow as pa

_HEADER = struct.Struct("<cBxxIII")
_ROWS, _COLUMNS = b"R", b"C"
_PLAIN, _LZ4 = 0, 1
COMPRESS_FROM = 512
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode


@lru_cache(maxsize=1)
def _codec() -> Any:
    """Arrow's LZ4 frame codec; loading pyarrow is left until a block is worth compressing."""
    import pyarrow as pa  # noqa: PLC0415

    return pa.Codec("lz4")


def _attributes(attributes: Attributes) -> bytes:
    return _pack({k: list(v) for k, v in attributes.items()}) if attributes else b""


def encode_rows(rows: Rows) -> tuple[bytes, int]:
    """The block of these rows, and its size before compression."""
    lengths = rows.lengths
    if sys.byteorder == "big":
        lengths = array("I", lengths)
        lengths.byteswap()
    raw = lengths.tobytes() + rows.body
    attributes = _attributes(rows.attributes)
    codec, payload = _PLAIN, raw
    if len(raw) >= COMPRESS_FROM:
        packed = _codec().compress(raw, asbytes=True)
        if len(packed) < len(raw):
            codec, payload = _LZ4, packed
    head = _HEADER.pack(_ROWS, codec, len(attributes), len(raw), len(rows.lengths))
    return b"".join((head, attributes, payload)), len(raw)


def encode_columns(columns: Columns) -> tuple[bytes, int]:
    """The block of this record batch, and its size before compression."""
    import pyarrow as pa  # noqa: PLC0415

    table = columns.table
    out = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_stream(out, table.schema, options=options) as writer:
        writer.write_batch(table)
    stream = out.getvalue()
    start = _schema_message(table.schema).size
    payload = memoryview(stream)[start:]
    attributes = _attributes(columns.attributes)
    head = _HEADER.pack(_COLUMNS, _PLAIN, len(attributes), len(payload), table.num_rows)
    return b"".join((head, attributes, payload)), table.nbytes


def _schema_message(schema: pa.Schema) -> pa.Buffer:
    return schema.serialize()


def decode(data: bytes, *, arrow: bytes | None, columns: list[int] | None = None) -> Rows | Columns:
    """The payload of a block whose checksum has been verified.

    Args:
        data: the block.
        arrow: the serialised Arrow schema the block was written with; needed for blocks of columns.
        columns: read only these fields (indexes into the schema); None reads all.

    Raises:
        BlockDamaged: the layout contradicts itself.
    """
    kind, codec, attributes_size, size, count = _HEADER.unpack_from(data)
    start = _HEADER.size + attributes_size
    attributes: Attributes = _unpack(data[_HEADER.size : start]) if attributes_size else NO_ATTRIBUTES
    if kind == _COLUMNS:
        return Columns(_read_columns(memoryview(data)[start:], arrow, columns, count), attributes)
    if kind != _ROWS:
        msg = f"a block of unknown kind {kind!r}; expected R or C: the log was written by a newer version"
        raise BlockDamaged(msg)
    raw = _codec().decompress(memoryview(data)[start:], size, asbytes=True) if codec == _LZ4 else data[start:]
    lengths = array("I", raw[: 4 * count])
    if sys.byteorder == "big":
        lengths.byteswap()
    body = raw[4 * count :]
    if sum(lengths) + max(count - 1, 0) != len(body):
        msg = f"a block of {count} rows whose lengths sum to {sum(lengths)} but hold {len(body)} bytes"
        raise BlockDamaged(msg)
    return Rows(body, lengths, attributes)


def kind_of(data: bytes) -> str:
    """`rows` or `columns`."""
    return "columns" if data[:1] == _COLUMNS else "rows"


def _read_columns(payload: memoryview, arrow: bytes | None, columns: list[int] | None, count: int) -> pa.RecordBatch:
    import pyarrow as pa  # noqa: PLC0415

    if arrow is None:
        msg = "a block of columns without a recorded schema; expected the topic's schema in the log"
        raise BlockDamaged(msg)
    options = pa.ipc.IpcReadOptions(included_fields=columns, use_threads=False) if columns is not None else None
    with pa.ipc.open_stream(pa.BufferReader(b"".join((arrow, payload))), options=options) as reader:
        table = reader.read_next_batch()
    if table.num_rows != count:
        msg = f"a block of columns with {table.num_rows} rows; its header says {count}"
        raise BlockDamaged(msg)
    return table
