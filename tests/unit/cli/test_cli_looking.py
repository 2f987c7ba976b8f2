"""Commands that look at a log: every `--json` shape, what people read, and every way to be wrong."""

from __future__ import annotations

import os
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest
from msgspec import Struct

from penstock import App, NewEvent, OnFailure, Retry
from penstock.cli import exits
from penstock.cli.entry import COMMANDS, cli
from tests.unit.cli.conftest import Penstock


def test_help_lists_every_command(penstock: Penstock) -> None:
    """With its one line, the exit codes and how the shell completes; each command has help of its own."""
    said = penstock("--help")
    assert said.code == exits.DONE
    for name, text in COMMANDS.items():
        assert f"  {name}" in said.out
        assert text.split(".")[0][:40] in said.out
        command = cli.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None
        assert command.name == name
        assert penstock(name, "--help").code == exits.DONE
    assert "Exit codes" in said.out
    assert "_PENSTOCK_COMPLETE" in said.out


def test_version(penstock: Penstock) -> None:
    assert penstock("--version").out.startswith("penstock ")


@pytest.mark.parametrize("arguments", [["nope"], ["query"], ["tail"], ["topics", "--nope"], ["dlq", "show"]])
def test_wrong_usage(penstock: Penstock, arguments: list[str]) -> None:
    said = penstock(*arguments)
    assert said.code == exits.USAGE
    assert said.out == ""
    assert "error: " in said.err


@pytest.mark.parametrize("group", ["dlq", "log", "demo"])
def test_a_group_without_a_command_shows_its_help(penstock: Penstock, group: str) -> None:
    said = penstock(group)
    assert (said.code, said.out) == (exits.USAGE, "")
    assert "\nCommands:\n" in said.err
    assert "error:" not in said.err


@pytest.mark.parametrize(
    "arguments", [["topics"], ["groups"], ["dlq", "list"], ["query", "select 1"], ["tail", "raw"], ["doctor"]]
)
def test_no_log_yet(penstock: Penstock, arguments: list[str]) -> None:
    """Without a log, the way to one."""
    said = penstock(*arguments)
    assert (said.code, said.out) == (exits.FAILED, "")
    assert said.err.startswith("error: --log: no log in")
    assert "penstock run FILE.py" in said.err


# -- topics and groups -----------------------------------------------------------------------------------------------


def test_topics(penstock: Penstock, project: Path) -> None:
    """The log is found from the project; internal topics only when asked for."""
    found: Any = penstock("topics", "--json").json()
    assert found["log"] == str(project / ".penstock" / "flights")
    flights = found["topics"][2]
    assert flights["first"] == "2013-01-01T00:00:00Z"
    assert {"name": "flights", "type": "Flight", "events": 100, "partitions": 2, "key": "carrier"}.items() <= (
        flights.items()
    )
    said = penstock("topics")
    assert "flights" in said.out
    assert "check.dead" not in said.out
    assert "1 internal" in said.err
    assert "check.dead" in penstock("topics", "--all").out


def test_topics_show(penstock: Penstock, project: Path) -> None:
    """The declaration, the partitions, the fields; options before and after `show` mean the same."""
    found: Any = penstock("topics", "show", "flights", "--json").json()
    assert [f["name"] for f in found["fields"]] == ["id", "carrier", "due", "delay_min"]
    assert sum(p["next"] for p in found["parts"]) == 100
    assert penstock("topics", "--json", "show", "flights").json() == found
    said = penstock("topics", "show", "flights")
    assert "float | None" in said.out
    assert "raw bytes" in penstock("topics", "show", "raw").out
    wrong = penstock("topics", "show", "flight")
    assert wrong.code == exits.FAILED
    assert "did you mean flights" in wrong.err


