"""Shapes as Arrow schemas, and Python values to and from Arrow arrays. Loaded only when columns are asked for."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from operator import attrgetter
from typing import Any

import pyarrow as pa

from penstock.schema.shapes import Field, Shape, Type

Convert = Callable[[Any], Any]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_ARROW: dict[str, pa.DataType] = {
    "bool": pa.bool_(),
    "int": pa.int64(),
    "float": pa.float64(),
    "str": pa.string(),
    "bytes": pa.binary(),
    "date": pa.date32(),
    "datetime": pa.timestamp("us", "UTC"),
    "duration": pa.duration("us"),
    "uuid": pa.string(),
}


def arrow_schema(shape: Shape) -> pa.Schema:
    """One column per field, named as in Python. Only top-level columns say that they hold no null."""
    return pa.schema([pa.field(f.name, arrow_type(f.type), nullable=f.optional) for f in shape.fields])


def arrow_type(kind: Type) -> pa.DataType:
    """The Arrow type of a value of this type."""
    if kind.kind in _ARROW:
        return _ARROW[kind.kind]
    if kind.kind == "decimal":
        return pa.string() if kind.scale is None else pa.decimal128(kind.digits, kind.scale)
    if kind.kind in {"enum", "literal"}:
        return pa.int64() if isinstance(kind.values[0], int) else pa.string()
    if kind.kind == "list":
        assert kind.item is not None
        return pa.list_(arrow_type(kind.item))
    if kind.kind == "dict":
        assert kind.item is not None
        return pa.map_(pa.string(), arrow_type(kind.item))
    if kind.kind == "struct":
        return pa.struct([(f.name, arrow_type(f.type)) for f in kind.shape.fields])
    return _union_type(kind)


def _union_type(kind: Type) -> pa.DataType:
    first = kind.members[0]
    tag = pa.int64() if isinstance(first.tag, int) else pa.string()
    children = [
        (str(s.tag), pa.struct([(f.name, arrow_type(f.type)) for f in s.fields])) for s in kind.members if s.fields
    ]
    return pa.struct([(first.tag_field, tag), *children])


def to_batch(shape: Shape, events: Sequence[Any], schema: pa.Schema) -> pa.RecordBatch:
    """The events as columns."""
    arrays: list[pa.Array] = []
    for field, column in zip(shape.fields, schema, strict=True):
        values: Iterable[Any] = map(attrgetter(field.name), events)
        lower = lowering(field.type)
        if lower is not None:
            values = map(lower, values)
        arrays.append(pa.array(list(values), column.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def from_batch(shape: Shape, make: Callable[..., Any], batch: pa.RecordBatch) -> list[Any]:
    """The rows as objects, in order."""
    columns = [column_values(f, batch.column(i)) for i, f in enumerate(shape.fields)]
    names = [f.name for f in shape.fields]
    return [make(**dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)]


def column_values(field: Field, column: pa.Array) -> list[Any]:
    """A column as Python values of the field's type."""
    values = column.to_pylist()
    lift = lifting(field.type)
    return values if lift is None else list(map(lift, values))


def lowering(kind: Type) -> Convert | None:
    """How a value becomes what `pyarrow.array` takes; None where it is taken as it is."""
    lower = _lowering(kind)
    if lower is None or not kind.optional:
        return lower
    return lambda v: None if v is None else lower(v)


def _lowering(kind: Type) -> Convert | None:
    if kind.kind == "uuid" or (kind.kind == "decimal" and kind.scale is None):
        return str
    if kind.kind == "enum":
        return None if kind.cls is None else attrgetter("value")
    if kind.kind == "list":
        assert kind.item is not None
        inner = lowering(kind.item)
        return None if inner is None else lambda values: list(map(inner, values))
    if kind.kind == "dict":
        assert kind.item is not None
        one = lowering(kind.item) or _same
        return lambda d: [(k, one(v)) for k, v in d.items()]
    if kind.kind == "struct":
        return _lower_shape(kind.shape)
    if kind.kind == "union":
        return _lower_union(kind)
    return None


def _same(value: Any) -> Any:
    return value


def _lower_shape(shape: Shape) -> Convert:
    parts = [(f.name, lowering(f.type) or _same) for f in shape.fields]
    return lambda v: {name: lower(getattr(v, name)) for name, lower in parts}


def _lower_union(kind: Type) -> Convert:
    by_tag = {s.tag: (str(s.tag), _lower_shape(s)) for s in kind.members}
    tag_field = kind.members[0].tag_field

    def lower(value: Any) -> dict[str, Any]:
        tag = value.__struct_config__.tag
        name, inner = by_tag[tag]
        return {tag_field: tag, name: inner(value)}

    return lower


def lifting(kind: Type) -> Convert | None:
    """How a value of `to_pylist` becomes the field's Python value; None where it is that already."""
    lift = _lifting(kind)
    if lift is None or not kind.optional:
        return lift
    return lambda v: None if v is None else lift(v)


def _lifting(kind: Type) -> Convert | None:  # noqa: PLR0911 - one line per kind of type
    if kind.kind == "uuid":
        return uuid.UUID
    if kind.kind == "decimal":
        return Decimal if kind.scale is None else None
    if kind.kind == "datetime":
        return lambda v: v.replace(tzinfo=UTC)
    if kind.kind == "enum":
        return None if kind.cls is None else kind.cls
    if kind.kind == "list":
        assert kind.item is not None
        inner = lifting(kind.item)
        return None if inner is None else lambda values: list(map(inner, values))
    if kind.kind == "dict":
        assert kind.item is not None
        one = lifting(kind.item) or _same
        return lambda pairs: {k: one(v) for k, v in pairs}
    if kind.kind == "struct":
        return _lift_shape(kind.shape)
    if kind.kind == "union":
        return _lift_union(kind)
    return None


def _lift_shape(shape: Shape) -> Convert:
    assert shape.cls is not None
    make = shape.cls
    parts = [(f.name, lifting(f.type) or _same) for f in shape.fields]
    return lambda v: make(**{name: lift(v[name]) for name, lift in parts})


def _lift_union(kind: Type) -> Convert:
    by_tag = {s.tag: (str(s.tag), _lift_shape(s)) for s in kind.members}
    tag_field = kind.members[0].tag_field

    def lift(value: dict[str, Any]) -> Any:
        name, inner = by_tag[value[tag_field]]
        return inner(value.get(name) or {})

    return lift


def microseconds(value: datetime) -> timedelta:
    """How far behind 1970 it lies."""
    return value - EPOCH
