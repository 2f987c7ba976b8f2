"""JSON of typed events: what publishing refuses, what strict reading refuses, and lines that are not what they seem."""

from __future__ import annotations

import dataclasses
import enum
import random
import re
import time
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Literal, Optional
from zoneinfo import ZoneInfo

import msgspec
import pytest

from bench.workload import Bid, bids
from penstock.errors import DecodeError
from penstock.schema import Invalid, Schema, scale, schema_of, strict


class Colour(enum.Enum):
    RED = "red"


class Order(msgspec.Struct):
    id: int
    total: float = 0.0
    note: str = ""
    ratio: Optional[float] = None  # noqa: UP045 - both spellings must work
    parts: list[float | None] = []


class Ticket(msgspec.Struct, kw_only=True):
    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    took: timedelta = timedelta(0)
    price: Annotated[Decimal, scale(2, 5)] = Decimal(0)
    exact: Decimal = Decimal(0)
    colour: Colour = Colour.RED
    level: Literal["low", "high"] = "low"
    count: Annotated[int, msgspec.Meta(ge=0, le=10)] = 0
    prices: dict[str, Annotated[Decimal, scale(0)]] = {}


ORDER, TICKET = schema_of(Order), schema_of(Ticket)

STRICT = {
    "D1 invalid UTF-8": (b'{"id":1,"note":"\xff"}', "utf-8|UTF-8"),
    "D1 invalid UTF-8 in an unknown field": (b'{"id":1,"zz":"\xff"}', "byte 14 is not UTF-8"),
    "D1 byte order mark": (b'\xef\xbb\xbf{"id":1}', "byte order mark|invalid character"),
    "D1 lone surrogate": (b'{"id":1,"note":"\\ud800"}', "Order"),
    "D1 lone surrogate in an unknown field": (b'{"id":1,"zz":"\\ud800"}', "Order"),
    "D1 lone surrogate before text": (b'{"id":1,"zz":"\\ud800abcdefgh"}', "Order"),
    "D2 NaN": (b'{"id":1,"total":NaN}', "Order"),
    "D2 NaN in an unknown field": (b'{"id":1,"zz":NaN}', "Order"),
    "D2 Infinity": (b'{"id":1,"total":-Infinity}', "Order"),
    "D2 1e400": (b'{"id":1,"total":1e400}', "beyond the largest float"),
    "D2 1e400 in an unknown field": (b'{"id":1,"zz":1e400}', "Order"),
    "D3 2^63": (b'{"id":%d}' % 2**63, "64 bits"),
    "D3 -2^63-1": (b'{"id":%d}' % (-(2**63) - 1), "64 bits"),
    "D3 2^64": (b'{"id":%d}' % 2**64, "64 bits"),
    "D3 5,000 digits": (b'{"id":' + b"1" * 5000 + b"}", "64 bits"),
    "D3 2^63 in an unknown field": (b'{"id":1,"zz":%d}' % 2**63, "64 bits"),
    "D3 5,000 digits in an unknown field": (b'{"id":1,"zz":' + b"1" * 5000 + b"}", "64 bits"),
    "D4 100,000 deep": (b'{"id":1,"zz":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "deep"),
    "D4 200 deep": (b'{"id":1,"zz":' + b'{"a":' * 200 + b"1" + b"}" * 200 + b"}", "deep"),
    "D5 a key twice": (b'{"id":1,"id":2}', "'id' appears twice"),
    "D5 a key twice, spelled otherwise": (b'{"id":1,"\\u0069d":1}', "'id' appears twice"),
    "D5 an unknown key twice, further in": (b'{"id":1,"zz":[{"a":1,"a":1}]}', "'a' appears twice"),
    "two values": (b'{"id":1} {"id":2}', "trailing"),
    "no value": (b"", "Order"),
    "another type": (b'{"id":"1"}', r"Expected `int`, got `str` - at `\$.id`"),
    "a field missing": (b'{"note":""}', "missing required field `id`"),
    "null where none may be": (b'{"id":1,"total":null}', r"declared? it Optional"),
    "an array": (b"[1]", "Order"),
}

FINE = {
    "canonical": b'{"id":1,"total":0.0,"note":"","ratio":null,"parts":[]}',
    "spaces and order": b' { "note" : "\\u00e9\\ud83d\\ude00" ,\n "id" : 9223372036854775807 } ',
    "unknown fields": b'{"id":-9223372036854775808,"zz":{"a":[1,2.5,null,true]}}',
    "NUL": b'{"id":1,"note":"a\\u0000b"}',
    "100 deep": b'{"id":1,"zz":' + b"[" * 100 + b"]" * 100 + b"}",
    "brackets in a text": b'{"id":1,"note":"' + b'\\"[{' * 500 + b'"}',
}


@pytest.mark.parametrize("name", STRICT)
def test_bytes_from_outside_are_refused(name: str) -> None:
    body, reason = STRICT[name]
    with pytest.raises(DecodeError, match=reason) as caught:
        ORDER.decode_strict(body)
    assert str(caught.value).startswith("Order: ")


@pytest.mark.parametrize("name", [name for name in STRICT if name.startswith("D")])
def test_bytes_without_a_type_are_refused_alike(name: str) -> None:
    """The check of the bytes alone finds all of it, for it also stands before topics of raw JSON."""
    with pytest.raises(DecodeError):
        strict.verify(STRICT[name][0])


@pytest.mark.parametrize("name", FINE)
def test_bytes_from_outside_that_are_fine(name: str) -> None:
    assert ORDER.decode_strict(FINE[name]) == ORDER.decode(FINE[name])
    assert type(ORDER.decode_strict(FINE[name])) is Order


BAD = [
    (TICKET, Ticket(at=datetime(2026, 1, 1)), "time zone"),  # noqa: DTZ001 - what must be refused
    (TICKET, Ticket(at=datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))), r"\.at.*years 1 to 9999"),
    (TICKET, Ticket(at=datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-2)))), r"\.at.*years 1 to 9999"),
    (TICKET, Ticket(took=timedelta.max), r"\.took.*64 bits"),
    (TICKET, Ticket(took=timedelta.min), r"\.took.*64 bits"),
    (TICKET, Ticket(took=timedelta(microseconds=-(2**63 - 1))), r"\.took.*64 bits"),
    (TICKET, Ticket(price=Decimal("0E+50")), r"\.price.*write it as 0"),
    (TICKET, Ticket(price=Decimal("1.234")), r"\.price.*at most 2"),
    (TICKET, Ticket(price=Decimal("1000")), r"\.price.*too many digits"),
    (TICKET, Ticket(price=Decimal("1E+3")), r"\.price.*too many digits"),
    (TICKET, Ticket(price=Decimal("NaN")), r"\.price.*no number"),
    (TICKET, Ticket(exact=Decimal("Infinity")), r"\.exact.*no number"),
    (TICKET, Ticket(prices={"a": Decimal(1), "b": Decimal("0.5")}), r"\.prices\['b'\]"),
    (TICKET, Ticket(level="middle"), "level"),  # type: ignore[arg-type]
    (TICKET, Ticket(colour="blue"), "colour"),  # type: ignore[arg-type]
    (TICKET, Ticket(count=11), "count"),
    (TICKET, Ticket(count=-1), "count"),
    (ORDER, Order(2**63), "64 bits"),
    (ORDER, Order(2**64), "64 bits|64-bit|large"),
    (ORDER, Order(1, float("nan")), "Optional"),
    (ORDER, Order(1, float("-inf")), "Optional"),
    (ORDER, Order(1, ratio=float("nan")), r"\.ratio: nan is no number"),
    (ORDER, Order(1, parts=[None, 1.0, float("inf")]), r"\.parts\[2\]: inf is no number"),
    (ORDER, Order(1, note="\ud800"), "surrogate"),
    (ORDER, Order("1"), "id"),  # type: ignore[arg-type]
    (ORDER, object(), "object"),
    (ORDER, {"id": {1}}, "Order"),
]


