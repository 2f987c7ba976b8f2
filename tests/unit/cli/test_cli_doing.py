"""Commands that do something: publish, run, doctor, bench; and the pieces they are made of."""

from __future__ import annotations

import asyncio
import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from penstock.channel.api import Unknown
from penstock.channel.drivers.embedded import EmbeddedChannel
from penstock.cli import exits, progress, selftest
from penstock.cli.lines import Line, Lines
from penstock.cli.place import find_log
from penstock.errors import ConfigError, LogFull
from penstock.log.witness import NAME as WITNESS
from penstock.system.ports import RealClock
from tests.unit.cli.conftest import Penstock
from tests.unit.observe.observe_kit import Kit

GOOD = '{"id":500,"carrier":"C1","due":"2013-01-01T00:00:00Z"}'
BAD = '{"id":"x","carrier":"C1","due":"2013-01-01T00:00:00Z"}'


# -- publish ---------------------------------------------------------------------------------------------------------


def test_publish_tells_of_every_line(penstock: Penstock, project: Path) -> None:
    """Good lines are stored in order, bad ones named with their number and reason, blank ones only counted."""
    said = penstock("publish", "flights", "--json", given=f"{GOOD}\n{BAD}\n\n{GOOD}")
    assert said.code == exits.PARTLY
    first, second, third = said.lines()
    assert {"line": 1, "outcome": "acked"}.items() <= first.items()
    assert second["line"] == 2
    assert second["outcome"] == "rejected"
    assert "id" in str(second["reason"])
    assert third == {"line": 4, "outcome": "acked", "partition": first["partition"], "offset": first["offset"] + 1}  # type: ignore[operator]
    assert "2 acked, 1 rejected" in said.err
    assert penstock("query", "--json", "SELECT count(*) AS n FROM flights WHERE id = 500").lines() == [{"n": 2}]


def test_publish_arguments(penstock: Penstock, project: Path) -> None:
    """Events as arguments; key and headers for raw topics; bad ones are listed for people, the first of them."""
    assert penstock("publish", "flights", GOOD).code == exits.DONE
    assert penstock("publish", "raw", "a", "b", "--key", "k", "-H", "from=here", "-H", "x=1=2").code == exits.DONE
    sql = "SELECT decode(body) AS b, _key, _headers FROM raw WHERE _offset = 3"
    assert penstock("query", "--json", sql).lines() == [
        {"b": "b", "_key": "k", "_headers": {"from": "here", "x": "1=2"}}
    ]
    said = penstock("publish", "flights", given=f"{BAD}\n" * 30)
    assert said.code == exits.PARTLY
    assert said.err.count("rejected: ") == 20
    assert "more lines" in said.err
    assert "30 rejected" in said.err
    assert "nothing to publish" in penstock("publish", "flights", given="\n\n").err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["flihgts", GOOD], exits.FAILED, "did you mean flights"),
        (["flights", GOOD, "--key", "k"], exits.FAILED, "the key of topic flights is the field carrier"),
        (["delays", "{}"], exits.FAILED, "write this topic"),
        (["check.dead", "{}"], exits.FAILED, "write this topic"),
        (["raw", "x", "-H", "nothing"], exits.USAGE, "expected NAME=VALUE"),
        (["raw", "x", "-H", "a=\u00e9"], exits.USAGE, "--header: headers.a: U+00E9 at index 0; expected printable"),
        (["raw", "x", "-H", "a b=c"], exits.USAGE, "--header: headers: the name 'a b'; expected"),
        (["raw", "x", "-H", "a=1", "-H", "a=2"], exits.USAGE, "--header a: given twice"),
    ],
)
def test_publish_wrongly(penstock: Penstock, project: Path, arguments: list[str], code: int, said: str) -> None:
    found = penstock("publish", *arguments)
    assert (found.code, found.out) == (code, "")
    assert said in found.err


