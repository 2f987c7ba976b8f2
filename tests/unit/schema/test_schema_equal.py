"""Whatever the events, the fast way to columns and the exact way give the same, and columns give the events back."""

from __future__ import annotations

import enum
import json
import uuid
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import DecodeError
from penstock.schema import Invalid, Schema, scale, schema_of
from penstock.schema.ndjson import Doubtful
from penstock.schema.schema import FAST_FROM


class Colour(enum.Enum):
    RED = "red"
    BLUE = "b\nl\u2028ue"


class Flat(msgspec.Struct, rename="pascal", kw_only=True):
    """Every kind that Polars reads straight from lines."""

    yes: bool
    count: int
    ratio: float
    text: str
    day: date
    at: datetime
    id: uuid.UUID
    colour: Colour
    step: Literal[1, -2]
    maybe_yes: bool | None = None
    maybe_count: int | None = None
    maybe_ratio: float | None = None
    maybe_text: str | None
    maybe_day: date | None = None
    maybe_at: datetime | None = None
    maybe_id: uuid.UUID | None = None
    text_or_default: str = "default"
    count_or_default: int | None = 7


class Leaf(msgspec.Struct, tag=True):
    value: float | None = None
    names: list[str] = []


class Bare(msgspec.Struct, tag=True):
    pass


class Deep(msgspec.Struct):
    """Nested kinds, which go the exact way."""

    leaf: Leaf
    either: Leaf | Bare | None
    leaves: list[Leaf | None]
    by_name: dict[str, list[Leaf | Bare]]
    grid: list[list[int]] | None
    price: Annotated[Decimal, scale(3, 20)]
    exact: Decimal | None
    raw: bytes
    took: timedelta | None
    days: dict[str, date | None] | None = None


FLAT, DEEP = schema_of(Flat), schema_of(Deep)

text = st.text(max_size=12)
ints = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)
zones = st.integers(-1439, 1439).map(lambda m: timezone(timedelta(minutes=m)))
moments = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC) | zones)  # noqa: DTZ001
days = st.dates()


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


flats = st.builds(
    Flat,
    yes=st.booleans(),
    count=ints,
    ratio=floats,
    text=text,
    day=days,
    at=moments,
    id=st.uuids(),
    colour=st.sampled_from(Colour),
    step=st.sampled_from([1, -2]),
    maybe_yes=maybe(st.booleans()),
    maybe_count=maybe(ints),
    maybe_ratio=maybe(floats),
    maybe_text=maybe(text),
    maybe_day=maybe(days),
    maybe_at=maybe(moments),
    maybe_id=maybe(st.uuids()),
    text_or_default=text,
    count_or_default=maybe(ints),
)
leaves = st.builds(Leaf, maybe(floats), st.lists(text, max_size=3))
eithers = leaves | st.builds(Bare)
deeps = st.builds(
    Deep,
    leaf=leaves,
    either=maybe(eithers),
    leaves=st.lists(maybe(leaves), max_size=3),
    by_name=st.dictionaries(text, st.lists(eithers, max_size=2), max_size=3),
    grid=maybe(st.lists(st.lists(ints, max_size=2), max_size=3)),
    price=st.decimals(-(10**16), 10**16, places=3),
    exact=maybe(st.decimals(allow_nan=False, allow_infinity=False)),
    raw=st.binary(max_size=20),
    took=maybe(st.timedeltas(timedelta(days=-(10**8)), timedelta(days=10**8))),
    days=maybe(st.dictionaries(text, maybe(days), max_size=2)),
)


def respelled(body: bytes, draw: Any) -> bytes:
    """The same event as another encoder writes it: other spaces, escapes, order; optional nulls left out."""
    found = json.loads(body)
    items = list(found.items())
    if draw(st.booleans()):
        items = [(k, v) for k, v in items if v is not None or k == "MaybeText"]
    items = draw(st.permutations(items))
    if draw(st.booleans()):
        items.append(("Unknown", draw(st.sampled_from([None, 1, [{"Count": 2}], {"a": {"b": []}}, "}\n{"]))))
    spaces = draw(st.sampled_from([(",", ":"), (" , ", " : ")]))
    return json.dumps(dict(items), ensure_ascii=draw(st.booleans()), separators=spaces).encode()


@st.composite
def lines_of_flats(draw: Any) -> list[bytes]:
    events = draw(st.lists(flats, max_size=6))
    bodies = FLAT.encode_all(events)
    if draw(st.booleans()):
        bodies = [respelled(body, draw) for body in bodies]
    return bodies


def quick(body: bytes, count: int) -> pa.RecordBatch:
    """The columns of few lines as they would be among many: a part of so many copies that the fast way is taken."""
    if count == 0:
        return FLAT.lines_to_columns(body, count)
    copies = FAST_FROM // count + 1
    return FLAT.lines_to_columns(b"\n".join([body] * copies), count * copies).slice(count * (copies - 1))


@settings(max_examples=60)
@given(lines_of_flats())
def test_fast_lines_equal_the_exact_way(bodies: list[bytes]) -> None:
    """Bit by bit: also the signs of zeros, times with offsets, fields that are missing."""
    assert not isinstance(FLAT.validate_lines(bodies), Invalid)
    count, body = len(bodies), b"\n".join(bodies)
    exact = FLAT.to_columns(FLAT.decode_lines(body, count))
    found = quick(body, count)
    assert found.equals(exact)
    assert str(found.column("ratio")) == str(exact.column("ratio"))
    assert FLAT.from_columns(found) == FLAT.decode_lines(body, count)


