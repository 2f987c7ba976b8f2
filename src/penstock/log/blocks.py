"""The two kinds of block on disk: `rows` (original bytes) and `columns` (an Arrow record batch), told by a byte.

Layout: kind (1 byte: R or C), codec (1 byte: 0 none, 1 LZ4 frame), marks (1 byte; 1: each of the rows was read as one
event before it was recorded, see `Rows`; older versions wrote 0), a zero byte, then three little-endian u32: size of
the attributes, size of the payload before compression, number of events; then the attributes (msgpack; an array of
64-bit integers as extension 1, its little-endian bytes), then the payload. A rows payload is one u32 length per event
followed by the bodies joined by newlines; a columns payload is one Arrow IPC record batch message, whose buffers Arrow
compresses itself, without its schema. A third kind, B, holds other blocks: see `bundles`.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.errors import BlockDamaged
from penstock.event.batch import NO_ATTRIBUTES, Attributes, Columns, Rows

if TYPE_CHECKING:
    import pyarrow as pa

_HEADER = struct.Struct("<cBBxIII")
_ROWS, _COLUMNS, _BUNDLE = b"R", b"C", b"B"
_PLAIN, _LZ4 = 0, 1
_VALID = 1
COMPRESS_FROM = 512
_INTS = 1
_pack = msgspec.msgpack.Encoder().encode

Payload = Rows | Columns


def _extension(code: int, data: memoryview) -> array[int]:
    if code != _INTS:
        msg = f"attributes of unknown kind {code}; expected {_INTS}: the log was written by a newer version"
        raise BlockDamaged(msg)
    return _swapped(array("q", data.tobytes()))


_unpack = msgspec.msgpack.Decoder(ext_hook=_extension).decode


def _swapped(values: array[int]) -> array[int]:
    """Between the machine's byte order and little-endian; the values themselves where there is nothing to do."""
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return values


@lru_cache(maxsize=1)
def _codec() -> Any:
    """Arrow's LZ4 frame codec; loading pyarrow is left until a block is worth compressing."""
    import pyarrow as pa  # noqa: PLC0415

    return pa.Codec("lz4")


def _attributes(attributes: Attributes) -> bytes:
    return _pack({name: _packable(values) for name, values in attributes.items()}) if attributes else b""


def _packable(values: Any) -> Any:
    if isinstance(values, array) and values.typecode == "q":
        return msgspec.msgpack.Ext(_INTS, _swapped(values).tobytes())
    return values if isinstance(values, list) else list(values)


def encode_rows(rows: Rows) -> tuple[bytes, int]:
    """The block of these rows, and its size before compression."""
    raw = _swapped(rows.lengths).tobytes() + rows.body
    attributes = _attributes(rows.attributes)
    codec, payload = _PLAIN, raw
    if len(raw) >= COMPRESS_FROM:
        packed = _codec().compress(raw, asbytes=True)
        if len(packed) < len(raw):
            codec, payload = _LZ4, packed
    marks = _VALID if rows.valid else 0
    head = _HEADER.pack(_ROWS, codec, marks, len(attributes), len(raw), len(rows.lengths))
    return b"".join((head, attributes, payload)), len(raw)


def plain(data: bytes) -> bytes:
    """The block without a compression of its own, where it is of rows."""
    kind, codec, marks, attributes_size, size, count = _HEADER.unpack_from(data)
    if kind != _ROWS or codec != _LZ4:
        return data
    start = _HEADER.size + attributes_size
    raw = _codec().decompress(memoryview(data)[start:], size, asbytes=True)
    return b"".join((_HEADER.pack(_ROWS, _PLAIN, marks, attributes_size, size, count), data[_HEADER.size : start], raw))


def pack_bundle(index: bytes, payload: bytes, count: int) -> bytes:
    """A block that holds `count` others; see `bundles`."""
    head = _HEADER.pack(_BUNDLE, _LZ4, 0, len(index), len(payload), count)
    return b"".join((head, index, _codec().compress(payload, asbytes=True)))


def unpack_bundle(data: bytes) -> tuple[bytes, bytes, int]:
    """Index, payload and number of blocks of a bundle.

    Raises:
        BlockDamaged: it is none.
    """
    kind, _, _, index_size, size, count = _HEADER.unpack_from(data)
    if kind != _BUNDLE:
        msg = f"a block of kind {kind!r} where a bundle was expected"
        raise BlockDamaged(msg)
    start = _HEADER.size + index_size
    payload = _codec().decompress(memoryview(data)[start:], size, asbytes=True)
    return data[_HEADER.size : start], payload, count