def test_a_group_is_put_elsewhere(penstock: Penstock, project: Path) -> None:
    """It says what that means first, and asks; earliest and latest are places, too."""
    asked: Any = penstock("groups", "seek", "check", "--to-event", "flights/1@2", "--json").json()
    assert [(s["partition"], s["floor"], s["to"], s["again"]) for s in asked["partitions"]] == [(1, 5, 2, 3)]
    assert penstock("groups", "seek", "check", "--to-offset", "earliest", given="n\n").code == exits.INTERRUPTED
    for to in ("latest", "earliest"):
        assert penstock("groups", "seek", "check", "--to-offset", to, "--yes").code == exits.DONE
    [group] = penstock("groups", "--json").json()["groups"]  # type: ignore[index]
    assert [part["floor"] for part in group["partitions"]] == [0, 0]
    assert "every checksum matches" in penstock("log", "verify").out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--to-offset", "²"], "expected a number"),
        (["--to-event", "1@²"], "expected PARTITION@OFFSET"),
        (["--to-event", "1@2", "--partition", "0"], "leave --partition out"),
        (["--to-event", "1@2", "--to-offset", "0"], "one of"),
        (["--to-time", "yesterday"], "expected a time"),
    ],
)
def test_where_a_group_cannot_be_put(penstock: Penstock, project: Path, arguments: list[str], named: str) -> None:
    said = penstock("groups", "seek", "check", "--yes", *arguments)
    assert (said.code, said.out) == (exits.USAGE, "")
    assert named in said.err


def test_an_event_of_another_topic_is_no_place_for_a_group(penstock: Penstock, project: Path) -> None:
    said = penstock("groups", "seek", "check", "--yes", "--to-event", "raw/0@1")
    assert said.code == exits.FAILED
    assert "reads topic flights, not raw" in said.err


def test_groups(penstock: Penstock, project: Path) -> None:
    found: Any = penstock("groups", "--json").json()
    [group] = found["groups"]
    assert (group["name"], group["state"], group["lag"]) == ("check", "stopped", 95)
    assert "stopped" in penstock("groups", "check").out
    assert "did you mean check" in penstock("groups", "chek").err


def test_groups_show_what_is_parked(penstock: Penstock, tmp_path: Path) -> None:
    """An event that waits for somebody, and two behind it; another key has gone on."""
    app = App("parks", path=tmp_path / ".penstock" / "parks")
    topic = app.topic("words", partitions=1)

    @app.handle(topic, retry=Retry(1), on_failure=OnFailure(given_up="block"), name="say")
    def say(word: bytes) -> None:
        if word == b"bad":
            raise ValueError(word)

    with app.client() as client:
        client.publish_many(topic, [NewEvent(data=data, key=key) for key, data in
                                    (("a", b"bad"), ("b", b"1"), ("a", b"2"), ("a", b"3"))])  # fmt: skip
    app.run(until_idle=True)
    found: Any = penstock("groups", "--json").json()
    [group] = found["groups"]
    [part] = group["partitions"]
    assert (part["floor"], part["lag"], part["parked"]) == (4, 0, 3)
    assert "parked" in penstock("groups").out


def test_a_current_directory_that_is_gone_is_named(penstock: Penstock, project: Path) -> None:
    gone = project / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    found = penstock("topics", "--log", str(project / ".penstock" / "flights"))
    assert found.code == exits.FAILED
    assert "the current directory was removed or renamed" in found.err


def test_trim_says_what_the_topics_declare_that_were_named(penstock: Penstock, project: Path) -> None:
    assert penstock("log", "trim").out == "no topic declares a retention: everything is kept\n"
    assert penstock("log", "trim", "raw").out == "topic raw declares no retention: it keeps everything\n"


def test_which_log(penstock: Penstock, project: Path) -> None:
    """By directory, by the folder of its project, by name, from below; with two, they are listed."""
    here = project / ".penstock" / "flights"
    for given in (str(here), str(project), "flights", ".penstock/flights"):
        assert penstock("topics", "--log", given, "--json").json() == penstock("topics", "--json").json()
    assert "found: flights" in penstock("topics", "--log", "nope").err
    (project / ".penstock" / "other").mkdir()
    (project / ".penstock" / "other" / "witness").touch()
    said = penstock("topics")
    assert said.code == exits.FAILED
    assert "2 logs" in said.err
    assert "flights, other" in said.err


# -- tail ------------------------------------------------------------------------------------------------------------