def test_publish_an_argument_of_any_bytes(penstock: Penstock, project: Path) -> None:
    """As the shell hands them over: bytes that are no text come as half surrogates."""
    assert penstock("publish", "raw", "a\udcff").code == exits.DONE
    assert penstock("tail", "raw", "-n", "1").out.endswith("a\\xff\n")
    assert "not UTF-8" in penstock("publish", "flights", '{"id":"\udcff"}').err


def test_publish_lines_that_readers_would_read_differently(penstock: Penstock, project: Path) -> None:
    """A key twice, half a surrogate, a byte order mark: none is stored, the good line between them is."""
    twice = GOOD.replace("{", '{"id": 1, ', 1)
    lines = [twice, GOOD, GOOD.replace("{", '{"\\ud800": 1, ', 1), "\ufeff" + GOOD]
    said = penstock("publish", "flights", "--json", given="\n".join(lines))
    assert said.code == exits.PARTLY
    assert [line["outcome"] for line in said.lines()] == ["rejected", "acked", "rejected", "rejected"]
    assert "'id' appears twice" in str(said.lines()[0]["reason"])


def test_publish_too_long_a_line(penstock: Penstock, project: Path) -> None:
    """It is never held in memory as a whole; the others are stored."""
    said = penstock("publish", "raw", "--json", given=b"a\n" + b"x" * 3_000_001 + b"\nb\n")
    assert said.code == exits.PARTLY
    assert [line["outcome"] for line in said.lines()] == ["acked", "rejected", "acked"]
    assert "3000001 bytes" in str(said.lines()[1]["reason"])