@pytest.mark.parametrize(("schema", "event", "reason"), BAD, ids=range(len(BAD)))
def test_publishing_refuses_what_a_consumer_could_not_read(schema: Schema[Any], event: Any, reason: str) -> None:
    """Alone and among good ones, where the others stay good; and never as columns either."""
    with pytest.raises(DecodeError, match=reason):
        schema.decode_strict(schema.encode(event))
    with pytest.raises(DecodeError, match=reason):
        schema.to_columns([event])
    try:
        body = schema.encode(event)
    except DecodeError:
        return
    good = schema.encode(schema.type(id=1) if schema is ORDER else schema.type())
    found = schema.validate_lines([good] * 3 + [body] + [good] * 1500)
    assert isinstance(found, Invalid)
    assert list(found.reasons) == [3]
    assert re.search(reason, found.reasons[3])
    assert [i for i, e in enumerate(found.events) if e is None] == [3]
    assert len(found.events) == 1504


EAST, WEST = timezone(timedelta(hours=14)), timezone(timedelta(hours=-2))


class Three(msgspec.Struct):
    a: datetime
    b: datetime
    c: datetime


class Inner(msgspec.Struct):
    at: datetime | None
    more: list[datetime] = []


@pytest.mark.parametrize(
    "make",
    [lambda t: Ticket(at=t), lambda t: Three(t, t, t), Inner, lambda t: Inner(None, [t])],
    ids=["one", "three", "optional", "further in"],
)
def test_times_at_the_edge(make: Any) -> None:
    """However many times a type has and wherever they stand: what lies in years 1 to 9999 in UTC passes, no more."""
    fit = [datetime(1, 1, 1, 14, tzinfo=EAST), datetime(9999, 12, 31, 21, 59, 59, 999999, WEST)]
    beyond = [datetime(1, 1, 1, 13, 59, 59, 999999, EAST), datetime(9999, 12, 31, 22, tzinfo=WEST)]
    events = [make(t) for t in [datetime(2026, 1, 1, tzinfo=UTC), *fit]]
    schema: Schema[Any] = schema_of(type(events[0]))
    assert not isinstance(schema.validate_lines(schema.encode_all(events)), Invalid)
    assert schema.from_columns(schema.to_columns(events)) == events
    found = schema.validate_lines(schema.encode_all([*events, *map(make, beyond)]))
    assert isinstance(found, Invalid)
    assert list(found.reasons) == [3, 4]