def test_tail(penstock: Penstock, project: Path) -> None:
    """The last ten by default; from anywhere, of one partition, and as CloudEvents."""
    assert len(penstock("tail", "flights").out.splitlines()) == 10
    assert len(penstock("tail", "flights", "-n", "3").out.splitlines()) == 3
    assert len(penstock("tail", "flights", "--from", "earliest").out.splitlines()) == 100
    assert len(penstock("tail", "flights", "--from", "earliest", "-n", "4").out.splitlines()) == 4
    assert len(penstock("tail", "flights", "--from", "2000-01-01").out.splitlines()) == 100
    assert penstock("tail", "flights", "--from", "2999-01-01T00:00Z").out == ""
    assert penstock("tail", "flights", "--from", "latest").out == ""
    [first, *_] = penstock("tail", "flights", "-p", "1", "--from", "2").out.splitlines()
    assert first.startswith("1/2  ")
    [event] = penstock("tail", "flights", "-n", "1", "--json").lines()
    assert event["specversion"] == "1.0"
    assert event["type"] == "Flight"
    assert event["partitionkey"] == event["data"]["carrier"]  # type: ignore[index]
    assert event["time"] == event["data"]["due"]  # type: ignore[index]


class Price(Struct):
    exact: Decimal


def test_tail_shows_events_as_they_are_published(penstock: Penstock, tmp_path: Path) -> None:
    """A decimal is a string in an event: as a number a reader would make a float of it, and lose digits."""
    app = App("prices", tmp_path / ".penstock" / "prices")
    prices = app.topic("prices", Price)
    with app.client() as client:
        client.publish(prices, Price(Decimal("12345678901234567890.10")))
    assert penstock("tail", "prices").out.endswith('{"exact":"12345678901234567890.10"}\n')
    [event] = penstock("tail", "prices", "--json").lines()
    assert event["data"] == {"exact": "12345678901234567890.10"}
    again = msgspec.json.encode(event["data"]).decode()
    assert penstock("publish", "prices", again).code == exits.DONE


def test_tail_wrongly(penstock: Penstock, project: Path) -> None:
    assert penstock("tail", "flights", "--from", "yesterday").code == exits.USAGE
    said = penstock("tail", "flights", "-p", "2")
    assert (said.code, "partitions 0 to 1" in said.err) == (exits.FAILED, True)
    assert "did you mean flights" in penstock("tail", "flihgts").err


# -- query -----------------------------------------------------------------------------------------------------------


def test_query_as_a_table(penstock: Penstock, project: Path) -> None:
    """The first rows, and how to get the others."""
    said = penstock("query", "SELECT id, carrier FROM flights ORDER BY id")
    assert said.out.splitlines()[1].split() == ["0", "C0"]
    assert len(said.out.splitlines()) == 41
    assert "first 40 rows" in said.err
    assert len(penstock("query", "--limit", "3", "FROM flights").out.splitlines()) == 4
    assert penstock("query", "-", given="-- nothing").err == "done\n"


def test_query_as_json_and_csv(penstock: Penstock, project: Path) -> None:
    """Every row; numbers stay numbers, maps are objects, moments are in UTC."""
    rows = penstock("query", "--json", "SELECT sum(id) AS n, max(due) AS t FROM flights").lines()
    assert rows == [{"n": 4950, "t": "2013-01-01T01:39:00Z"}]
    assert len(penstock("query", "--json", "FROM flights").lines()) == 100
    assert penstock("query", "--json", "SELECT _headers FROM raw").lines()[0] == {"_headers": {"from": "a"}}
    said = penstock("query", "--csv", "-", given="SELECT id, due, [1, 2] AS l, delay_min FROM flights WHERE id < 2")
    assert said.out == 'id,due,l,delay_min\n0,2013-01-01T00:00:00Z,"[1,2]",\n1,2013-01-01T00:01:00Z,"[1,2]",0.25\n'


def test_query_keeps_columns_of_one_name_apart(penstock: Penstock, project: Path) -> None:
    """As a join gives them: an object has a key once, and none of them may be lost."""
    sql = "SELECT 1 AS a, 2 AS a_1, 3 AS a"
    assert penstock("query", "--json", sql).lines() == [{"a": 1, "a_1": 2, "a_2": 3}]
    assert penstock("query", "--csv", sql).out == "a,a_1,a_2\n1,2,3\n"
    joined = penstock("query", "--json", "FROM flights f JOIN flights g USING (_partition, _offset) LIMIT 1").lines()
    assert joined[0]["id"] == joined[0]["id_1"]


