"""Whether a batch of columns is what a schema says: names, types, and the values that types alone do not rule out."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from penstock.errors import SchemaIncompatible
from penstock.schema.arrow import compute as pc
from penstock.schema.shapes import Field, Shape

# Scalars with their type: to make one of a bare number Arrow looks for pandas and dateutil, again for each.
_YEAR_1_US = pa.scalar(-62_135_596_800_000_000, pa.int64())
_YEAR_9999_US = pa.scalar(253_402_300_799_999_999, pa.int64())


def check_columns(name: str, schema: pa.Schema, batch: pa.RecordBatch) -> None:
    """That the columns have the schema's names, order and types, and no null where none may be.

    Raises:
        SchemaIncompatible: the first difference.
    """
    if batch.schema.names != schema.names:
        found, expected = ", ".join(batch.schema.names), ", ".join(schema.names)
        msg = f"{name}: columns {found}; expected {expected}, in this order"
        raise SchemaIncompatible(msg)
    for field, column in zip(schema, batch.columns, strict=True):
        if not column.type.equals(field.type):
            msg = f"{name}: column {field.name} is {column.type}; expected {field.type}: cast it"
            raise SchemaIncompatible(msg)
        if column.null_count and not field.nullable:
            msg = f"{name}: column {field.name} has {column.null_count} null values; expected none: fill them"
            raise SchemaIncompatible(msg)


def checked_as_columns(shape: Shape) -> bool:
    """Whether `check_values` finds everything; otherwise each row must be looked at as an event, too."""
    simple = all(f.kind in _WRONG and not f.type.limits for f in shape.fields)
    return simple and not hasattr(shape.cls, "__post_init__")


def check_values(name: str, shape: Shape, batch: pa.RecordBatch) -> None:
    """That no cell holds a value that its field's type does not have, of the types that a column tells it of.

    Raises:
        SchemaIncompatible: the first column with such a value; the row and the value are named.
    """
    for field, column in zip(shape.fields, batch.columns, strict=True):
        find = _WRONG.get(field.kind)
        wrong = None if find is None else find(field, column)
        if wrong is not None and pc.any(wrong).as_py():
            row = pc.index(wrong, pa.scalar(True)).as_py()
            msg = f"{name}: column {field.name}, row {row}: {_shown(column, row)} is no {field.kind} of this type"
            raise SchemaIncompatible(msg)


def _shown(column: pa.Array, row: int) -> str:
    if pa.types.is_timestamp(column.type):
        return f"{column.view(pa.int64())[row]} microseconds since 1970"
    return str(column[row])


def _no_number(_: Field, column: pa.Array) -> pa.Array:
    return pc.invert(pc.is_finite(column))


def _no_time(_: Field, column: pa.Array) -> pa.Array:
    us = column.view(pa.int64())
    return pc.or_(pc.less(us, _YEAR_1_US), pc.greater(us, _YEAR_9999_US))


def _no_value(field: Field, column: pa.Array) -> pa.Array:
    known = pc.is_in(column, value_set=pa.array(list(field.type.values), column.type))
    return pc.and_(pc.invert(known), column.is_valid())


_WRONG: dict[str, Callable[[Field, pa.Array], pa.Array] | None] = {
    "bool": None,
    "int": None,
    "str": None,
    "bytes": None,
    "float": _no_number,
    "datetime": _no_time,
    "enum": _no_value,
    "literal": _no_value,
}
