"""Columns that were written with an older, compatible schema, as columns of the present one."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pyarrow as pa

from penstock.errors import SchemaIncompatible
from penstock.schema.arrow import arrow_type, to_array
from penstock.schema.arrow import compute as pc
from penstock.schema.shapes import Field, Shape, Type
from penstock.schema.widening import difference

_DAY_US = 86_400_000_000


def adapt(shape: Shape, batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Drops columns that are no more, fills new ones with their defaults, widens types; the rows stay.

    Raises:
        SchemaIncompatible: a column cannot become what the schema says; it is named.
    """
    found = dict(zip(batch.schema.names, batch.columns, strict=True))
    try:
        columns = _fields(shape, found, batch.num_rows)
    except (pa.ArrowException, KeyError) as exc:
        msg = f"{shape.name}: columns that were written with another schema: {exc}; expected {', '.join(schema.names)}"
        raise SchemaIncompatible(msg) from exc
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _fields(shape: Shape, found: dict[str, pa.Array], rows: int) -> list[pa.Array]:
    return [_adapt(f.type, found[f.name]) if f.name in found else _filled(f, rows) for f in shape.fields]


def _filled(field: Field, rows: int) -> pa.Array:
    if field.required:
        msg = f"no column {field.name}, which has no default"
        raise KeyError(msg)
    return to_array(field.type, [field.missing() for _ in range(rows)])


def _adapt(kind: Type, column: pa.Array) -> pa.Array:
    into = arrow_type(kind)
    if column.type.equals(into):
        return column
    if kind.kind == "struct" and pa.types.is_struct(column.type):
        return _struct(_fields(kind.shape, _children(column), len(column)), into, column)
    if kind.kind == "union" and pa.types.is_struct(column.type):
        return _union(kind, column, into)
    if kind.kind in {"list", "dict"} and pa.types.is_nested(column.type):
        return _lists(kind, column, into)
    if kind.kind == "duration" and pa.types.is_interval(column.type):
        return _from_intervals(column, into)
    length = kind.kind == "duration" and pa.types.is_int64(column.type)  # what is left of one in JSON or DuckDB
    reason = "" if length else difference(column.type, into)
    if reason:
        msg = f"a column of {column.type} is no {into}: {reason}"
        raise pa.ArrowInvalid(msg)
    return column.cast(into)


def _from_intervals(column: pa.Array, into: pa.DataType) -> pa.Array:
    """DuckDB's INTERVAL as a length of time, which one with months is not."""
    parts = column.to_pylist()
    if any(part is not None and part.months for part in parts):
        msg = "an interval with months has no fixed length"
        raise pa.ArrowInvalid(msg)
    us = [None if part is None else part.days * _DAY_US + part.nanoseconds // 1000 for part in parts]
    return pa.array(us, pa.int64()).cast(into)


def _children(column: pa.Array) -> dict[str, pa.Array]:
    return dict(zip((f.name for f in column.type), column.flatten(), strict=True))


def _struct(children: list[pa.Array], into: pa.DataType, column: pa.Array) -> pa.Array:
    return pa.StructArray.from_arrays(children, fields=list(into), mask=column.is_null())


def _union(kind: Type, column: pa.Array, into: pa.DataType) -> pa.Array:
    found = _children(column)
    children: list[pa.Array] = [next(iter(found.values())).cast(into.field(0).type)]
    for member in kind.members:
        old = found.get(str(member.tag))
        if not member.fields:
            continue
        kept = pa.nulls(len(column), into.field(str(member.tag)).type) if old is None else None
        children.append(_adapt(Type(kind="struct", members=(member,)), old) if kept is None else kept)
    return _struct(children, into, column)


def _lists(kind: Type, column: pa.Array, into: pa.DataType) -> pa.Array:
    assert kind.item is not None
    lengths: list[Any] = (
        pc.list_value_length(column) if kind.kind == "list" else pc.list_value_length(column.cast(_pairs(column.type)))
    ).to_pylist()
    ends = list(accumulate((n or 0 for n in lengths), initial=0))
    offsets = [None if n is None else end for n, end in zip(lengths, ends, strict=False)]
    starts = pa.array([*offsets, ends[-1]], pa.int32())
    if kind.kind == "list":
        return pa.ListArray.from_arrays(starts, _adapt(kind.item, column.flatten()), type=into)
    pairs = column.cast(_pairs(column.type)).flatten().flatten()
    return pa.MapArray.from_arrays(starts, pairs[0].cast(pa.string()), _adapt(kind.item, pairs[1]), type=into)


def _pairs(kind: pa.DataType) -> pa.DataType:
    return pa.list_(pa.struct([pa.field("key", kind.key_type, nullable=False), ("value", kind.item_type)]))
