"""What a topic's type calls personal: it lies in the events, and is in nothing that is shown or told of them."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import polars as pl
import pytest

from penstock import App, OnFailure, Reject, Retry, count, files, parquet
from penstock.app.declared import TopicHandle
from penstock.cli import entry, exits
from penstock.cli.options import opened
from penstock.observe import letters
from penstock.schema import personal
from penstock.telemetry import emit
from tests.faults.report import FaultReport

MAIL, STREET = "bob.canary@x.org", "Canary Lane 5"
AGE = 73_916_085  # no id and no time has it by chance


class Home(msgspec.Struct):
    street: Annotated[str, personal]
    town: str


class User(msgspec.Struct, rename="camel"):
    number: int
    mail_box: Annotated[str, msgspec.Meta(max_length=60), personal]
    age: Annotated[int | None, personal] = None
    homes: list[Home] = []


BOB = User(1, MAIL, AGE, [Home(STREET, "Rome")])


class Told:
    """Keeps every span that ends."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def span(self, name: str, fields: dict[str, object], *, error: str | None) -> None:
        self.said.append(f"{name} {fields} {error}")


def declared(place: Path) -> tuple[App, TopicHandle[User]]:
    app = App("people", path=place / "log")
    return app, app.topic("users", User, key="mail_box", partitions=1)


def quoting(user: User) -> str:
    return f"no mailbox {user.mail_box!r}: {user.age} years, at {user.homes[0].street}, user {user.number}"


def shows(text: str) -> list[str]:
    """What of the personal values stands in a text."""
    return [value for value in (MAIL, STREET, str(AGE)) if value in text]


def letters_of(app: App, group: str) -> list[str]:
    """All that dead letters say beside the event, as they lie in the log."""

    async def read() -> list[str]:
        async with opened(app.directory) as log:
            every = letters.letters(log.channel, log.channel.topics(), group)
            return [str(msgspec.structs.replace(found.letter, body=b"", key=None)) async for found in every]

    return asyncio.run(read())


def said(capsys: pytest.CaptureFixture[str], app: App, *command: str, code: int = exits.DONE) -> str:
    """All that a command prints about the app's log."""
    capsys.readouterr()
    assert entry.outcome([*command, "--log", str(app.directory)]) == code, command
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_no_reason_and_no_stack_quotes_what_is_personal(tmp_path: Path, fault_report: FaultReport) -> None:
    """As they lie in the log: given up at once, after its attempts, for its result's sake, and rejected."""
    tally = fault_report("H14")
    app, users = declared(tmp_path)

    @app.handle(users, retry=Retry(2, first_s=0.001), on_failure=OnFailure(given_up="continue"))
    def welcome(user: User) -> None:
        if user.number == 1:
            raise ValueError(quoting(user))
        raise Reject(quoting(user))

    with app.client() as client:
        client.publish_many(users, [BOB, msgspec.structs.replace(BOB, number=2)])
    app.run(until_idle=True)
    found = letters_of(app, "welcome")
    assert len(found) == 2
    for text in found:
        assert "no mailbox" in text
        assert shows(text) == []
        tally.points += 1


def test_what_waits_and_what_is_said_of_it_quotes_nothing_personal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], fault_report: FaultReport
) -> None:
    """A target that fails: why is in the log's lines, in what commands say, and in the ledger's file."""
    tally = fault_report("H14")
    caplog.set_level(logging.DEBUG)
    told = Told()
    emit.collect(told)
    app, users = declared(tmp_path)
    tried: list[int] = []
    stop = asyncio.Event()

    @app.handle(users, retry=Retry(5, first_s=0.01), on_failure=OnFailure(breaker=1))
    async def welcome(user: User) -> None:
        tried.append(user.number)
        if len(tried) >= 3:
            stop.set()
        raise ConnectionError(quoting(user))

    try:
        with app.client() as client:
            client.publish(users, BOB)
        asyncio.run(app.serve(stop, on_progress=lambda parts: told.said.append(repr(parts))))
    finally:
        emit.collect(None)
    assert any("no mailbox" in one for one in told.said), "it is told why the group waits"
    for text in (caplog.text, repr(emit.counters()), *told.said, said(capsys, app, "groups", "--json")):
        assert shows(text) == []
        tally.points += 1
    with closing(sqlite3.connect(app.directory / "log.db")) as log:  # nobody has it open
        rows = [bytes(value) for (value,) in log.execute("SELECT value FROM ledger WHERE space = 'parked'")]
    assert any(b"no mailbox" in row for row in rows)
    for row in rows:
        key_aside = row.replace(MAIL.encode(), b"", 2)  # what it is told by in the lot, and shown by to its owner
        assert shows(key_aside.decode(errors="replace")) == []
        tally.points += 1


