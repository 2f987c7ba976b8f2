"""Lines of JSON straight to columns with Polars, for shapes of scalars; anything doubtful is left to the exact way.

It reads what `Schema.encode` wrote or `Schema.decode_strict` let through: of a key that stands twice, which no such
body has, Polars takes the first and a decoder the last. A column that holds a null where none may be, a text that is
not in the form Penstock writes, or a number that does not fit, sends the whole batch the exact way.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import polars as pl
import pyarrow as pa

from penstock.schema.arrow import compute as pc
from penstock.schema.shapes import Field, Shape

_UUID = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
_READ: dict[str, Any] = {"bool": pl.Boolean, "int": pl.Int64, "float": pl.Float64, "str": pl.String, "date": pl.String,
                         "datetime": pl.String, "uuid": pl.String}  # fmt: skip


class Doubtful(Exception):
    """The exact way must be taken."""


def reader(shape: Shape, schema: pa.Schema) -> Callable[[bytes, int], pa.RecordBatch] | None:
    """A function of (lines, count) to columns, or None when a field's kind needs the exact way.

    The function raises `Doubtful` when these lines do.
    """
    kinds: dict[str, Any] = {}
    for field in shape.fields:
        found = _READ.get(field.kind)
        if field.kind in {"enum", "literal"}:
            found = pl.Int64 if isinstance(field.type.values[0], int) else pl.String
        if found is None or field.wire == shape.tag_field:
            return None
        kinds[field.wire] = found

    def read(lines: bytes, count: int) -> pa.RecordBatch:
        try:
            frame = pl.read_ndjson(lines, schema=kinds)
        except pl.exceptions.PolarsError as exc:
            raise Doubtful from exc
        if frame.height != count:
            raise Doubtful
        columns = [_column(f, frame[f.wire], schema.field(f.name).type) for f in shape.fields]
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    return read


def _column(field: Field, series: pl.Series, into: pa.DataType) -> pa.Array:
    nulls_fit = field.optional and (field.required or (field.default is None and field.factory is None))
    if series.null_count() and not nulls_fit:
        raise Doubtful
    column = series.to_arrow()
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if field.kind == "uuid" and not pc.all(pc.match_substring_regex(column, _UUID), min_count=0).as_py():
        raise Doubtful
    if field.kind == "enum" and _reads_more(field) and not _known(field, column):
        raise Doubtful
    try:
        return column if column.type.equals(into) else column.cast(into)
    except pa.ArrowInvalid as exc:
        raise Doubtful from exc


def _reads_more(field: Field) -> bool:
    """Whether the class has a `_missing_` of its own, which takes other spellings of its values."""
    missing = getattr(field.type.cls, "_missing_", Enum._missing_)
    return missing.__func__ is not Enum._missing_.__func__


def _known(field: Field, column: pa.Array) -> bool:
    values = pa.array(list(field.type.values), column.type)
    return bool(pc.all(pc.or_(pc.is_in(column, value_set=values), pc.is_null(column)), min_count=0).as_py())
