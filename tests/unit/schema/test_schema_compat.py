"""Every rule of compatibility both ways: what check_backward lets through can be read, what it refuses could not."""

from __future__ import annotations

import enum
import re
import uuid
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
import pyarrow as pa
import pytest

from penstock.errors import DecodeError, SchemaIncompatible
from penstock.schema import ColumnsSchema, Schema, check_backward, scale, schema_of

Meta = msgspec.Meta


class Two(enum.Enum):
    A = "a"
    B = "b"


class Three(enum.Enum):
    A = "a"
    B = "b"
    C = "c"


class Numbers(enum.IntEnum):
    ONE = 1


class A(msgspec.Struct, tag=True):
    x: int


class B(msgspec.Struct, tag=True):
    y: str


class C(msgspec.Struct, tag=True):
    z: str = ""


class AWider(msgspec.Struct, tag="A"):
    x: int
    more: list[int] = []


class AOther(msgspec.Struct, tag="A"):
    x: str


def of(*fields: Any, **options: Any) -> Schema[Any]:
    return schema_of(msgspec.defstruct("Event", [("id", int), *fields], **options))


def one(hint: Any, *default: Any) -> Schema[Any]:
    return of(("f", hint, *default))


FINE: dict[str, tuple[Schema[Any], Schema[Any], list[Any]]] = {
    "nothing": (one(int), one(int), [1]),
    "a new field with a default": (of(), one(str, "new"), []),
    "a new optional field": (of(), one(datetime | None, None), []),
    "a new field with a factory": (of(), one(list[str], msgspec.field(default_factory=list)), []),
    "a removed field": (one(int), of(), [1]),
    "still no unknown fields": (of(forbid_unknown_fields=True), of(forbid_unknown_fields=True), []),
    "unknown fields taken": (of(forbid_unknown_fields=True), of(), []),
    "another default of events that have all fields": (of(("f", int, 1)), of(("f", int, 2)), [3]),
    "defaults left out from now on": (of(("f", int, 1)), of(("f", int, 1), omit_defaults=True), [3]),
    "fields in another order": (of(("a", int), ("b", str)), of(("b", str), ("a", int)), [1, "x"]),
    "optional": (one(int), one(int | None), [1]),
    "an enum with more values": (one(Two), one(Three), [Two.B]),
    "a literal with more values": (one(Literal["a"]), one(Literal["b", "a"]), ["a"]),
    "an enum to a literal": (one(Two), one(Literal["a", "b"]), [Two.A]),
    "a literal to an enum": (one(Literal["a", "b"]), one(Two), ["b"]),
    "an enum to text": (one(Two), one(str), [Two.A]),
    "a literal to int": (one(Literal[1, 2]), one(int), [2]),
    "one more member": (one(A | B), one(A | B | C), [B("q")]),
    "members in another order": (one(A | B), one(B | A), [A(1)]),
    "a wider member": (one(A | B), one(AWider | B), [A(1)]),
    "a limit loosened": (
        one(Annotated[int, Meta(ge=0, le=9)]),
        one(Annotated[int, Meta(ge=-1, le=10)]),
        [9],
    ),
    "another limit, implied": (one(Annotated[int, Meta(ge=5, lt=9)]), one(Annotated[int, Meta(gt=4, le=9)]), [8]),
    "a coarser grid": (one(Annotated[int, Meta(multiple_of=6)]), one(Annotated[int, Meta(multiple_of=3)]), [12]),
    "a limit taken away": (one(Annotated[str, Meta(max_length=3)]), one(str), ["abc"]),
    "a limit that all integers keep": (one(int), one(Annotated[int, Meta(ge=-(2**63))]), [-(2**63)]),
    "an open end that includes": (one(Annotated[int, Meta(gt=0)]), one(Annotated[int, Meta(ge=0)]), [1]),
    "a tag where there was none": (one(int), of(("f", int), tag="e"), [1]),
    "a tag taken away": (of(("f", int), tag="e"), one(int), [1]),
    "nested: a new field with a default": (
        one(list[dict[str, A | None]]),
        one(list[dict[str, AWider | None]]),
        [[{"k": A(5), "n": None}]],
    ),
}