def test_a_flow_s_letters_quote_nothing_personal(tmp_path: Path, fault_report: FaultReport) -> None:
    tally = fault_report("H14")
    app, users = declared(tmp_path)
    app.flow("years", users).with_columns(n=pl.col("mail_box").cast(pl.Int64)).select("number", "n").to(
        parquet(tmp_path / "lake")
    )
    with app.client() as client:
        client.publish(users, BOB)
    app.run(until_idle=True)
    (text,) = letters_of(app, "years")
    assert "conversion" in text, "what Polars says of the row"
    assert shows(text) == []
    tally.points += 1


def test_what_is_personal_is_shown_only_when_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fault_report: FaultReport
) -> None:
    """By what the log has recorded: the program that declared it is not asked."""
    tally = fault_report("H14")
    app, users = declared(tmp_path)

    @app.handle(users, retry=Retry(1))
    def welcome(user: User) -> None:
        raise ValueError(quoting(user))

    with app.client() as client:
        client.publish_many(users, [BOB, BOB])
    app.run(until_idle=True)
    assert shows(said(capsys, app, "dlq", "redrive", "welcome/0/0")) == []
    commands = [
        ("tail", "users"),
        ("tail", "users", "--json"),
        ("tail", "welcome.dead"),
        ("tail", "welcome.dead", "--json"),
        ("tail", "welcome.redrive"),
        ("dlq", "list", "--all"),
        ("dlq", "show", "welcome/0/0"),
        ("dlq", "show", "welcome/0/0", "--json"),
    ]
    for command in commands:
        text = said(capsys, app, *command)
        assert "[personal]" in text, command
        assert shows(text) == [], command
        tally.points += 1
        if command[1] != "list":
            whole = said(capsys, app, *command, "--reveal")
            assert MAIL in whole or '"body":"eyJu' in whole, command
    assert '"town":"Rome"' in said(capsys, app, "tail", "users"), "what is not personal is there"
    for command in (("dlq", "show", "welcome/0/0", "--raw"), ("dlq", "redrive", "welcome/0/1", "--edit")):
        text = said(capsys, app, *command, code=exits.FAILED)
        assert "--reveal" in text
        assert shows(text) == []
        tally.points += 1


class Total(msgspec.Struct):
    mail_box: str
    users: int