class Rights(enum.IntFlag):
    READ = 1
    WRITE = 2


class Granted(msgspec.Struct):
    rights: Rights


def test_a_combination_of_flags_is_refused() -> None:
    """It is a value of the class and none of its members, and columns could not be read back."""
    schema = schema_of(Granted)
    assert schema.from_columns(schema.to_columns([Granted(Rights.READ)])) == [Granted(Rights.READ)]
    for rights in (Rights.READ | Rights.WRITE, Rights(0)):
        with pytest.raises(DecodeError, match=r"\.rights: .*use a list"):
            schema.to_columns([Granted(rights)])


@pytest.mark.parametrize(
    "make",
    [lambda t: Ticket(at=t), lambda t: Three(t, t, t), Inner, lambda t: Inner(None, [t])],
    ids=["one", "three", "optional", "further in"],
)
def test_offsets_with_seconds_are_refused(make: Any) -> None:
    """JSON has whole minutes: the encoder would round the offset, and the instant would be another one."""
    shifted = make(datetime(1880, 1, 1, tzinfo=ZoneInfo("Europe/Brussels")))
    fine = [make(datetime(2026, 1, 1, tzinfo=zone)) for zone in (UTC, EAST, ZoneInfo("Europe/Brussels"))]
    schema: Schema[Any] = schema_of(type(shifted))
    for encode in (schema.encode, schema.encode_quick, lambda event: schema.encode_all([*fine, event])):
        with pytest.raises(DecodeError, match=r"whole minutes.*astimezone\(UTC\)"):
            encode(shifted)
    for event in fine:
        assert schema.decode(schema.encode_quick(event)) == event
    assert schema.encode_all(fine) == list(map(schema.encode, fine))


