"""The border between Arrow batches and Polars frames, and the bytes of a row's key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec
import polars as pl
import pyarrow as pa

from penstock.errors import PermanentError
from penstock.event.partition import canonical_key
from penstock.flow.spec import OFFSET
from penstock.schema.widening import difference


def from_batch(
    batch: pa.RecordBatch, *, first: int | None = None, columns: Sequence[str] | None = None
) -> pl.DataFrame:
    """A frame over the batch's columns, or these of them; with `first`, the hidden `_offset` counts up from it."""
    if columns is not None:
        batch = batch.select(list(columns))
    frame = cast("pl.DataFrame", pl.from_arrow(batch))
    if first is None:
        return frame
    return frame.with_columns(pl.int_range(first, first + frame.height, dtype=pl.Int64, eager=True).alias(OFFSET))


def offsets_of(frame: pl.DataFrame) -> list[int] | None:
    """The input offset of every row, in row order; None where a function dropped the column."""
    if OFFSET in frame.columns and frame.schema[OFFSET] == pl.Int64:
        return frame[OFFSET].to_list()
    return None


def to_batch(frame: pl.DataFrame, schema: pa.Schema) -> pa.RecordBatch:
    """The frame's columns as the schema says, in its order; `_offset` and nothing else is left behind.

    Raises:
        PermanentError: a column is missing, unexpected or of another type; it is named.
    """
    if set(frame.columns) - {OFFSET} != set(schema.names):
        found = ", ".join(c for c in frame.columns if c != OFFSET)
        msg = f"columns {found}; expected {', '.join(schema.names)}: a function's columns must not depend on its rows"
        raise PermanentError(msg)
    table = frame.select(schema.names).to_arrow()
    columns: list[pa.Array] = []
    for field, column in zip(schema, table.columns, strict=True):
        chunk = column.combine_chunks()
        where = f"column {field.name}: found {chunk.type}, expected {field.type}"
        to_do = difference(chunk.type, field.type)
        if to_do:
            msg = f"{where}: {to_do}"
            raise PermanentError(msg)
        try:
            columns.append(chunk if chunk.type.equals(field.type) else chunk.cast(field.type))
        except pa.ArrowException as exc:
            msg = f"{where}: {exc}"
            raise PermanentError(msg) from exc
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def plain_schema(frame: pl.DataFrame) -> pa.Schema:
    """The Arrow schema a frame is stored with: 32-bit offsets and no dictionaries; every column may be null."""
    return pa.schema([(f.name, _plain(f.type)) for f in frame.to_arrow().schema if f.name != OFFSET])


def _plain(kind: pa.DataType) -> pa.DataType:  # noqa: PLR0911 - one line per kind of type
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_large_list(kind) or pa.types.is_list(kind):
        return pa.list_(_plain(kind.value_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_plain(kind.value_type), kind.list_size)
    if pa.types.is_struct(kind):
        return pa.struct([(f.name, _plain(f.type)) for f in kind])
    return kind


def row_keys(frame: pl.DataFrame, columns: Sequence[str]) -> list[bytes | None]:
    """Each row's key for partitioning, in row order.

    One column of text, bytes or integers: its canonical bytes, as publishing such a key gives them (null: no key).
    Anything else: the columns' values as a compact JSON array.
    """
    if len(columns) == 1:
        column = frame[columns[0]]
        if column.dtype == pl.String:
            return [None if k is None else k.encode() for k in column.to_list()]
        if column.dtype == pl.Binary or column.dtype.is_integer():
            return [canonical_key(k) for k in column.to_list()]
    encode = msgspec.json.Encoder().encode
    return [encode(row) for row in _rows(frame, columns)]


def _rows(frame: pl.DataFrame, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    # A list per column and one zip is several times faster than `DataFrame.rows`.
    return list(zip(*(frame[c].to_list() for c in columns), strict=True))


class RowCodec:
    """Rows of fixed columns to msgpack and back; exact for every type an aggregate or a group key can have.

    Rows are packed with `prefix`, and read with that or with `older`.
    """

    def __init__(self, schema: pl.Schema, prefix: tuple[int, ...] = (), older: tuple[int, ...] = ()) -> None:
        self.schema = schema
        self._prefix = prefix
        self._known = [list(prefix), list(older or prefix)]
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(list[Any]).decode

    def pack(self, frame: pl.DataFrame) -> list[bytes]:
        """One value per row, in row order. Columns of the frame beyond the schema's are ignored."""
        columns = [_stored(frame[name]).to_list() for name in self.schema]
        prefix = [[value] * frame.height for value in self._prefix]
        return list(map(self._encode, zip(*prefix, *columns, strict=True)))

    def unpack(self, packed: Sequence[bytes]) -> pl.DataFrame | None:
        """The frame of these values, in their order; None when any was packed with another prefix or width."""
        rows = list(map(self._decode, packed))
        skip = len(self._prefix)
        width = skip + len(self.schema)
        if any(len(row) != width or row[:skip] not in self._known for row in rows):
            return None
        names = list(self.schema)
        columns = [
            pl.Series(name, [row[skip + i] for row in rows], dtype=_stored_type(self.schema[name])).cast(
                self.schema[name]
            )
            for i, name in enumerate(names)
        ]
        return pl.DataFrame(columns) if columns else pl.DataFrame()


def _stored(column: pl.Series) -> pl.Series:
    kind = _stored_type(column.dtype)
    return column if column.dtype == kind else column.cast(kind)


def _stored_type(kind: pl.DataType) -> pl.DataType:
    if kind.is_temporal():
        return pl.Int32() if kind == pl.Date else pl.Int64()
    return pl.String() if kind.is_decimal() else kind
