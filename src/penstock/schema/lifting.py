"""Arrow columns as Python values: one conversion per column, never one per cell where C can do it."""

from __future__ import annotations

import inspect
import sys
from array import array
from collections.abc import Callable, Iterable
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from itertools import pairwise, repeat
from typing import Any, cast
from uuid import UUID

import msgspec
import pyarrow as pa

from penstock.schema.arrow import compute as pc
from penstock.schema.shapes import Shape, Type

# A joined text that msgspec reads as a list is several times faster than making each object from its Arrow scalar.
_dates = msgspec.json.Decoder(list[date]).decode
_times = msgspec.json.Decoder(list[datetime]).decode
_stamps = msgspec.msgpack.Decoder(list[datetime]).decode
_STAMP = b"\xd7\xff" + bytes(8)  # a timestamp of 64 bits: its type, and room for its value
_STAMP_US = pa.scalar(1000 << 34)
_SECOND_US = pa.scalar(1_000_000)
_STAMP_SECOND = pa.scalar((1_000_000 * (1000 << 34) - 1 + 2**63) % 2**64 - 2**63)
_STAMPS_END_US = 2**34 * 1_000_000  # in the year 2514
_STAMPS_FROM = 500  # below that many, the fixed costs of Arrow's functions are more than what is won
# Found once: looking a function up and wrapping its numbers costs more than running it over a thousand values.
_min_max, _divide, _multiply, _subtract = (
    pc.get_function(name).call for name in ("min_max", "divide", "multiply", "subtract")
)
_uuids = msgspec.json.Decoder(list[UUID]).decode
_NEXT = '","'


def from_batch(shape: Shape, batch: pa.RecordBatch) -> list[Any]:
    """The rows as objects of the shape's class, in order."""
    return _objects(shape, batch.columns)


def _objects(shape: Shape, columns: list[pa.Array]) -> list[Any]:
    assert shape.cls is not None
    values = [lift(f.type, column) for f, column in zip(shape.fields, columns, strict=True)]
    return list(map(_maker(shape.cls, tuple(f.name for f in shape.fields)), *values))


@lru_cache(maxsize=1024)
def _maker(cls: type, names: tuple[str, ...]) -> Callable[..., Any]:
    """Makes an object from its fields' values in this order."""
    parameters = inspect.signature(cls).parameters.values()
    if tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD) == names:
        return cls
    return lambda *row: cls(**dict(zip(names, row, strict=True)))


def lift(kind: Type, column: pa.Array) -> list[Any]:
    """The column's values in order, None where it is null."""
    if kind.kind in _PLAIN:
        return column.to_pylist()
    if not column.null_count:
        return _dense(kind, column)
    values = iter(_dense(kind, column.drop_null()))
    return [next(values) if valid else None for valid in column.is_valid().to_pylist()]


_PLAIN = {"bool", "int", "float", "str", "bytes", "literal"}


def _dense(kind: Type, column: pa.Array) -> list[Any]:
    if kind.kind in _SCALARS:
        return _SCALARS[kind.kind](kind, column)
    if kind.kind == "list":
        return _lists(kind, column)
    if kind.kind == "dict":
        return _dicts(kind, column)
    if kind.kind == "struct":
        return _objects(kind.shape, column.flatten())
    return _unions(kind, column)


def _joined(texts: pa.Array, zone: str = "") -> str:
    """A JSON list of the texts, `zone` behind each."""
    if not len(texts):
        return "[]"
    return f'["{(zone + _NEXT).join(texts.to_pylist())}{zone}"]'


def _lift_dates(_: Type, column: pa.Array) -> list[Any]:
    return _dates(_joined(column.cast(pa.string())))


def _lift_times(_: Type, column: pa.Array) -> list[Any]:
    if len(column) >= _STAMPS_FROM:
        us = column.view(pa.int64())
        ends = _min_max([us])
        if ends["min"].as_py() >= 0 and ends["max"].as_py() < _STAMPS_END_US:
            return _stamps(_stamped(us))
    # The same cast of a time with a zone is fifteen times slower.
    naive = column.view(pa.timestamp("us"))
    return _times(_joined(naive.cast(pa.string()), "Z"))


def _stamped(us: pa.Array) -> bytes:
    """Microseconds since 1970 as a MessagePack list of 64-bit timestamps, which msgspec reads faster than any text.

    A timestamp is nanoseconds << 34 | seconds. With us = 1,000,000 seconds + rest that is
    us * (1000 << 34) - seconds * (1,000,000 * (1000 << 34) - 1), in 64 bits that wrap around.

    Source: MessagePack specification, "Timestamp extension type".
    """
    count = len(us)
    seconds = _multiply([_divide([us, _SECOND_US]), _STAMP_SECOND])
    words = array("Q", _subtract([_multiply([us, _STAMP_US]), seconds]).buffers()[1].to_pybytes())
    if sys.byteorder == "little":
        words.byteswap()
    raw = words.tobytes()
    out = bytearray(_STAMP * count)
    for place in range(8):
        out[2 + place :: len(_STAMP)] = raw[place : 8 * count : 8]
    return b"\xdd" + count.to_bytes(4) + out


def _lift_uuids(_: Type, column: pa.Array) -> list[Any]:
    return _uuids(_joined(column))


def _lift_durations(_: Type, column: pa.Array) -> list[Any]:
    return list(map(timedelta, repeat(0), repeat(0), column.view(pa.int64()).to_pylist()))


def _lift_decimals(kind: Type, column: pa.Array) -> list[Any]:
    values = column.to_pylist()
    return values if kind.scale is not None else list(map(Decimal, values))


def _lift_enums(kind: Type, column: pa.Array) -> list[Any]:
    values = column.to_pylist()
    if kind.cls is None:
        return values
    known = {member.value: member for member in cast("type[Enum]", kind.cls)}
    return list(map(known.__getitem__, values))


_SCALARS: dict[str, Callable[[Type, pa.Array], list[Any]]] = {
    "date": _lift_dates,
    "datetime": _lift_times,
    "uuid": _lift_uuids,
    "duration": _lift_durations,
    "decimal": _lift_decimals,
    "enum": _lift_enums,
}


def _lists(kind: Type, column: pa.Array) -> list[Any]:
    assert kind.item is not None
    items = lift(kind.item, column.flatten())
    out: list[Any] = []
    end = 0
    for length in pc.list_value_length(column).to_pylist():
        out.append(items[end : end + length])
        end += length
    return out


def _dicts(kind: Type, column: pa.Array) -> list[Any]:
    assert kind.item is not None
    offsets = column.offsets.to_pylist()
    begin, length = offsets[0], offsets[-1] - offsets[0]
    keys = column.keys.slice(begin, length).to_pylist()
    items = lift(kind.item, column.items.slice(begin, length))
    places = [at - begin for at in offsets]
    return [
        dict(zip(keys[a:b], items[a:b], strict=True)) for a, b in pairwise(places)
    ]  # fmt: skip


def _unions(kind: Type, column: pa.Array) -> list[Any]:
    parts = column.flatten()
    tags = parts[0].to_pylist()
    children = dict(zip((f.name for f in column.type), parts, strict=True))
    made: dict[Any, Iterable[Any]] = {}
    for member in kind.members:
        if member.fields:
            made[member.tag] = iter(
                _objects(
                    member,
                    children[str(member.tag)]
                    .filter(pc.equal(parts[0], pa.scalar(member.tag, parts[0].type)))
                    .flatten(),
                )
            )
        else:
            assert member.cls is not None
            made[member.tag] = (cls() for cls in repeat(member.cls))
    return [next(cast("Any", made[tag])) for tag in tags]