BROKEN: dict[str, tuple[Schema[Any], Schema[Any], list[Any], str]] = {
    "a tag in the place of a field": (
        of(("kind", str)),
        of(tag="e", tag_field="kind"),
        ["x"],
        "the tag takes the place of the field kind",
    ),
    "a new required field": (of(), one(int), [], "f: is new and required"),
    "a new required optional field": (of(), one(int | None), [], "f: is new and required"),
    "a default taken away": (one(int, 1), one(int), [None], "f: had a default"),
    "required": (one(int | None), one(int), [None], "f: was optional"),
    "another type": (one(int), one(str), [1], "f: was int and is str now"),
    "text to an enum": (one(str), one(Two), ["z"], "f: was str and is enum now"),
    "an enum of text to int": (one(Two), one(int), [Two.A], "f: was enum and is int"),
    "an enum of text to one of int": (one(Two), one(Numbers), [Two.A], "f: the values a, b are gone"),
    "an enum with fewer values": (one(Three), one(Two), [Three.C], "f: the values c are gone"),
    "a literal with fewer values": (one(Literal[1, 2]), one(Literal[1]), [2], "f: the values 2 are gone"),
    "a member less": (one(A | B), one(A | C), [B("")], "f: the member B is gone"),
    "another type in a member": (one(A | B), one(AOther | B), [A(1)], "f<A>.x: was int and is str"),
    "a new limit": (one(int), one(Annotated[int, Meta(ge=0)]), [-1], "f: a new limit ge = 0"),
    "a tighter limit": (
        one(Annotated[str, Meta(max_length=5)]),
        one(Annotated[str, Meta(max_length=4)]),
        ["abcde"],
        "f: the limit max_length was 5 and is 4 now",
    ),
    "an open end that excludes": (
        one(Annotated[int, Meta(ge=0)]),
        one(Annotated[int, Meta(gt=0)]),
        [0],
        "f: a new limit gt = 0",
    ),
    "another pattern": (
        one(Annotated[str, Meta(pattern="^a")]),
        one(Annotated[str, Meta(pattern="^b")]),
        ["a"],
        "f: the limit pattern",
    ),
    "a smaller scale": (
        one(Annotated[Decimal, scale(2)]),
        one(Annotated[Decimal, scale(1)]),
        [Decimal("0.25")],
        "scale",
    ),
    "a tag changed": (of(("f", int), tag="e"), of(("f", int), tag="g"), [1], "the tag was e and is g now"),
    "a removed field where unknown ones are refused": (
        one(int),
        of(forbid_unknown_fields=True),
        [1],
        "f: is gone while unknown fields are refused",
    ),
    "a tag taken away where unknown fields are refused": (
        of(("f", int), tag="e"),
        of(("f", int), forbid_unknown_fields=True),
        [1],
        "unknown fields are refused",
    ),
    "a name in JSON": (one(int), of(("f", int), rename={"f": "g"}), [1], "f: is new and required"),
    "nested": (one(list[dict[str, A]]), one(list[dict[str, AOther]]), [[{"k": A(1)}]], r"f\[\]\{\}\.x: was int"),
    "a list's items": (one(list[int | None]), one(list[int]), [[None]], r"f\[\]: was optional"),
}


def breaking(old: Schema[Any], new: Schema[Any]) -> str:
    """As the log has it: the old description went through JSON."""
    recorded = msgspec.json.decode(msgspec.json.encode(old.describe()))
    changes = check_backward(recorded, new.describe())
    assert all(change.way_out for change in changes)
    return "; ".join(f"{change.path}: {change.what}" for change in changes)


@pytest.mark.parametrize("name", FINE)
def test_compatible_changes_read_what_is_recorded(name: str) -> None:
    old, new, values = FINE[name]
    assert breaking(old, new) == ""
    event = old.type(7, *values)
    body, table = old.encode(event), old.to_columns([event])
    read = new.decode(body)
    assert new.decode_lines(body + b"\n" + body, 2) == [read, read]
    assert new.from_columns(table) == [read]
    columns = new.lines_to_columns(body, 1)
    new.check(columns)
    assert new.conform(table).equals(columns)
    assert new.columns_to_lines(table) == [new.encode(read)]


@pytest.mark.parametrize("name", BROKEN)
def test_breaking_changes_are_named_and_would_break(name: str) -> None:
    old, new, values, expected = BROKEN[name]
    assert re.search(expected, breaking(old, new)), breaking(old, new)
    body = old.encode(old.type(7, *values))
    if values == [None]:
        body = b'{"id":7,"f":null}' if old.field("f").optional else b'{"id":7}'
    with pytest.raises(DecodeError):
        new.decode_strict(body)


OTHER_BREAKS: dict[str, tuple[Schema[Any], Schema[Any], str]] = {
    "another default, where it was left out of events": (
        of(("f", str, "new"), omit_defaults=True),
        of(("f", str, "open")),
        "f: the default was 'new' and is another now",
    ),
    "a default that is made, where it was left out of events": (
        of(("f", list[int], []), omit_defaults=True),
        of(("f", list[int], msgspec.field(default_factory=lambda: [1]))),
        "f: the default was",
    ),
    "unknown fields refused, which a file or another type may have recorded": (
        one(int),
        of(("f", int), forbid_unknown_fields=True),
        "unknown fields are refused now",
    ),
    "int to float, which columns hold otherwise": (one(int), one(float), "f: was int and is float"),
    "a struct to a union, which columns hold otherwise": (one(A), one(A | B), "f: was struct and is union"),
    "a larger scale, which columns hold otherwise": (one(Annotated[Decimal, scale(1)]), one(Decimal), "scale"),
    "a name in Python, which is the column's": (
        of(("f", int), rename={"f": "wire"}),
        of(("g", int), rename={"g": "wire"}),
        "g: was called f in columns",
    ),
}


@pytest.mark.parametrize("name", OTHER_BREAKS)
def test_changes_that_only_columns_could_not_follow(name: str) -> None:
    old, new, expected = OTHER_BREAKS[name]
    assert expected in breaking(old, new)