def encode_columns(columns: Columns) -> tuple[bytes, int]:
    """The block of this record batch, and its size before compression."""
    table, payload = columns.table, columns.message()
    attributes = _attributes(columns.attributes)
    head = _HEADER.pack(_COLUMNS, _PLAIN, 0, len(attributes), len(payload), table.num_rows)
    return b"".join((head, attributes, payload)), table.nbytes


def decode(data: bytes, *, arrow: bytes | None, columns: Sequence[str] | None = None) -> Payload:
    """The payload of a block whose checksum has been verified.

    Args:
        data: the block.
        arrow: the serialised Arrow schema the block was written with; needed for blocks of columns.
        columns: of blocks of columns decode only those of these that the schema has, in its order; None decodes all.

    Raises:
        BlockDamaged: the layout contradicts itself.
    """
    kind, codec, marks, attributes_size, size, count = _HEADER.unpack_from(data)
    start = _HEADER.size + attributes_size
    attributes: Attributes = _unpack(data[_HEADER.size : start]) if attributes_size else NO_ATTRIBUTES
    if kind == _COLUMNS:
        return Columns(_read_columns(memoryview(data)[start:], arrow, columns, count), attributes)
    if kind != _ROWS:
        msg = f"a block of unknown kind {kind!r}; expected R or C: the log was written by a newer version"
        raise BlockDamaged(msg)
    raw = _codec().decompress(memoryview(data)[start:], size, asbytes=True) if codec == _LZ4 else data[start:]
    lengths = _swapped(array("I", raw[: 4 * count]))
    body = raw[4 * count :]
    if sum(lengths) + max(count - 1, 0) != len(body):
        msg = f"a block of {count} rows whose lengths sum to {sum(lengths)} but hold {len(body)} bytes"
        raise BlockDamaged(msg)
    return Rows(body, lengths, attributes, bool(marks & _VALID))


@lru_cache(maxsize=256)
def arrow_schema(arrow: bytes) -> pa.Schema:
    """The schema of its serialised form."""
    import pyarrow as pa  # noqa: PLC0415

    return pa.ipc.read_schema(pa.BufferReader(arrow))


def _read_columns(
    payload: memoryview, arrow: bytes | None, columns: Sequence[str] | None, count: int
) -> pa.RecordBatch:
    import pyarrow as pa  # noqa: PLC0415

    if arrow is None:
        msg = "a block of columns without a recorded schema; expected the topic's schema in the log"
        raise BlockDamaged(msg)
    chosen = None if columns is None else [i for i, name in enumerate(arrow_schema(arrow).names) if name in columns]
    if chosen == []:
        return pa.RecordBatch.from_struct_array(pa.array([{}] * count, pa.struct([])))
    options = None if chosen is None else pa.ipc.IpcReadOptions(included_fields=chosen, use_threads=False)
    try:
        with pa.ipc.open_stream(pa.BufferReader(b"".join((arrow, payload))), options=options) as reader:
            table = reader.read_next_batch()
    except pa.ArrowInvalid as exc:
        msg = f"a block of columns that its recorded schema does not fit: {exc}"
        raise BlockDamaged(msg) from exc
    if table.num_rows != count:
        msg = f"a block of columns with {table.num_rows} rows; its header says {count}"
        raise BlockDamaged(msg)
    return table


def same(one: Payload, other: Payload) -> bool:
    """Whether two payloads hold the same events: equal bytes, or equal values of equal types (NaN equals NaN)."""
    if {n: list(v) for n, v in one.attributes.items()} != {n: list(v) for n, v in other.attributes.items()}:
        return False
    if isinstance(one, Rows) or isinstance(other, Rows):
        return isinstance(one, Rows) and isinstance(other, Rows) and _rows(one) == _rows(other)
    if not one.table.schema.equals(other.table.schema):
        return False
    # Arrow holds NaN unequal to itself; the spelling does not, and tells -0.0 from 0.0.
    return one.table.equals(other.table) or repr(one.table.to_pylist()) == repr(other.table.to_pylist())


def _rows(rows: Rows) -> tuple[bytes, array[int]]:
    return rows.body, rows.lengths
