"""What no annotation refuses: decimals, durations and times that do not fit, and NaN that would become null."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Flag
from operator import attrgetter
from typing import Any, TypeVar, cast

from penstock.schema.shapes import Shape, Type

T = TypeVar("T")
Problem = Callable[[Any], str | None]
"""From an event, or a value in it, to what is wrong with it, path first; None when nothing is."""

_LONGEST = timedelta(microseconds=2**63 - 1)
_LOWEST = timedelta(seconds=-(2**63 // 10**6))  # below, Arrow takes none, for it looks at whole seconds first
_MINUTE = timedelta(minutes=1)
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
# Only on these days, in whatever zone, can a text be a time that lies outside the years 1 to 9999 in UTC.
EDGE_DAYS = (b'"0001-01-01', b'"9999-12-31')


def misfits(shape: Shape) -> Problem | None:
    """Finds decimals, durations and flags that columns could not hold; None when the shape has none of them."""
    return _shape(shape, _misfit)


def times(shape: Shape) -> Problem | None:
    """Finds times before year 1 or after year 9999 in UTC; None when the shape has no times."""
    return _shape(shape, _timed)


def moments(shape: Shape) -> list[Callable[[Any], datetime]] | None:
    """Takes each time out of an event; None when some are optional or lie deeper."""
    if _deep(shape):
        return None
    fields = [f for f in shape.fields if f.kind == "datetime"]
    return None if any(f.optional for f in fields) else [attrgetter(f.name) for f in fields]


def outside(moments: list[datetime]) -> bool:
    """Whether one of these lies outside the years 1 to 9999 in UTC; there is at least one."""
    return min(moments) < _FIRST or max(moments) > _LAST


def hidden(shape: Shape) -> Problem | None:
    """Finds NaN and infinities that JSON would turn into null unnoticed; None when no float is optional."""
    return _shape(shape, lambda kind: _finite if kind.kind == "float" and kind.optional else None)


def shifted(shape: Shape) -> Problem | None:
    """Finds times whose offset JSON would round to a whole minute, which makes them other instants."""
    found = _shape(shape, lambda kind: _offset if kind.kind == "datetime" else None)
    if found is None:
        return None

    def problem(event: Any) -> str | None:
        try:
            return found(event)
        except (AttributeError, TypeError):  # no event of the type: what the encoder makes of it is looked at later
            return None

    return problem


def plainly(shape: Shape, quick: Callable[[Any], T], exact: Callable[[Any], T]) -> Callable[[Any], T] | None:
    """`quick` for events whose times are all in UTC, told by the identity of the zone, and `exact` for all others.

    None when there are no times, or some lie deeper. It is called for every event: one time is looked at by itself.
    """
    names = [f.name for f in shape.fields if f.kind == "datetime"]
    if not names or _deep(shape):
        return None
    get = cast("Callable[[Any], Any]", attrgetter(*names))

    def one(event: Any) -> T:
        time = get(event)
        return quick(event) if time is None or time.tzinfo is UTC else exact(event)

    def several(event: Any) -> T:
        for time in get(event):
            if time is not None and time.tzinfo is not UTC:
                return exact(event)
        return quick(event)

    return one if len(names) == 1 else several


def _deep(shape: Shape) -> bool:
    return any(f.kind in {"list", "dict", "struct", "union"} and _type(f.type, _timed) for f in shape.fields)


def _timed(kind: Type) -> Problem | None:
    return _time if kind.kind == "datetime" else None


def _misfit(kind: Type) -> Problem | None:
    if kind.kind == "duration":
        return _duration
    if kind.kind == "enum" and kind.cls is not None and issubclass(kind.cls, Flag):
        return _flag(frozenset(kind.values))
    if kind.kind != "decimal":
        return None
    return _number if kind.scale is None else _scaled(kind.scale, kind.digits)


def _duration(value: timedelta) -> str | None:
    return None if _LOWEST <= value <= _LONGEST else f": {value} is longer than 64 bits of microseconds can say"


def _flag(values: frozenset[Any]) -> Problem:
    """A combination of flags is a value of the class and none of its members."""
    return lambda value: None if value.value in values else f": {value!r} is several flags or none: use a list of them"


def _time(value: datetime) -> str | None:
    return None if _FIRST <= value <= _LAST else f": {value.isoformat()} lies outside the years 1 to 9999 in UTC"


def _offset(value: datetime) -> str | None:
    if value.tzinfo is UTC:
        return None
    offset = value.utcoffset()
    if offset is None or not offset % _MINUTE:
        return None
    return f": {value.isoformat()} has an offset of no whole minutes, which JSON has no form for: use .astimezone(UTC)"


def _finite(value: float) -> str | None:
    return None if math.isfinite(value) else f": {value} is no number in JSON: use None"


def _number(value: Decimal) -> str | None:
    return None if value.is_finite() else f": {value} is no number: use None on an Optional field"


def _scaled(scale: int, digits: int) -> Problem:
    def problem(value: Decimal) -> str | None:
        _, figures, exponent = value.as_tuple()
        if not isinstance(exponent, int):
            return _number(value)
        if exponent < -scale:
            return f": {value} has {-exponent} digits after the point, at most {scale} are declared: round it yourself"
        if exponent > digits - scale and not value:
            return f": {value} is a zero with an exponent that no column has: write it as 0"
        if value and len(figures) + exponent > digits - scale:
            return f": {value} has too many digits for {digits} of which {scale} after the point: declare more"
        return None

    return problem


def _shape(shape: Shape, leaf: Callable[[Type], Problem | None]) -> Problem | None:
    parts = [(attrgetter(f.name), f".{f.name}", p) for f in shape.fields if (p := _type(f.type, leaf)) is not None]
    if not parts:
        return None

    def problem(value: Any) -> str | None:
        for get, path, inner in parts:
            found = inner(get(value))
            if found is not None:
                return path + found
        return None

    return problem


def _type(kind: Type, leaf: Callable[[Type], Problem | None]) -> Problem | None:
    inner = _compound(kind, leaf) if kind.kind in {"list", "dict", "struct", "union"} else leaf(kind)
    if inner is None or not kind.optional:
        return inner
    return lambda value: None if value is None else inner(value)


def _compound(kind: Type, leaf: Callable[[Type], Problem | None]) -> Problem | None:
    if kind.kind == "struct":
        return _shape(kind.shape, leaf)
    if kind.kind == "union":
        by_tag = {s.tag: p for s in kind.members if (p := _shape(s, leaf)) is not None}
        return (lambda value: _member(value, by_tag)) if by_tag else None
    assert kind.item is not None
    inner = _type(kind.item, leaf)
    if inner is None:
        return None
    if kind.kind == "list":
        return lambda values: _first(enumerate(values), inner)
    return lambda values: _first(values.items(), inner)


def _member(value: Any, by_tag: dict[Any, Problem]) -> str | None:
    problem = by_tag.get(value.__struct_config__.tag)
    return None if problem is None else problem(value)


def _first(pairs: Any, problem: Problem) -> str | None:
    for place, value in pairs:
        found = problem(value)
        if found is not None:
            return f"[{place!r}]{found}"
    return None