def columns(*fields: Any) -> ColumnsSchema:
    return ColumnsSchema("flow", pa.schema([pa.field("k", pa.string(), nullable=False), *fields]))


X = pa.field("x", pa.int64())
COLUMNS: dict[str, tuple[Any, Any, str]] = {
    "the same": (columns(X), columns(X), ""),
    "a new column": (columns(), columns(X), ""),
    "a column less": (columns(X), columns(), ""),
    "may be null now": (columns(X.with_nullable(False)), columns(X), ""),
    "a new one without nulls": (columns(), columns(X.with_nullable(False)), "x: is new and may not be null"),
    "another type": (columns(X), columns(X.with_type(pa.float64())), "x: was int64 and is double now"),
    "no nulls any more": (columns(X), columns(X.with_nullable(False)), "x: could be null"),
    "from a type to columns": (one(int), columns(X), "was struct and is a type of columns only now"),
    "from columns to a type": (columns(X), one(int), "was a type of columns only and is struct now"),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_types_of_columns_only(name: str) -> None:
    old, new, expected = COLUMNS[name]
    found = breaking(old, new)
    assert (found == "") == (expected == "")
    assert expected in found
    if expected == "" and isinstance(old, ColumnsSchema):
        rows = [{"k": "a", "x": 1}]
        new.check(new.conform(pa.RecordBatch.from_pylist(rows, schema=old.arrow)))


def test_every_change_is_found_at_once() -> None:
    old, new = (
        of(("a", int), ("b", int | None), ("c", Two)),
        of(("a", str), ("b", int), ("c", Literal["a"]), ("d", int)),
    )
    assert [c.path for c in check_backward(old.describe(), new.describe())] == ["a", "b", "c", "d"]


def test_older_columns_that_cannot_become_the_new_ones() -> None:
    """Nothing is guessed where a program goes on in spite of a breaking change."""
    old = one(str).to_columns([one(str).type(1, "x")])
    with pytest.raises(SchemaIncompatible):
        one(int).from_columns(old)
    with pytest.raises(SchemaIncompatible, match="no column f"):
        one(int).from_columns(of().to_columns([of().type(1)]))
    number = one(int).to_columns([one(int).type(1, 2)])
    for other in (str, bool, datetime, date, Decimal, bytes):
        with pytest.raises(SchemaIncompatible, match="int64 is no"):
            one(other).from_columns(number)


def test_a_value_is_named_by_its_column_whatever_the_others_are() -> None:
    """A list makes the rows be looked at one by one, which knew the value alone."""
    schema = schema_of(msgspec.defstruct("Event", [("many", list[int]), ("two", Two)]))
    batch = pa.RecordBatch.from_arrays([pa.array([[1], [1]]), pa.array(["b", "z"])], schema=schema.arrow)
    with pytest.raises(SchemaIncompatible, match="column two, row 1: z is no enum"):
        schema.check(batch)


def batch_of(**values: list[Any]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(values)


WRONG_BATCHES: list[tuple[pa.RecordBatch, str]] = [
    (batch_of(f=[1.0], id=[1]), "columns f, id; expected id, f"),
    (batch_of(id=[1]), "columns id; expected id, f"),
    (batch_of(id=[1], f=["x"]), "column f is string; expected double: cast it"),
    (batch_of(id=[1, None], f=[1.0, 2.0]), "column id has 1 null values"),
    (batch_of(id=[1, 1], f=[1.0, float("nan")]), "column f, row 1: nan is no float"),
]


@pytest.mark.parametrize(("batch", "reason"), WRONG_BATCHES, ids=range(len(WRONG_BATCHES)))
def test_batches_that_are_not_what_the_type_says(batch: pa.RecordBatch, reason: str) -> None:
    with pytest.raises(SchemaIncompatible, match=reason):
        one(float).check(batch)


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (Two, "z"),
        (Two | None, "z"),
        (Literal[1], 2),
        (datetime, -(2**62)),
        (float | None, float("inf")),
        (Annotated[int, Meta(ge=0)], -1),
        (list[A], [{"x": None}]),
        (A | B, {"type": "Z", "A": None, "B": None}),
        (A | B, {"type": "A", "A": None, "B": None}),
        (dict[str, float], [("a", float("nan"))]),
        (Decimal, "x"),
        (uuid.UUID, "no"),
    ],
)
def test_values_that_types_of_columns_do_not_rule_out(hint: Any, value: Any) -> None:
    schema = one(hint)
    kind = schema.arrow.field("f").type
    if pa.types.is_timestamp(kind):
        value = pa.scalar(value, pa.int64()).cast(kind)
    batch = pa.RecordBatch.from_arrays([pa.array([1]), pa.array([value], kind)], schema=schema.arrow)
    with pytest.raises(SchemaIncompatible, match=r"Event"):
        schema.check(batch)


def test_a_batch_that_is_well() -> None:
    schema = one(datetime | None)
    schema.check(schema.to_columns([schema.type(1, None), schema.type(2, datetime(2026, 1, 1, tzinfo=UTC))]))
