"""What may be declared and what is refused by name; loading no heavy library; descriptions that are canonical."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import subprocess
import sys
import uuid
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypedDict, TypeVar

import msgspec
import pytest

from penstock.errors import ConfigError
from penstock.schema import schema_of
from penstock.schema.shapes import scale

T = TypeVar("T")


class Tuple(NamedTuple):
    a: int


class Dict(TypedDict):
    a: int


class Mixed(enum.Enum):
    A = "a"
    B = 1


class Floats(enum.Enum):
    A = 1.5


class Nothing(msgspec.Struct):
    pass


class Tagged(msgspec.Struct, tag="type"):
    a: int


class Other(msgspec.Struct, tag="other"):
    a: int


class Untagged(msgspec.Struct):
    a: int


class Positional(msgspec.Struct, array_like=True):
    a: int


class Node(msgspec.Struct):
    children: list[Node]


class Box(msgspec.Struct, Generic[T]):
    a: T


class IntBox(Box[int]):
    b: str = ""


@dataclasses.dataclass
class Computed:
    a: int
    b: int = dataclasses.field(init=False, default=0)


class Unknown:
    pass


REFUSED: dict[str, tuple[Any, str]] = {
    "Any": (Any, "name the type"),
    "object": (object, "type"),
    "a class of its own": (Unknown, "Unknown"),
    "set": (set[int], "use list"),
    "frozenset": (frozenset[int], "use list"),
    "tuple of one type": (tuple[int, ...], "use list"),
    "tuple": (tuple[int, str], "use a Struct"),
    "NamedTuple": (Tuple, "use a msgspec Struct or a dataclass"),
    "TypedDict": (Dict, "use a msgspec Struct or a dataclass"),
    "time": (dt.time, "use datetime"),
    "Raw": (msgspec.Raw, "use bytes"),
    "bytearray": (bytearray, "use bytes"),
    "complex": (complex, "complex"),
    "None": (None, "leave it out"),
    "int or str": (int | str, "use one type, or Structs with tag=True"),
    "int or float": (int | float, "use one type"),
    "untagged union": (Untagged | Other, "types.md"),
    "tag like its field": (Tagged | Other, "choose another tag"),
    "naive": (Annotated[dt.datetime, msgspec.Meta(tz=False)], "take tz=False away"),
    "enum of two types": (Mixed, "all str or all int"),
    "enum of floats": (Floats, "all str or all int"),
    "literal of two types": (Literal["a", 1], "only str or only int"),
    "literal beyond 64 bits": (Literal[1, 9223372036854775808], "2\\*\\*63"),
    "dict by int": (dict[int, str], r"dict\[str"),
    "bare dict": (dict, r"dict\[str"),
    "bare list": (list, "name the type"),
    "struct without fields": (Nothing, "has no fields"),
    "array_like": (Positional, "take array_like away"),
    "recursion": (Node, "contains itself"),
    "generic": (Box[int], "declare a class that inherits"),
    "computed": (Computed, "make it a property"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("inside", ["field", "list", "dict", "dataclass"])
def test_types_that_cannot_travel(name: str, inside: str) -> None:
    """Refused wherever they stand, by the name of the field, with the way out."""
    hint, way_out = REFUSED[name]
    hint = {"list": list[hint], "dict": dict[str, hint]}.get(inside, hint)
    make: Any = dataclasses.make_dataclass if inside == "dataclass" else msgspec.defstruct
    with pytest.raises(ConfigError, match=way_out) as caught:
        schema_of(make("Event", [("good", int), ("bad", hint)]))
    assert caught.value.path.startswith("Event.bad")


@pytest.mark.parametrize("kind", [int, dict, Tuple, Dict, Unknown, "text", None, Tagged | Other, Box[int]])
def test_only_structs_and_dataclasses_are_events(kind: Any) -> None:
    with pytest.raises(ConfigError, match="declare the event as one"):
        schema_of(kind)


def test_an_event_without_fields_and_a_reserved_name() -> None:
    with pytest.raises(ConfigError, match="no fields"):
        schema_of(Nothing)
    with pytest.raises(ConfigError, match=r"Event\._offset.*reserved"):
        schema_of(msgspec.defstruct("Event", [("_offset", int)]))


class Wrong(msgspec.Struct):
    a: int = 2**63


def test_generic_classes_are_declared_by_inheriting() -> None:
    schema = schema_of(IntBox)
    assert [(f.name, f.kind) for f in schema.fields] == [("a", "int"), ("b", "str")]
    assert schema.from_columns(schema.to_columns([IntBox(1, "x")])) == [IntBox(1, "x")]


@pytest.mark.parametrize(
    ("hint", "default"),
    [
        (int, None),
        (int, "1"),
        (int, 2**63),
        (float, float("nan")),
        (float | None, float("inf")),
        (dt.datetime, dt.datetime(2026, 1, 1)),  # noqa: DTZ001 - what must be refused
        (Annotated[int, msgspec.Meta(ge=1)], 0),
        (Literal["a"], "b"),
        (str, "\ud800"),
        (int | msgspec.UnsetType, msgspec.UNSET),
    ],
)
def test_a_default_is_a_value_of_its_type(hint: Any, default: Any) -> None:
    with pytest.raises(ConfigError, match="default") as caught:
        schema_of(msgspec.defstruct("Event", [("a", hint, default)]))
    assert caught.value.path == "Event.a"


def test_a_wrong_default_further_in() -> None:
    with pytest.raises(ConfigError, match=r"Wrong\.a"):
        schema_of(msgspec.defstruct("Event", [("inner", list[Wrong])]))


@pytest.mark.parametrize(("places", "digits"), [(-1, 5), (6, 5), (0, 0), (0, 39)])
def test_scale_has_bounds(places: int, digits: int) -> None:
    with pytest.raises(ValueError, match="expected 1 to 38"):
        scale(places, digits)


def test_descriptions_are_canonical_json() -> None:
    kind = msgspec.defstruct(
        "Event",
        [
            ("id", uuid.UUID),
            ("price", Annotated[Decimal, scale(2)]),
            ("name", Annotated[str, msgspec.Meta(max_length=5)] | None, None),  # pyright: ignore[reportOperatorIssue]
            ("tags", list[str], msgspec.field(default_factory=list)),
        ],
        rename={"id": "ID"},
        tag="event",
        forbid_unknown_fields=True,
    )
    schema = schema_of(kind, name="events.v1")
    assert schema.name == "events.v1"
    assert schema.describe() == {
        "kind": "struct",
        "name": "Event",
        "fields": [
            {"name": "id", "type": {"kind": "uuid"}, "wire": "ID"},
            {"name": "price", "type": {"kind": "decimal", "scale": 2, "digits": 38}},
            {"name": "name", "type": {"kind": "str", "limits": {"max_length": 5}, "optional": True}, "default": None},
            {"name": "tags", "type": {"kind": "list", "item": {"kind": "str"}}, "default": []},
        ],
        "tag": ["type", "event"],
        "closed": True,
    }
    assert msgspec.json.decode(msgspec.json.encode(schema.describe())) == schema.describe()
    assert schema.field("name").optional
    with pytest.raises(KeyError):
        schema.field("other")


def test_the_fingerprint_is_the_type_without_its_name() -> None:
    fields = [("a", int), ("b", str)]
    one, two = schema_of(msgspec.defstruct("One", fields)), schema_of(msgspec.defstruct("Two", fields))
    assert one.fingerprint == two.fingerprint
    assert one.fingerprint != schema_of(msgspec.defstruct("One", fields[:1])).fingerprint
    assert one.fingerprint != schema_of(msgspec.defstruct("One", fields[::-1])).fingerprint


def test_json_loads_no_library_for_columns() -> None:
    """A plain publish starts fast: Arrow, Polars and DuckDB are loaded when columns are asked for."""
    code = """
import sys, msgspec
from penstock.schema import schema_of, schema_from_description
schema = schema_of(msgspec.defstruct("Event", [("a", int), ("b", float | None, None)]))
body = schema.encode(schema.type(1))
schema.decode(body), schema.decode_strict(body), schema.validate_lines([body]), schema.decode_lines(body, 1)
schema_from_description(schema.describe(), None).decode(body), schema.fingerprint
assert not {"pyarrow", "polars", "duckdb"} & set(sys.modules), sorted(sys.modules)
schema.arrow
assert "pyarrow" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