def test_what_a_flow_keeps_on_its_way_is_shown_only_when_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Partial totals by a personal field: columns that the engine keeps for itself, and the keys they lie by."""
    app = App("people", path=tmp_path / "log")
    users = app.topic("users", User, key="number", partitions=1)
    totals = app.topic("totals", Total, key="mail_box", partitions=1)
    app.flow("total", users).by("mail_box").agg(users=count()).to(totals)
    with app.client() as client:
        client.publish(users, BOB)
    app.run(until_idle=True)
    for json in ((), ("--json",)):
        text = said(capsys, app, "tail", "total.partials", *json)
        assert '"[personal]"' in text
        assert shows(text) == []
        assert MAIL in said(capsys, app, "tail", "total.partials", "--reveal", *json)


class Checked(msgspec.Struct):
    who: str

    def __post_init__(self) -> None:
        if self.who:
            raise ValueError(f"{self.who} is nobody")


class Nobody(msgspec.Struct):
    who: Annotated[str, personal]

    def __post_init__(self) -> None:
        if self.who:
            raise ValueError(f"{self.who} is nobody")


def test_no_attempt_quotes_what_a_refused_result_takes_over(tmp_path: Path) -> None:
    app, users = declared(tmp_path)
    people = app.topic("people", Checked, key="who", partitions=1)
    tried: list[int] = []

    @app.handle(users, into=people, retry=Retry(2, first_s=0.001), on_failure=OnFailure(given_up="continue"))
    def pass_on(user: User) -> Checked:
        tried.append(user.number)
        if len(tried) == 1:
            raise ConnectionError("once")
        found = Checked("")
        found.who = user.mail_box
        return found

    with app.client() as client:
        client.publish(users, BOB)
    app.run(until_idle=True)
    (text,) = letters_of(app, "pass_on")
    assert text.count("[personal] is nobody") == 2, "the reason and the attempt"
    assert shows(text) == []


def test_no_reason_quotes_what_is_personal_in_a_result_that_is_refused(tmp_path: Path) -> None:
    """The event holds nothing personal; the result would have."""
    app = App("people", path=tmp_path / "log")
    source = app.topic("source", Home, partitions=1)
    nobodies = app.topic("nobodies", Nobody, key="who", partitions=1)

    @app.handle(source, into=nobodies, retry=Retry(1), on_failure=OnFailure(given_up="continue"))
    def pass_on(_: Home) -> Nobody:
        found = Nobody("")
        found.who = MAIL
        return found

    with app.client() as client:
        client.publish(source, Home("", "Rome"))
    app.run(until_idle=True)
    (text,) = letters_of(app, "pass_on")
    assert "[personal] is nobody" in text
    assert shows(text) == []


class Visitor(msgspec.Struct):
    mail: Annotated[str, personal]
    age: Annotated[int, personal]
    sex: Annotated[Literal["f", "m"], personal]

    def __post_init__(self) -> None:
        if self.age > 7_000:
            raise ValueError(f"{self.mail} is {self.age}")


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            "in.ndjson",
            [
                f'{{"mail":"{MAIL}","age":1,"sex":"{STREET}"}}',
                f'{{"mail":"{MAIL}","age":{AGE},"sex":"f"}}',
                f'{{"mail":"{MAIL}","age":{AGE}{AGE}{AGE},"sex":"f"}}',
            ],
        ),
        ("in.csv", ["mail,age,sex", f"{MAIL},1,{STREET}", f"{MAIL},{AGE},f", f"{MAIL},{AGE}x,f"]),
    ],
)
def test_a_source_s_letters_quote_nothing_personal(tmp_path: Path, name: str, lines: list[str]) -> None:
    (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
    app = App("people", path=tmp_path / "log")
    app.read(files(str(tmp_path / name)), into=app.topic("visitors", Visitor, partitions=1))
    app.run(until_idle=True)
    found = letters_of(app, "source.visitors")
    assert len(found) == 3
    for text in found:
        assert "[personal]" in text
        assert shows(text) == []


def test_of_a_personal_number_that_is_too_long_to_be_quoted_no_part_is(tmp_path: Path) -> None:
    (tmp_path / "in.ndjson").write_text(f'{{"mail":"{MAIL}","age":{AGE}{"0" * 26},"sex":"f"}}\n')
    app = App("people", path=tmp_path / "log")
    app.read(files(str(tmp_path / "in.ndjson")), into=app.topic("visitors", Visitor, partitions=1))
    app.run(until_idle=True)
    (text,) = letters_of(app, "source.visitors")
    assert "a number of 34 characters does not fit in 64 bits" in text
    assert shows(text) == []


def test_what_is_said_of_lines_that_are_refused_quotes_nothing_personal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = App("people", path=tmp_path / "log")
    visitors = app.topic("visitors", Visitor, partitions=1)

    @app.handle(visitors, retry=Retry(1))
    def welcome(_: Visitor) -> None:
        raise ValueError

    with app.client() as client:
        client.publish(visitors, Visitor("", 1, "f"))
    app.run(until_idle=True)
    odd = tmp_path / "odd.json"
    odd.write_text(f'{{"mail":"","age":1,"sex":"{STREET}"}}')
    for command, code in (
        (("publish", "visitors", odd.read_text()), exits.PARTLY),
        (("publish", "visitors", f'{{"mail":"","age":{AGE}{AGE}{AGE},"sex":"f"}}'), exits.PARTLY),
        (("dlq", "redrive", "welcome/0/0", "--body", str(odd)), exits.FAILED),
    ):
        text = said(capsys, app, *command, code=code)
        assert "[personal]" in text
        assert shows(text) == []
