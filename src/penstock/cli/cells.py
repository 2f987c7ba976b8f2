"""Columns of an answer as values to print, also where Python has none: years beyond 9999, nanoseconds, months."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pyarrow as pa

_MONTHS = pa.month_day_nano_interval()
_NO_VALUE = (OverflowError, ValueError, TypeError)
# How DuckDB stores a date or a time without an end, by its sign.
_INFINITE = {2**63 - 1: "infinity", -(2**63 - 1): "-infinity", 2**31 - 1: "infinity", -(2**31 - 1): "-infinity"}


def values(column: pa.Array) -> list[Any]:
    """The column's values in order. What Python has no value for is its text; a length of time is a `timedelta`."""
    if not _spans(column.type):
        try:
            return column.to_pylist(maps_as_pydicts="lossy")
        except _NO_VALUE:
            pass
    return [_value(one) for one in column]


def storable(column: pa.Array) -> pa.Array:
    """The column as Parquet can hold it: lengths of time in microseconds, as topics have them.

    Raises:
        ValueError: a length of time is in months, which differ.
    """
    if column.type != _MONTHS:
        return column
    spans = values(column)
    months = next((span for span in spans if isinstance(span, str)), None)
    if months is not None:
        msg = f"an interval of {months} has no fixed length: cast it, as in x::VARCHAR"
        raise ValueError(msg)
    return pa.array(spans, pa.duration("us"))


def storable_type(kind: pa.DataType) -> pa.DataType:
    """The type that `storable` makes of a column of type `kind`."""
    return pa.duration("us") if kind == _MONTHS else kind


def _spans(kind: pa.DataType) -> bool:
    return kind == _MONTHS or any(_spans(kind.field(index).type) for index in range(kind.num_fields))


def _value(one: Any) -> Any:
    kind = one.type
    if one.is_valid and pa.types.is_nested(kind):
        return _nested(one)
    try:
        found = one.as_py()
    except _NO_VALUE:
        return _INFINITE.get(one.value) or str(one.cast(pa.string()))
    return _span(found) if kind == _MONTHS and found is not None else found


def _nested(one: Any) -> Any:
    if pa.types.is_struct(one.type):
        return {field.name: _value(one[index]) for index, field in enumerate(one.type)}
    if not pa.types.is_map(one.type):
        return list(map(_value, one.values))
    pairs = [(_value(pair["key"]), _value(pair["value"])) for pair in one.values]
    if all(isinstance(key, str | int | float) for key, _ in pairs):
        return dict(pairs)
    return [{"key": key, "value": value} for key, value in pairs]


def _span(parts: Any) -> timedelta | str:
    """A length of time; with months, which have none, its text in ISO 8601."""
    if not parts.months:
        return timedelta(days=parts.days, microseconds=parts.nanoseconds // 1000)
    return f"P{parts.months}M{parts.days}DT{parts.nanoseconds / 1e9:g}S"
