"""What a type calls personal is hidden in events that are shown, and in texts that quote them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any
from uuid import UUID

import msgspec
import pytest

from penstock.schema import Hiding, RecordedSchema, check_backward, personal, scale, schema_from_description, schema_of


class Card(msgspec.Struct, tag="card"):
    number: Annotated[str, personal]
    kind: str


class Cash(msgspec.Struct, tag="cash"):
    note: str


class Home(msgspec.Struct):
    street: Annotated[str | None, personal] = None
    town: str = ""


class Person(msgspec.Struct, rename="camel"):
    number: int
    full_name: Annotated[str, personal]
    homes: dict[str, Home] = {}
    paid_with: Card | Cash | None = None
    nick_names: list[Annotated[str, personal]] = []
    birth: Annotated[Home | None, personal] = None


def hiding_of(kind: type[Any]) -> Hiding:
    found = Hiding.of(schema_of(kind).shape)
    assert found is not None
    return found


ANN: dict[str, Any] = {
    "number": 7,
    "fullName": "Ann Lee",
    "homes": {"first": {"street": "Elm St", "town": "Rome"}, "second": {"town": "Oslo"}},
    "paidWith": {"type": "card", "number": "4111", "kind": "gold"},
    "nickNames": ["an", "annie"],
    "birth": {"street": "Bay 1", "town": "Bonn"},
}


def test_only_what_is_personal_is_hidden_wherever_it_lies() -> None:
    assert hiding_of(Person).shown(ANN) == {
        "number": 7,
        "fullName": "[personal]",
        "homes": {"first": {"street": "[personal]", "town": "Rome"}, "second": {"town": "Oslo"}},
        "paidWith": {"type": "card", "number": "[personal]", "kind": "gold"},
        "nickNames": ["[personal]", "[personal]"],
        "birth": "[personal]",
    }


@pytest.mark.parametrize("part", ["homes", "paidWith", "nickNames"])
@pytest.mark.parametrize("odd", ["text", 5, ["x"], {"type": "coin", "number": "4111"}, {"a": "b"}])
def test_what_is_not_as_the_type_says_is_hidden_with_all_that_is_in_it(part: str, odd: Any) -> None:
    shown = hiding_of(Person).shown(ANN | {part: odd})[part]
    assert not {"text", "x", "b", "4111"} & set(str(shown).replace("'", " ").split())


def test_what_the_type_does_not_know_may_have_been_personal_once() -> None:
    shown = hiding_of(Person).shown({"number": 1, "fullName": None, "taxNumber": "12"})
    assert shown == {"number": 1, "fullName": None, "taxNumber": "[personal]"}


def test_bytes_that_are_no_event_are_hidden_whole() -> None:
    hiding = hiding_of(Person)
    assert hiding.shown_body(b'{"number":7,"fullName":"Ann"}') == b'{"number":7,"fullName":"[personal]"}'
    assert hiding.shown_body(b'{"fullName":"Ann"') == hiding.shown_body(b"\xff\xfe") == b"[personal]"
    assert hiding.shown_body(b'["Ann"]') == b'"[personal]"'


def test_a_type_without_personal_fields_hides_nothing() -> None:
    class Plain(msgspec.Struct):
        name: str

    assert Hiding.of(schema_of(Plain).shape) is None


def test_a_key_is_personal_when_its_field_is() -> None:
    hiding = hiding_of(Person)
    assert [hiding.covers(name) for name in ("full_name", "number", "homes")] == [True, False, True]


@dataclass
class Told:
    name: Annotated[str, personal]
    born: Annotated[datetime, personal]
    day: Annotated[date, personal]
    id: Annotated[UUID, personal]
    raw: Annotated[bytes, personal]
    owes: Annotated[Decimal, scale(2), personal]
    age: Annotated[int, personal]
    well: Annotated[bool, personal] = True
    tags: Annotated[list[str], personal] = field(default_factory=list)


def test_a_value_is_found_in_a_text_however_python_writes_it() -> None:
    told = Told(
        'O\'Neil "Bob"\n',
        datetime(1990, 5, 1, 12, tzinfo=UTC),
        date(1990, 5, 1),
        UUID(int=77),
        b"\x00raw",
        Decimal("12.50"),
        41,
        tags=["red", "a.b"],
    )
    hide = hiding_of(Told).from_texts(schema_of(Told).encode(told))
    for value in (told.name, told.born, told.day, told.id, told.raw, told.owes, told.age, "red", "a.b"):
        for text in (f"no {value} here", f"no {value!r} here", f"no <{value}>"):
            assert "[personal]" in hide(text), text
            assert str(value) not in hide(text), text
    assert told.born.isoformat() not in hide(f"since {told.born.isoformat()}")
    assert hide("True, 411, redder, axb, 1990") == "True, 411, redder, axb, 1990", "only as a whole, and no bool"


class Sex(Enum):
    FEMALE = "f"


class Secret(msgspec.Struct):
    day: date
    at: datetime
    owes: Decimal


class Whole(msgspec.Struct):
    name: Annotated[str, personal] = ""
    sex: Annotated[Sex | None, personal] = None
    phones: Annotated[dict[str, int], personal] = {}
    secret: Annotated[Secret | None, personal] = None
    days: Annotated[list[date], personal] = []
    weight: Annotated[float | None, personal] = None


def test_members_of_an_enum_names_in_a_dict_and_what_lies_in_something_personal_are_found() -> None:
    secret = Secret(date(1990, 5, 1), datetime(1990, 5, 2, tzinfo=UTC), Decimal("12.50"))
    whole = Whole("", Sex.FEMALE, {"bob@x.org": 1}, secret, [date(1990, 5, 3)])
    hide = hiding_of(Whole).from_texts(schema_of(Whole).encode(whole))
    assert hide(f"of {Sex.FEMALE}, {Sex.FEMALE!r}") == "of [personal], [personal]"
    assert hide(f"{KeyError('bob@x.org')}") == "[personal]"
    assert hide(f"{whole.days} {secret}") == "[[personal]] Secret(day=[personal], at=[personal], owes=[personal])"
    assert hide(f"{secret.day} {secret.at} {secret.at.isoformat()}") == "[personal] [personal] [personal]"


@pytest.mark.parametrize(
    "text",
    [
        str(KeyError("no mailbox:\n{}")),
        json.dumps("no mailbox:\n{}\t"),
        ascii("\x00{}"),
        json.dumps("é{}"),
        "user_{}",
        "{}さんはいません",
    ],
)
def test_a_value_is_found_beside_what_is_escaped_and_in_any_script(text: str) -> None:
    hide = hiding_of(Whole).from_texts(b'{"name":"bob@x.org"}')
    assert hide(text.format("bob@x.org")) == text.format("[personal]")


@pytest.mark.parametrize("name", ["Zoë", "日本", "O'Neil", 'Bo "B" Lee', "a\\b", "😀 Al"])
def test_a_value_is_found_as_python_and_json_quote_it_within_a_text(name: str) -> None:
    hide = hiding_of(Whole).from_texts(schema_of(Whole).encode(Whole(name)))
    for text in (repr(f"no {name}"), repr(f'no "{name}", it\'s'), ascii(f"no {name}"), json.dumps(f"no {name}")):
        assert "[personal]" in hide(text), text


def test_a_number_is_found_as_the_event_writes_it() -> None:
    hide = hiding_of(Whole).from_texts(b'{"weight":12345678901234567890123,"phones":{"a":1.50}}')
    assert hide("12345678901234567890123 does not fit, nor 1.50") == "[personal] does not fit, nor [personal]"
    assert hiding_of(Whole).from_texts(b'{"weight":8E1}')(f"weighs {80.0}") == "weighs [personal]"


def test_thousands_of_values_are_not_made_one_expression(monkeypatch: pytest.MonkeyPatch) -> None:
    """It took seconds to make, for each attempt."""
    made: list[str] = []
    whole = Whole(phones={f"person{index}@example.org": index for index in range(5_000)})
    hide = hiding_of(Whole).from_texts(schema_of(Whole).encode(whole))
    sub = re.sub
    monkeypatch.setattr(re, "sub", lambda pattern, *rest: (made.append(pattern), sub(pattern, *rest))[1])
    assert hide("no person77@example.org") == "no [personal]"
    assert len(made) == 1
    assert len(made[0]) < 1_000


def test_nothing_is_looked_for_in_an_event_without_values() -> None:
    hiding = hiding_of(Home)
    assert hiding.from_texts(b'{"town":"Rome"}')("in Rome") == "in Rome"
    assert hiding.from_texts(b'{"street":""}')("a  b") == "a  b"
    assert hiding.from_texts(b"no json")("no json") == "no json"


def test_the_log_records_it_and_it_may_come_and_go() -> None:
    class Before(msgspec.Struct):
        name: str

    class After(msgspec.Struct):
        name: Annotated[str, personal]

    old, new = schema_of(Before), schema_of(After)
    assert old.fingerprint != new.fingerprint
    assert check_backward(old.describe(), new.describe()) == check_backward(new.describe(), old.describe()) == []
    recorded = schema_from_description(schema_of(Person).describe(), None)
    assert isinstance(recorded, RecordedSchema)
    again = Hiding.of(recorded.shape)
    assert again is not None
    assert again.shown(ANN) == hiding_of(Person).shown(ANN)