@pytest.mark.parametrize(
    ("sql", "value"),
    [
        ("DATE '20000-01-01'", "20000-01-01"),
        ("'-infinity'::TIMESTAMPTZ", "-infinity"),
        ("[DATE 'infinity', NULL]", ["infinity", None]),
        ("TIMESTAMP_NS '2020-01-01 00:00:00.123456789'", "2020-01-01 00:00:00.123456789"),
        ("MAP {[1]: DATE '20000-01-01'}", [{"key": [1], "value": "20000-01-01"}]),
        ("{'a': INTERVAL '2 days 1 second'}", {"a": "P2DT1S"}),
        ("INTERVAL '1 month 2 days'", "P1M2DT0S"),
        ("to_microseconds(9223372036854775807)", "P106751991DT14454.775807S"),
        ("to_microseconds(-9223372036854775807)", "-P106751991DT14454.775807S"),
        ("[{'x y': MAP {'k': to_hours(2600000)}}, NULL]", [{"x y": {"k": "P108333DT28800S"}}, None]),
        ("340282366920938463463374607431768211455::UHUGEINT", "340282366920938463463374607431768211455"),
        ("TIMETZ '12:34:56+02'", "12:34:56+02"),
        ("BIT '0101'", "0101"),
        ("[12345678901234567890123456789012345678901234567890::BIGNUM]", ["1234567890" * 5]),
        ("row(1, BIT '1')", {"element1": 1, "element2": "1"}),
        ("union_value(k := BIT '1')", "1"),
        ("5::VARIANT", "5"),
    ],
)
def test_query_prints_what_python_has_no_value_for(penstock: Penstock, project: Path, sql: str, value: object) -> None:
    assert penstock("query", "--json", f"SELECT {sql} AS a").lines() == [{"a": value}]
    for form in ([], ["--csv"]):
        assert penstock("query", *form, f"SELECT {sql} AS a").code == exits.DONE


def test_query_writes_lengths_of_time(penstock: Penstock, project: Path) -> None:
    """Parquet has none of DuckDB's intervals: the length of a topic's `timedelta` goes there as microseconds."""
    assert penstock("query", "-o", "out.parquet", "SELECT 1 AS n, INTERVAL '1 day 2 us' AS a").code == exits.DONE
    assert pq.read_table(project / "out.parquet").to_pylist() == [{"n": 1, "a": timedelta(days=1, microseconds=2)}]
    for sql in ("SELECT INTERVAL '1 month' AS a", "SELECT [INTERVAL '1 day'] AS a"):
        said = penstock("query", "-o", "bad.parquet", sql)
        assert said.code == exits.FAILED
        assert "--output" in said.err
    assert [path.name for path in project.iterdir() if "bad" in path.name] == []


@pytest.mark.parametrize("name", ["out.parquet", "out.csv", "out.ndjson"])
def test_query_into_a_file(penstock: Penstock, project: Path, name: str) -> None:
    """The file is there when it is whole, and not at all after an error."""
    assert penstock("query", "-o", name, "FROM flights").code == exits.DONE
    target = project / name
    count = pq.read_table(target).num_rows if name.endswith("parquet") else len(target.read_text().splitlines())
    assert count == 100 + name.endswith("csv")
    bad = penstock("query", "-o", f"bad-{name}", "SELECT carrier::INT FROM flights")
    assert bad.code == exits.FAILED
    assert "Conversion Error" in bad.err
    assert [path.name for path in project.iterdir() if "bad" in path.name] == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--json", "--csv", "select 1"], exits.USAGE, "exclude each other"),
        (["-o", "x.xlsx", "select 1"], exits.USAGE, ".parquet"),
        (["-o", "nowhere/x.csv", "select 1"], exits.FAILED, "is no folder"),
        ([" "], exits.USAGE, "no SQL"),
        (["select nope from flights"], exits.FAILED, "error: Binder Error"),
        (["from flihgts"], exits.FAILED, "did you mean flights"),
    ],
)
def test_query_wrongly(penstock: Penstock, project: Path, arguments: list[str], code: int, said: str) -> None:
    found = penstock("query", *arguments)
    assert (found.code, found.out) == (code, "")
    assert said in found.err
    assert "Traceback" not in found.err