def test_publish_when_the_disk_is_full(penstock: Penstock, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which lines were not stored is told."""

    async def full(*_: Any) -> None:
        raise LogFull("the disk is full")

    monkeypatch.setattr(EmbeddedChannel, "publish", full)
    said = penstock("publish", "flights", given=f"{GOOD}\n{GOOD}")
    assert said.code == exits.FAILED
    assert "0 acked; no line from line 1 on was stored" in said.err
    assert "error: the disk is full" in said.err


@pytest.mark.parametrize("known", [True, False])
def test_publish_whose_outcome_is_unknown(
    penstock: Penstock, project: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """The same sequence is asked for again on the log opened anew; where that does not tell, it is said so."""
    real = EmbeddedChannel.publish
    asked: list[int] = []

    async def unknown(self: EmbeddedChannel, publish: Any) -> Any:
        asked.append(publish.sequence)
        answer = await real(self, publish)
        return answer if known and len(asked) > 1 else Unknown("the disk failed")

    monkeypatch.setattr(EmbeddedChannel, "publish", unknown)
    said = penstock("publish", "flights", "--json", GOOD)
    assert asked == [0, 0]
    assert said.code == (exits.DONE if known else exits.UNKNOWN)
    assert said.lines()[0]["outcome"] == ("acked" if known else "unknown")
    monkeypatch.undo()
    monkeypatch.chdir(project)
    assert penstock("query", "--json", "SELECT count(*) AS n FROM flights WHERE id = 500").lines() == [{"n": 1}]


def _lines(chunks: list[bytes], most: int = 10) -> list[Line]:
    left = iter([*chunks, b""])
    lines = Lines(lambda _: next(left), line_bytes_max=most)
    found: list[Line] = []
    while more := lines.next():
        found += more
    return found


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([b"a\nb\n"], [(1, b"a"), (2, b"b")]),
        ([b"a", b"b", b"\nc"], [(1, b"ab"), (2, b"c")]),
        ([b"a\r\n\n  \nb"], [(1, b"a"), (4, b"b")]),
        ([b"0123456789\nx"], [(1, b"0123456789"), (2, b"x")]),
        ([b"0123456789a\nx\n"], [(1, b""), (2, b"x")]),
        ([b"0123456789", b"abcdef", b"ghijklmnopqrstuvw", b"\nx"], [(1, b""), (2, b"x")]),
        ([], []),
    ],
)
def test_lines(chunks: list[bytes], expected: list[tuple[int, bytes]]) -> None:
    """However the bytes come; a line that is too long has a number and a size, and no body."""
    found = _lines(chunks)
    assert [(line.number, line.body) for line in found] == expected
    whole = b"".join(chunks).split(b"\n")
    for line in found:
        assert line.size == len(whole[line.number - 1].removesuffix(b"\r"))


# -- run -------------------------------------------------------------------------------------------------------------

PROGRAM = """
from msgspec import Struct
from penstock import App, Reject, files

class Order(Struct):
    id: int
    customer: str

app = App("shop")
orders = app.topic("orders", Order, key="customer")
good = app.topic("good", Order, key="customer")
app.read(files("*.ndjson"), into=orders)

@app.handle(orders, into=good)
def check(order: Order) -> Order:
    if order.id % 10 == 0:
        raise Reject("round")
    return order
"""


def test_run(penstock: Penstock, tmp_path: Path) -> None:
    """Until idle: what each part did; the second time nothing is new; then the log can be looked at."""
    (tmp_path / "shop.py").write_text(PROGRAM)
    (tmp_path / "in.ndjson").write_text("".join(f'{{"id":{n},"customer":"c{n % 3}"}}\n' for n in range(100)))
    said = penstock("run", "shop.py", "--until-idle", "--json")
    assert said.code == exits.DONE, said.err
    found: Any = said.json()
    parts = {part["name"]: part for part in found["parts"]}
    assert parts["check"]["events"] == 100
    assert parts["check"]["dead"] == 10
    assert f"log {tmp_path / '.penstock' / 'shop'}" in said.err
    again = penstock("run", "shop.py", "--until-idle")
    assert again.code == exits.DONE
    assert "check" in again.out
    causes: Any = penstock("dlq", "list", "--json").json()
    assert [(c["cause"], c["count"]) for c in causes["causes"]] == [("round", 10)]
    assert penstock("query", "--json", "SELECT count(*) AS n FROM good").lines() == [{"n": 90}]


STRICT = """
import os
from msgspec import Struct
from penstock import App, OnFailure, Retry

class Order(Struct):
    id: int
    customer: str

app = App("strict")
orders = app.topic("orders", Order, key="customer")
good = app.topic("good", Order, key="customer")

@app.handle(orders, into=good, retry=Retry(2, first_s=0.01), on_failure=OnFailure(given_up="block"))
def check(order: Order) -> Order:
    if order.id % 10 == 0 and not os.environ.get("MENDED"):
        raise ValueError(f"bad {order.id}")
    return order
"""


def test_redrive_and_skip(penstock: Penstock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is chosen is said first; then it is handled, once, before what waited behind it."""
    (tmp_path / "strict.py").write_text(STRICT)
    assert penstock("run", "strict.py", "--until-idle").code == exits.DONE
    lines = "".join(f'{{"id":{n},"customer":"c{n % 4}"}}\n' for n in range(1, 41))
    assert penstock("publish", "orders", given=lines).code == exits.DONE
    assert penstock("run", "strict.py", "--until-idle").code == exits.DONE
    listed: Any = penstock("dlq", "list", "--json").json()
    assert (listed["causes"][0]["count"], listed["causes"][0]["open"]) == (2, 2)
    dry: Any = penstock("dlq", "redrive", "check", "--all", "--dry-run", "--json").json()
    assert (len(dry["letters"]), dry["dry_run"]) == (2, True)
    first, second = dry["letters"]
    assert "would be handled again" in penstock("dlq", "redrive", "check", "--first", "1", "--dry-run").err
    assert penstock("dlq", "redrive", "check", "--matching", "nothing like it", "--json").json()["letters"] == []  # type: ignore[index]
    wrong = penstock("dlq", "redrive", first, "--body", "-", given='{"id":"x"}')
    assert (wrong.code, "no event of topic orders" in wrong.err) == (exits.FAILED, True)
    edited = penstock("dlq", "redrive", first, "--body", "-", "--json", given='{"id":1000,"customer":"c0"}')
    assert edited.json()["letters"] == [first], edited.err  # type: ignore[index]
    assert penstock("dlq", "skip", second, "--json").json()["letters"] == [second]  # type: ignore[index]
    again: Any = penstock("dlq", "redrive", first, second, "--rate", "100", "--json").json()
    assert (again["letters"], {p["state"] for p in again["passed_over"]}) == ([], {"queued"})
    monkeypatch.setenv("MENDED", "1")
    assert penstock("run", "strict.py", "--until-idle").code == exits.DONE
    assert "no open dead letters" in penstock("dlq", "list").out
    states: Any = penstock("dlq", "redrive", first, second, "--json").json()
    assert sorted(p["state"] for p in states["passed_over"]) == ["handled", "skipped"]
    ids = [row["id"] for row in penstock("query", "--json", "SELECT id, customer, _offset FROM good").lines()]
    assert len(ids) == 39
    assert 1000 in ids
    for customer in range(4):
        of = penstock("query", "--json", f"SELECT id FROM good WHERE customer = 'c{customer}' ORDER BY _offset").lines()
        plain = [row["id"] for row in of if row["id"] != 1000]
        assert plain == sorted(plain)  # type: ignore[type-var]


def test_letters_are_asked_for_at_a_rate(penstock: Penstock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One at a time, with a pause between them and none behind the last."""
    (tmp_path / "shop.py").write_text(PROGRAM)
    (tmp_path / "in.ndjson").write_text("".join(f'{{"id":{n}0,"customer":"c"}}\n' for n in range(1, 5)))
    assert penstock("run", "shop.py", "--until-idle").code == exits.DONE
    pauses: list[float] = []

    async def sleep(_clock: RealClock, seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(RealClock, "sleep", sleep)
    for action, count in (("redrive", 3), ("skip", 1)):
        pauses.clear()
        first = ["--first", str(count)]
        assert penstock("dlq", action, "check", *first, "--rate", "nan").code == exits.USAGE
        said = penstock("dlq", action, "check", *first, "--rate", "4", "--json")
        assert len(said.json()["letters"]) == count  # type: ignore[index]
        assert pauses == [0.25] * (count - 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name letters, or a group"),
        (["a/0/1", "b/0/1", "--all"], "name one group"),
        (["check", "--all", "--edit"], "for one letter"),
        (["nowhere", "--all"], "nowhere"),
        (["check"], "check is a group; name a letter of it, or say which to redrive or skip: --all, --matching"),
        (["check", "--matching", ""], "--matching without a text would mean every letter; say which, or --all"),
    ],
)
def test_a_wrong_redrive(penstock: Penstock, tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "shop.py").write_text(PROGRAM)
    (tmp_path / "in.ndjson").write_text('{"id":10,"customer":"c"}\n')
    assert penstock("run", "shop.py", "--until-idle").code == exits.DONE
    found = penstock("dlq", "redrive", *arguments)
    assert found.code in (exits.USAGE, exits.FAILED)
    assert said in found.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\ny = nothing\n", "bad.py:2: NameError: name 'nothing' is not defined\n  y = nothing"),
        ("x = (\n", "SyntaxError"),
        ("import sys\nsys.exit(0)\n", "bad.py:2: SystemExit: 0\n  sys.exit(0)"),
        ("import helper\n", "bad.py:1: ValueError: no\n  import helper\n  raised in"),
        ("from penstock import App\napp = App('a/b')\n", "bad.py:2: "),
        ("x = 1\n", "declares no app"),
        ("from penstock import App\na = App('a')\nb = App('b')\n", "declares 2 apps (a, b); choose one with --app"),
    ],
)
def test_run_a_wrong_program(penstock: Penstock, tmp_path: Path, text: str, said: str) -> None:
    """The line of the program, not of Penstock; and no traceback."""
    (tmp_path / "bad.py").write_text(text)
    (tmp_path / "helper.py").write_text("raise ValueError('no')\n")
    found = penstock("run", "bad.py")
    sys.modules.pop("helper", None)
    assert found.code == exits.FAILED
    assert said in found.err
    assert "Traceback" not in found.err


def test_run_a_program_in_a_package(penstock: Penstock, tmp_path: Path) -> None:
    inner = tmp_path / "ferry" / "jobs"
    inner.mkdir(parents=True)
    for folder in (inner, inner.parent):
        (folder / "__init__.py").write_text("")
    (inner.parent / "names.py").write_text("NAME = 'harbour'\n")
    (inner / "sail.py").write_text("from penstock import App\nfrom ..names import NAME\n\napp = App(NAME)\n")

    said = penstock("run", "ferry/jobs/sail.py", "--until-idle")

    assert said.code == 0, said.err
    assert "harbour" in said.err


def test_run_names(penstock: Penstock, tmp_path: Path) -> None:
    assert penstock("run", "nowhere.py").code == exits.USAGE
    (tmp_path / "text.txt").write_text("x")
    assert "no Python file" in penstock("run", "text.txt").err
    (tmp_path / "two.py").write_text("from penstock import App\na = App('a')\nb = App('b')\n")
    assert "no app 'c'; it has a, b" in penstock("run", "two.py", "--app", "c").err


# -- doctor and bench ------------------------------------------------------------------------------------------------


def test_doctor(penstock: Penstock, project: Path) -> None:
    """Sound: every check is named, and with --deep everything was read."""
    found: Any = penstock("doctor", "--json").json()
    assert found["ok"]
    assert {f["check"] for f in found["findings"]} >= {"file system", "free room", "sync", "witness", "SQLite"}
    deep = penstock("doctor", "--deep")
    assert deep.code == exits.DONE
    assert "every checksum matches" in deep.out
    read: Any = penstock("doctor", "--deep", "--json").json()
    assert read["read"]["damages"] == []


def test_doctor_finds_damage_and_accepts_a_loss(penstock: Penstock, project: Path) -> None:
    """A witness that is gone is bad; accepting needs a yes, and then the log can be used on."""
    (project / ".penstock" / "flights" / WITNESS).unlink()
    said = penstock("doctor", "--json")
    assert said.code == exits.FAILED
    [bad] = [f for f in said.json()["findings"] if f["state"] == "bad"]  # type: ignore[index]
    assert bad["check"] == "log"
    assert "--accept-loss" in bad["detail"]
    assert "witness" in penstock("topics").err
    refused = penstock("doctor", "--accept-loss", "--json")
    assert (refused.code, refused.out) == (exits.USAGE, "")
    assert "add --yes" in refused.err
    assert penstock("doctor", "--accept-loss", given="n\n").code == exits.INTERRUPTED
    accepted: Any = penstock("doctor", "--accept-loss", "--yes", "--json").json()
    assert accepted["incarnation"] > 1
    assert penstock("doctor").code == exits.DONE


def test_doctor_of_damaged_data(penstock: Penstock, project: Path) -> None:
    async def spoil() -> None:
        kit = Kit(project / ".penstock" / "flights")
        await kit.open()
        await kit.channel.port.write(lambda db: db.execute("UPDATE block SET data = zeroblob(length(data))"))
        await kit.close()

    asyncio.run(spoil())
    said = penstock("doctor", "--deep")
    assert said.code == exits.FAILED
    assert "topic flights/0, offsets 0 to" in said.out


def test_doctor_of_a_program(penstock: Penstock, tmp_path: Path) -> None:
    """Each edge with its three levels; nothing is opened."""
    (tmp_path / "shop.py").write_text(PROGRAM)
    [found] = penstock("doctor", "shop.py", "--json").json()  # type: ignore[misc]
    assert [(e["by"], e["processing"], e["order"]) for e in found["edges"]] == [
        ("source orders", "effectively-once", "per key"),
        ("handler check", "atomic", "per key"),
    ]
    assert found["processing"] == "effectively-once"
    assert "handler check" in penstock("doctor", "shop.py").out
    assert not (tmp_path / ".penstock").exists()


@pytest.mark.parametrize("option", [["--accept-loss", "--yes"], ["--deep"], ["--log", "flights"]])
def test_doctor_of_a_program_takes_no_option_of_a_log(penstock: Penstock, project: Path, option: list[str]) -> None:
    """Passed over without a word, a loss would seem to be accepted, or a log to be checked."""
    (project / "shop.py").write_text(PROGRAM)
    said = penstock("doctor", "shop.py", *option)
    assert (said.code, said.out) == (exits.USAGE, "")
    assert f"{option[0]} is about one log" in said.err


def test_doctor_of_a_program_whose_log_is_bad(penstock: Penstock, project: Path) -> None:
    """What its edges promise is no use while the log cannot be opened: it says so, and its exit code does."""
    (project / "flights.py").write_text(PROGRAM.replace("shop", "flights"))
    (project / ".penstock" / "flights" / WITNESS).unlink()
    for arguments in ([], ["--json"]):
        said = penstock("doctor", "flights.py", *arguments)
        assert said.code == exits.FAILED
        assert "handler check" in said.out
        assert "bad: app flights, log: " in said.err
        assert "--accept-loss" in said.err


def test_bench_elsewhere(penstock: Penstock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Away from the repository: a self-test that says that it is one, and leaves nothing."""
    monkeypatch.setattr(selftest, "SINGLES", 3)
    monkeypatch.setattr(selftest, "BULKS", 2)
    said = penstock("bench", "--json")
    found: Any = said.json()
    assert found["kind"] == "self-test"
    assert [m["name"] for m in found["measured"]] == ["sync", "publish one by one", "publish in bulk"]
    assert all(m["value"] > 0 for m in found["measured"])
    assert "self-test" in said.err
    assert os.listdir(tmp_path) == ["pyproject.toml"]
    assert penstock("bench", "latency").code == exits.USAGE


def test_a_file_that_cannot_be_written(penstock: Penstock, project: Path) -> None:
    """What the operating system refuses is an error in one line, too."""
    (project / "rows.csv").mkdir()
    said = penstock("query", "-o", "rows.csv/../rows.csv/.parquet/x.csv", "FROM raw")
    assert (said.code, "Traceback" in said.err) == (exits.FAILED, False)
    (project / ".out.csv.part").mkdir()
    said = penstock("query", "-o", "out.csv", "FROM raw")
    assert said.code == exits.FAILED
    assert said.err.startswith("error: ")
    assert "'out.csv'" in said.err


def test_find_log_stops_at_the_project(tmp_path: Path) -> None:
    """What lies above a project is not its own."""
    (tmp_path / ".penstock" / "outer").mkdir(parents=True)
    (tmp_path / ".penstock" / "outer" / "log.db").touch()
    inner = tmp_path / "project" / "src"
    inner.mkdir(parents=True)
    assert find_log(None, inner).name == "outer"
    (tmp_path / "project" / "pyproject.toml").touch()
    with pytest.raises(ConfigError, match="no log"):
        find_log(None, inner)


def test_plain_progress_is_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere than on a terminal a line is written now and then, on stderr."""
    now = iter([0.0, 1.0, 6.0, 7.0, 12.0])
    monkeypatch.setattr(RealClock, "monotonic_s", lambda _: next(now))
    out = io.StringIO()
    show = progress.plain_lines(lambda text: print(text, file=out))
    for text in "abcd":
        show(text)
    assert out.getvalue() == "b\nd\n"