NUMBERS = {
    "D2 NaN": Order(1, float("nan")),
    "D2 NaN that JSON would hide": Order(1, ratio=float("nan")),
    "D2 infinity that JSON would hide": Order(1, parts=[None, float("-inf")]),
    "D3 2^63": Order(2**63),
    "D3 -2^63-1": Order(-(2**63) - 1),
    "D3 2^64": Order(2**64),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_that_would_change_are_never_published(name: str) -> None:
    """Refused with the way out; neither rounded nor turned into null."""
    with pytest.raises(DecodeError, match=r"Order.*(None|Optional|str or Decimal|64 bits)"):
        ORDER.to_columns([NUMBERS[name]])


MISCOUNTED = {
    "one empty, one double": [b"", b'{"id":1}{"id":2}'],
    "one empty, one double, spaced": [b'{"id":1} {"id":2}', b""],
    "an object over two bodies": [b'{"id":1,"zz":', b'{"a":1}} {"id":2}'],
    "an object over two bodies, ending in a brace": [b'{"id":1,"zz":{}', b'{"a":1}} {"id":2}'],
    "a newline between two": [b'{"id":1}\n{"id":2}', b""],
    "a newline between two, cut": [b'{"id":1}\n{"id":2', b"}"],
    "a text over two bodies": [b'{"id":1,"note":"}', b'{"} {"id":2}'],
    "three in one": [b" ", b'{"id":1}\n{"id":1}\n{"id":2}', b" "],
}


@pytest.mark.parametrize("name", MISCOUNTED)
def test_lines_are_never_told_apart_wrongly(name: str) -> None:
    """However the bodies are cut, no body gets another's event: refused as lines, and then one by one."""
    bodies = MISCOUNTED[name]
    with pytest.raises(DecodeError):
        ORDER.decode_lines(b"\n".join(bodies), len(bodies))
    found = ORDER.validate_lines(bodies)
    assert isinstance(found, Invalid)
    for index, body in enumerate(bodies):
        try:
            alone = ORDER.decode(body)
        except DecodeError:
            assert index in found.reasons
        else:
            assert ORDER.encode(found.events[index]) == ORDER.encode(alone)  # type: ignore[arg-type]


def test_pretty_bodies_are_valid_and_decoded_one_by_one() -> None:
    bodies = [b'{\n  "id": 1\n}', b'{"id":2}', b' {"id":3}\r']
    found = ORDER.validate_lines(bodies)
    assert not isinstance(found, Invalid)
    assert [e.id for e in found] == [1, 2, 3]
    with pytest.raises(DecodeError, match="one by one"):
        ORDER.decode_lines(b"\n".join(bodies), 3)
    with pytest.raises(DecodeError, match="one by one"):
        ORDER.lines_to_columns(b"\n".join(bodies), 3)
    assert [e.id for e in ORDER.decode_lines(b"\n".join(bodies), 3, valid=True)] == [1, 2, 3], "for each is one value"
    for wrong in (2, 4):
        with pytest.raises(DecodeError, match="one by one"):
            ORDER.decode_lines(b"\n".join(bodies), wrong, valid=True)
    with pytest.raises(DecodeError, match=r"Order.*\bid\b"):
        ORDER.decode_lines(b'{"id":1}\n{"id":"x"}', 2, valid=True)


@pytest.mark.parametrize("count", [0, 1, 2, 999, 1000, 1001, 2000, 2001, 5003])
def test_many_lines_in_slices(count: int) -> None:
    """Whatever the number and the sizes of lines, each comes out once and in order."""
    rng = random.Random(count)
    events = [Order(i, note="x" * rng.choice([0, 1, 300])) for i in range(count)]
    bodies = ORDER.encode_all(events)
    assert ORDER.decode_lines(b"\n".join(bodies), count) == events
    assert ORDER.decode_lines(b"\n".join(bodies), count, valid=True) == events
    assert [e.id for e in ORDER.validate_lines(bodies)] == list(range(count))  # type: ignore[union-attr]
    if count:
        for wrong in (count - 1, count + 1):
            with pytest.raises(DecodeError):
                ORDER.decode_lines(b"\n".join(bodies), wrong)


class Checked(msgspec.Struct, frozen=True):
    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            msg = "low is above high"
            raise ValueError(msg)


@dataclasses.dataclass(frozen=True)
class CheckedData:
    low: int
    high: int = 5
    tags: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        if self.low > self.high:
            msg = "low is above high"
            raise RuntimeError(msg)

    @property
    def width(self) -> int:
        return self.high - self.low


class Base(
    msgspec.Struct, rename="camel", tag_field="kind", tag="derived", omit_defaults=True, forbid_unknown_fields=True
):
    first_name: str


class Derived(Base, kw_only=True):
    last_name: str = "none"
    of_age: bool | None = None
    seen_at: list[datetime] = []


def test_a_class_keeps_its_own_checks_and_attributes() -> None:
    for cls in (Checked, CheckedData):
        schema = schema_of(cls)
        found = schema.validate_lines([b'{"low":1,"high":2}', b'{"low":3,"high":2}', b'{"low":1}'])
        assert isinstance(found, Invalid)
        assert "low is above high" in found.reasons[1]
        assert isinstance(found.events[0], cls)
        with pytest.raises(DecodeError, match="low is above high"):
            schema.decode(b'{"low":3,"high":2}')
    found = schema_of(CheckedData).validate_lines([b'{"low":1}'])
    assert not isinstance(found, Invalid)
    assert (found[0].width, found[0].tags) == (4, [])


def test_renamed_tagged_inherited_keyword_only() -> None:
    schema = schema_of(Derived)
    assert [(f.name, f.wire, f.kind, f.optional) for f in schema.fields] == [
        ("first_name", "firstName", "str", False),
        ("last_name", "lastName", "str", False),
        ("of_age", "ofAge", "bool", True),
        ("seen_at", "seenAt", "list", False),
    ]
    event = Derived("Ada", last_name="L", of_age=False)
    body = schema.encode(event)
    assert body == b'{"kind":"derived","firstName":"Ada","lastName":"L","ofAge":false}'
    assert schema.decode_strict(body) == event
    assert schema.from_columns(schema.to_columns([event])) == [event]
    assert schema.columns_to_lines(schema.lines_to_columns(body, 1)) == [body]
    short = b'{"firstName":"Ada"}'
    assert schema.from_columns(schema.lines_to_columns(short + b"\n" + short, 2)) == [Derived("Ada")] * 2
    for bad in (b'{"kind":"other","firstName":"A"}', b'{"firstName":"A","x":1}', b'{"first_name":"A"}'):
        with pytest.raises(DecodeError):
            schema.decode_strict(bad)
        assert isinstance(schema.validate_lines([bad]), Invalid)


def test_speed_beside_bare_msgspec(capsys: pytest.CaptureFixture[str]) -> None:
    """Printed, never judged here: the benchmarks judge on a quiet machine."""
    count = 2000
    schema, events = schema_of(Bid), bids(count)
    bodies = schema.encode_all(events)
    body, table = b"\n".join(bodies), schema.to_columns(events)
    decode = msgspec.json.Decoder(Bid).decode
    work: dict[str, Any] = {
        "bare decode": lambda: [decode(b) for b in bodies],
        "decode_lines": lambda: schema.decode_lines(body, count),
        "validate_lines": lambda: schema.validate_lines(bodies),
        "encode_all": lambda: schema.encode_all(events),
        "from_columns": lambda: schema.from_columns(table),
        "lines_to_columns": lambda: schema.lines_to_columns(body, count),
        "columns_to_lines": lambda: schema.columns_to_lines(table),
    }
    best = {name: min(_seconds(call) for _ in range(3)) for name, call in work.items()}
    with capsys.disabled():
        print("".join(f"\n{name}: {best['bare decode'] / s:.2f} of bare decode" for name, s in best.items()))


def _seconds(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