@given(st.lists(flats, min_size=1, max_size=4))
def test_what_penstock_wrote_goes_the_fast_way(events: list[Flat]) -> None:
    """But for a null whose default is another value, nothing that we encode sends a batch the exact way."""
    for event in events:
        event.count_or_default = 1
    bodies = FLAT.encode_all(events)
    assert FLAT._lines is not None
    assert FLAT._lines(b"\n".join(bodies), len(bodies)).equals(FLAT.to_columns(events))


def both_ways(schema: Schema[Any], events: list[Any]) -> None:
    batch = schema.to_columns(events)
    batch.validate(full=True)
    schema.check(batch)
    assert schema.from_columns(batch) == events
    bodies = schema.encode_all(events)
    assert schema.lines_to_columns(b"\n".join(bodies), len(bodies)).equals(batch)
    again = schema.columns_to_lines(batch)
    assert schema.lines_to_columns(b"\n".join(again), len(again)).equals(batch)
    assert schema.from_columns(batch.slice(1, 2)) == events[1:3]


@settings(max_examples=40)
@given(st.lists(deeps, max_size=4))
def test_nested_events_to_columns_and_back(events: list[Deep]) -> None:
    both_ways(DEEP, events)


@settings(max_examples=40)
@given(st.lists(flats, max_size=4))
def test_flat_events_to_columns_and_back(events: list[Flat]) -> None:
    both_ways(FLAT, events)


BODY = (
    b'{"Yes":true,"Count":1,"Ratio":1,"Text":"","Day":"2026-01-01","At":"2026-01-01T00:00:00Z",'
    b'"Id":"00000000-0000-0000-0000-000000000000","Colour":"red","Step":1,"MaybeText":null,'
    b'"TextOrDefault":"t","CountOrDefault":7}'
)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"00:00:00Z", b"00:00:00.1234567Z"),
        (b"00:00:00Z", b"00:00:00.9999999+05:30"),
        (b"T00:00:00Z", b" 00:00:00z"),
        (b"T00:00:00Z", b"t00:00:00-2359"),
        (b"00000000-0000-0000-0000-000000000000", b"ABCDEF00000000000000000000000000"),
        (b"00000000-0000-0000-0000-000000000000", b"ABCDEF00-0000-0000-0000-000000000000"),
        (b'"Ratio":1,', b'"Ratio":-0,'),
        (b'"Ratio":1,', b'"Ratio":1234567890123456789012345678901234567890,'),
        (b'"Ratio":1,', b'"Ratio":0.1000000000000000055511151231257827021181583404541015625,'),
        (b'"Ratio":1,', b'"Ratio":1e-400,'),
        (b'"Text":""', b'"Text":"\\ud83d\\ude00\\/\\u0000"'),
        (b'"CountOrDefault":7', b'"CountOrDefault":null'),
        (b'"CountOrDefault":7', b'"Unknown":{"Count":[2]}'),
        (b',"TextOrDefault":"t"', b""),
        (b'"Count":1', b'"Co\\u0075nt":1'),
    ],
)
def test_spellings_that_two_parsers_could_read_differently(old: bytes, new: bytes) -> None:
    body = BODY.replace(old, new)
    assert body != BODY
    both = body + b"\n" + BODY
    assert not isinstance(FLAT.validate_lines([body, BODY]), Invalid)
    exact = FLAT.to_columns(FLAT.decode_lines(both, 2))
    assert quick(both, 2).equals(exact)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"Count":1,', b""),
        (b'"Count":1', b'"Count":null'),
        (b'"Count":1', b'"Count":"1"'),
        (b'"Count":1', b'"Count":1.5'),
    ],
)
def test_lines_that_are_not_what_the_type_says(old: bytes, new: bytes) -> None:
    body = BODY.replace(old, new)
    with pytest.raises(DecodeError):
        FLAT.lines_to_columns(body + b"\n" + BODY, 2)
    with pytest.raises(DecodeError):
        quick(body + b"\n" + BODY, 2)


@pytest.mark.parametrize("cut", [[BODY + b"\n" + BODY, b""], [BODY + b" " + BODY, b""], [b" ", BODY + b"\n" + BODY]])
def test_many_lines_are_never_told_apart_wrongly(cut: list[bytes]) -> None:
    """Where one body holds two events and another none, the numbers agree and the places do not."""
    bodies = [*cut, *[BODY] * FAST_FROM]
    with pytest.raises(DecodeError):
        FLAT.lines_to_columns(b"\n".join(bodies), len(bodies))


def test_the_lines_above_go_the_fast_way() -> None:
    """Else the spellings would show nothing."""
    assert FLAT._lines is not None
    assert FLAT._lines(BODY, 1).equals(FLAT.to_columns([FLAT.decode(BODY)]))


def test_polars_counts_what_it_reads() -> None:
    """A batch in which Polars finds another number of objects goes the exact way."""
    assert FLAT._lines is not None
    with pytest.raises(Doubtful):
        FLAT._lines(BODY + b"\n" + BODY, 3)
    assert isinstance(pl.read_ndjson(BODY), pl.DataFrame)


class Loose(enum.Enum):
    RED = "red"

    @classmethod
    def _missing_(cls, value: object) -> Loose | None:
        return cls.RED if value == "RED" else None


class Painted(msgspec.Struct):
    colour: Loose
    maybe: Loose | None = None


@pytest.mark.parametrize("count", [1, FAST_FROM])
def test_spellings_that_only_the_class_knows(count: int) -> None:
    """Columns hold the member's value, whichever way they were made: what is written there must be read back."""
    schema = schema_of(Painted)
    batch = schema.lines_to_columns(b"\n".join([b'{"colour":"RED"}'] * count), count)
    assert batch.column("colour").to_pylist() == ["red"] * count
    assert schema.from_columns(batch) == [Painted(Loose.RED)] * count