# -- dead letters ----------------------------------------------------------------------------------------------------


def test_dead_letters(penstock: Penstock, project: Path) -> None:
    """Counted by cause; one whole, with its original bytes."""
    found: Any = penstock("dlq", "list", "--json").json()
    assert found["dead_letters"] == 4
    assert [(c["group"], c["cause"], c["count"]) for c in found["causes"]] == [
        ("check", "bad value …", 2),
        ("check", "never departed", 2),
    ]
    assert "bad value …" in penstock("dlq", "list", "check").out
    letter: Any = penstock("dlq", "show", "check/1/0", "--json").json()
    assert {"reason": "never departed", "attempts": 3, "body": '{"id":9}', "key": "C2"}.items() <= letter.items()
    assert penstock("dlq", "show", "event-9", "--raw").out == '{"id":9}'
    text = penstock("dlq", "show", "check/1/0").out
    assert "  boom" in text
    assert "attempts: 3" in text


def test_dead_letters_wrongly(penstock: Penstock, project: Path) -> None:
    assert "no dead letter" in penstock("dlq", "show", "nope").err
    assert "did you mean check" in penstock("dlq", "list", "chek").err
    assert penstock("dlq", "show", "x", "--json", "--raw").code == exits.USAGE


# -- H19: nothing that somebody else wrote acts on the terminal ------------------------------------------------------


def test_no_control_character_reaches_the_terminal(penstock: Penstock, project: Path) -> None:
    """Bodies, headers, keys, reasons, column names and error messages: escapes are shown, never sent."""
    for arguments in (
        ["tail", "raw"],
        ["tail", "raw", "--json"],
        ["query", "FROM raw"],
        ["query", "--json", "SELECT decode('\x1b[2J'::BLOB) AS \"a\x1bb\", chr(155) AS c1, chr(8232) AS line"],
        ["query", "SELECT chr(27) || '[2J' AS \"\x1b[31mname\""],
        ["query", 'FROM "\x1b[2J"'],
        ["query", "SELEC '\x1b[2J'"],
        ["topics", "show", "\x1b[2J"],
        ["dlq", "show", "\x1b[2J\r\nforged"],
        ["groups", "\x9b2J"],
        ["tail", "flights", "--log", "\x1b[2J"],
        ["tail", "flights", "--from", "\x1b[2J"],
        ["\x1b[2J"],
        ["topics", "--\x1b[2J"],
    ):
        said = penstock(*arguments)
        text = (said.out + said.err).replace("\n", "")
        bad = [c for c in text if ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u2028\u2029"]
        assert bad == [], (arguments, bad)
    assert "\\x1b[31mred" in penstock("tail", "raw").out


@pytest.mark.parametrize("name", ["out.parquet", "out.csv", "out.ndjson"])
def test_a_file_that_cannot_be_written_is_named_and_leaves_nothing(
    penstock: Penstock, project: Path, name: str
) -> None:
    """As on a full disk, which the part of a file must not go on filling."""
    (project / f".{name}.part").symlink_to("/dev/full")
    said = penstock("query", "-o", name, "FROM flights")
    assert said.code == exits.FAILED
    assert name in said.err
    assert [path.name for path in project.iterdir() if name in path.name] == []


QUESTIONS = (
    ["groups", "seek", "check", "--to-offset", "earliest"],
    ["log", "trim", "--force"],
    ["log", "trim", "--force", "--json"],
    ["log", "quarantine", "flights/0", "--offsets", "0:1"],
)


@pytest.mark.parametrize("command", QUESTIONS)
def test_a_question_that_nobody_can_answer(penstock: Penstock, project: Path, command: list[str]) -> None:
    """As from cron: the way out is named. It is asked on stderr, where it is not taken for output."""
    said = penstock(*command)
    assert said.code == exits.USAGE
    assert "[y/N]" not in said.out
    assert "[y/N]" in said.err
    assert "nothing was done; to go on without being asked add --yes" in said.err
    said = penstock(*command, given="n\n")
    assert (said.code, "[y/N]" in said.out) == (exits.INTERRUPTED, False)
