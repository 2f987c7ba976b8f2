"""Shapes as Arrow schemas, and Python values as Arrow arrays. Loaded only when columns are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from operator import attrgetter
from typing import Any

import pyarrow as pa
import pyarrow.compute

from penstock.errors import DecodeError
from penstock.schema.shapes import Shape, Type

# Its functions are made when it is loaded, so no checker of types knows them.
compute: Any = pyarrow.compute

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
    if kind.kind == "struct":
        return _struct_type(kind.shape)
    if kind.kind == "union":
        return _union_type(kind)
    assert kind.item is not None
    item = arrow_type(kind.item)
    return pa.list_(item) if kind.kind == "list" else pa.map_(pa.string(), item)


def _struct_type(shape: Shape) -> pa.DataType:
    return pa.struct([(f.name, arrow_type(f.type)) for f in shape.fields])


def _union_type(kind: Type) -> pa.DataType:
    """The tag, then one struct per member that has fields: null where the value is another member."""
    first = kind.members[0]
    tag = pa.int64() if isinstance(first.tag, int) else pa.string()
    return pa.struct([(first.tag_field, tag), *((str(s.tag), _struct_type(s)) for s in kind.members if s.fields)])


def to_batch(shape: Shape, events: Sequence[Any], schema: pa.Schema) -> pa.RecordBatch:
    """The events as columns. They must be valid: nothing but what Arrow itself refuses is refused here.

    Raises:
        DecodeError: a value does not fit its column; the field is named.
    """
    arrays: list[pa.Array] = []
    for field in shape.fields:
        try:
            arrays.append(to_array(field.type, list(map(attrgetter(field.name), events))))
        except (pa.ArrowException, TypeError, ValueError, AttributeError, OverflowError) as exc:
            msg = f"{shape.name}.{field.name}: {exc}; expected {field.kind}"
            raise DecodeError(msg) from exc
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def to_array(kind: Type, values: list[Any]) -> pa.Array:
    """Python values of this type, or None, as an array."""
    if kind.kind in {"list", "dict"}:
        return _lists(kind, values)
    if kind.kind == "struct":
        return _structs(kind.shape, values)
    if kind.kind == "union":
        return _unions(kind, values)
    if kind.kind == "uuid" or (kind.kind == "decimal" and kind.scale is None):
        values = [None if v is None else str(v) for v in values]
    elif kind.kind == "enum" and kind.cls is not None:
        values = [None if v is None else v.value for v in values]
    return pa.array(values, arrow_type(kind))


def _lists(kind: Type, values: list[Any]) -> pa.Array:
    assert kind.item is not None
    ends = list(accumulate((0 if v is None else len(v) for v in values), initial=0))
    # A null offset makes the list that begins there null.
    offsets = [None if v is None else end for v, end in zip(values, ends, strict=False)]
    starts = pa.array([*offsets, ends[-1]], pa.int32())
    present = [v for v in values if v is not None]
    if kind.kind == "list":
        items = to_array(kind.item, [item for v in present for item in v])
        return pa.ListArray.from_arrays(starts, items, type=arrow_type(kind))
    keys = pa.array([name for v in present for name in v], pa.string())
    items = to_array(kind.item, [item for v in present for item in v.values()])
    return pa.MapArray.from_arrays(starts, keys, items, type=arrow_type(kind))


def _structs(shape: Shape, values: list[Any]) -> pa.Array:
    children = [
        to_array(f.type, [None if v is None else get(v) for v in values])
        for f in shape.fields
        for get in (attrgetter(f.name),)
    ]
    return _struct_array(children, _struct_type(shape), values)


def _struct_array(children: list[pa.Array], kind: pa.DataType, values: list[Any]) -> pa.Array:
    mask = pa.array([v is None for v in values], pa.bool_())
    return pa.StructArray.from_arrays(children, fields=list(kind), mask=mask)


def _unions(kind: Type, values: list[Any]) -> pa.Array:
    tags = [None if v is None else v.__struct_config__.tag for v in values]
    into = arrow_type(kind)
    children = [pa.array(tags, into.field(0).type)]
    for member in kind.members:
        if member.fields:
            own = [v if tag == member.tag else None for v, tag in zip(values, tags, strict=True)]
            children.append(_structs(member, own))
    return _struct_array(children, into, values)
