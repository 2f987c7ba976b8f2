"""Bad input at the door: refused by name, one by one, its neighbours stored once; nothing is rounded."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Generator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow.parquet as pq
import pytest

from penstock import (
    Acked,
    App,
    Client,
    NewEvent,
    OnFailure,
    Reject,
    Rejected,
    Retry,
    duckdb_table,
    files,
    parquet,
)
from penstock.cli.entry import outcome
from penstock.delivery.lot import Lot, Write
from penstock.errors import DecodeError, PenstockError
from penstock.event.partition import canonical_key
from penstock.schema import Schema, schema_of
from penstock.system.chance import seeded
from penstock.telemetry import emit
from tests.faults import appwork
from tests.faults.report import FaultReport, Tally

LIMIT = 10_000


class Plain(msgspec.Struct):
    key: str
    number: int = 0
    value: float = 0.0
    text: str = ""
    at: datetime | None = None
    maybe: float | None = None


class Keyless(msgspec.Struct):
    number: int


@pytest.fixture(scope="module")
def schema() -> Schema[Plain]:
    """What a consumer of the topic decodes with."""
    return schema_of(Plain)


@pytest.fixture
def app(tmp_path: Path) -> App:
    """An app with a typed topic and one whose events have no key of their own."""
    app = App("door", path=tmp_path / "log")
    app.topic("readings", Plain, key="key", time="at", event_bytes_max=LIMIT)
    app.topic("loose", Keyless)
    return app


@pytest.fixture
def client(app: App) -> Generator[Client]:
    """A publisher."""
    with app.client() as client:
        yield client


def stored(app: App, topic: str = "readings") -> list[dict]:
    """Everything that lies in a topic."""
    return appwork.events_of(app.directory, topic)


def refused(client: Client, tally: Tally, bad: list[Any], *, says: str) -> None:
    """Each of the events is rejected, with a reason that matches; good ones around it are stored."""
    for index, event in enumerate(bad):
        good = [Plain(f"good-{says}-{index}-{side}") for side in range(2)]
        before, outcome, after = client.publish_many("readings", [good[0], event, good[1]])
        assert isinstance(before, Acked)
        assert isinstance(after, Acked)
        assert isinstance(outcome, Rejected), f"{event!r} was taken"
        assert msgspec.json.encode(outcome.reason)
        if says not in outcome.reason:
            pytest.fail(f"the reason does not say {says!r}: {outcome.reason}")
        tally.points += 1


def all_once(app: App, tally: Tally, count: int) -> None:
    """Of all that was tried, the good ones are there, once each."""
    keys = [event["key"] for event in stored(app)]
    tally.compare(sorted(set(keys)), sorted(keys))
    assert len(keys) == count
    assert tally.clean, tally.told


def test_text_that_is_no_text(app: App, client: Client, schema: Schema[Plain], fault_report: FaultReport) -> None:
    tally = fault_report("D1")
    refused(client, tally, [Plain("k", text="\ud800"), Plain("\udfff"), Plain("k", text="a\udc80b")], says="surrogate")
    all_once(app, tally, 6)
    for body in (
        b'{"key":"\xff"}',
        b'{"key":"\xc3\x28"}',
        b'\xef\xbb\xbf{"key":"bom"}',
        b'{"key":"\\ud800"}',
        b'{"key":"\\udc00x"}',
        b'{"key":"\xed\xa0\x80"}',
        b'{"key":"k","unknown":"\\ud800"}',
        b'{"key":"k","unknown":["\\udc00"]}',
        b'{"key":"k","unknown":"\xff"}',
        '{"key":"utf16"}'.encode("utf-16"),
    ):
        with pytest.raises(DecodeError):
            schema.decode_strict(body)
        tally.points += 1
    assert schema.decode_strict(b'{"key":"\\ud83d\\ude00"}').key == "😀"


def test_numbers_that_are_none(app: App, client: Client, schema: Schema[Plain], fault_report: FaultReport) -> None:
    """Never a silent null, never an infinity out of a large number."""
    tally = fault_report("D2")
    nowhere = (math.nan, math.inf, -math.inf)
    refused(client, tally, [Plain("k", value=value) for value in nowhere], says="value")
    refused(client, tally, [Plain("k", maybe=value) for value in nowhere], says="maybe")  # null would fit this one
    all_once(app, tally, 12)
    for text in (b"NaN", b"Infinity", b"-Infinity", b"1e400", b"-1e400", b"nan", b'"NaN"'):
        with pytest.raises(DecodeError):
            schema.decode_strict(b'{"key":"k","value":%s}' % text)
        tally.points += 1
    assert schema.decode_strict(b'{"key":"k","value":1e308}').value == 1e308


def test_integers_beyond_64_bits(app: App, client: Client, schema: Schema[Plain], fault_report: FaultReport) -> None:
    """Refused, not rounded, not a float."""
    tally = fault_report("D3")
    beyond = (2**63, -(2**63) - 1, 2**64, 10**40, 10**4000)
    refused(client, tally, [Plain("k", number=number) for number in beyond], says="number")
    edge = [2**63 - 1, -(2**63), 2**53 + 1]
    for number in edge:
        assert isinstance(client.publish("readings", Plain(f"edge{number}", number=number)), Acked)
    assert [event["number"] for event in sorted(stored(app), key=lambda e: e["key"]) if "edge" in event["key"]] == [
        number for number in sorted(edge, key=lambda n: f"edge{n}")
    ]
    for text in (b"9223372036854775808", b"18446744073709551616", b"1" * 5000, b"1e3", b"1.0", b"true"):
        with pytest.raises(DecodeError):
            schema.decode_strict(b'{"key":"k","number":%s}' % text)
        tally.points += 1


def test_nesting_without_end(schema: Schema[Plain], fault_report: FaultReport) -> None:
    """A named error and not the end of the process, wherever the depth is."""
    tally = fault_report("D4")
    deep = 100_000
    for body in (
        b"[" * deep + b"]" * deep,
        b'{"key":' * deep + b"1" + b"}" * deep,
        b'{"key":"k","extra":' + b"[" * deep + b"]" * deep + b"}",
        b'{"key":"k","text":' + b"[" * deep,
        b"[" * deep,
    ):
        with pytest.raises(DecodeError):
            schema.decode_strict(body)
        tally.points += 1
    assert schema.decode_strict(b'{"key":"after"}').key == "after"


def test_a_key_that_comes_twice(schema: Schema[Plain], fault_report: FaultReport) -> None:
    """Two parsers that keep different ones of the two would see two different events."""
    tally = fault_report("D5")
    for body in (
        b'{"key":"a","key":"b"}',
        b'{"key":"a","number":1,"number":1}',
        b'{"key":"a","number":1,"n\\u0075mber":2}',
    ):
        with pytest.raises(DecodeError, match=r"twice|duplicate|again"):
            schema.decode_strict(body)
        tally.points += 1


def test_keys_of_every_kind(app: App, client: Client, fault_report: FaultReport) -> None:
    """A stable partition by canonical bytes; what is no key is refused by name."""
    tally = fault_report("D7")
    empty = client.publish("readings", Plain(""))
    assert isinstance(empty, Acked)
    again = client.publish("readings", Plain(""))
    assert isinstance(again, Acked)
    assert again.partition == empty.partition
    places: dict[object, set[int]] = {}
    for key in (None, "", "a", b"a", 97, "97", b"\x00\xff"):
        for _ in range(3):
            outcome = client.publish("loose", NewEvent(data=Keyless(1), key=key))
            assert isinstance(outcome, Acked), outcome
            places.setdefault(key if not isinstance(key, bytes) else key.hex(), set()).add(outcome.partition)
    assert all(len(found) == 1 for found in places.values())
    assert places[97] == places["97"]
    for key in (1.5, True, ["a"], "x" * 1_000_000, b"x" * 1_000_000):
        outcome = client.publish("loose", NewEvent(data=Keyless(1), key=key))  # type: ignore[arg-type]
        assert isinstance(outcome, Rejected), f"{key!r:.20} was taken"
        assert "key" in outcome.reason
        tally.points += 1
    assert len(stored(app, "loose")) == 21


def test_an_event_over_the_limit(app: App, client: Client, fault_report: FaultReport) -> None:
    tally = fault_report("D8")
    refused(client, tally, [Plain("k", text="x" * 10_001), Plain("k", text="x" * 5_000_000)], says="at most 10000")
    all_once(app, tally, 4)


@pytest.mark.parametrize("bad", [Plain("bad", text="x" * 20_000), Plain("bad", value=math.nan), "no reading"])
def test_one_bad_event_among_a_thousand(app: App, client: Client, bad: Any, fault_report: FaultReport) -> None:
    """A result for each; the good ones are stored once, in their order."""
    tally = fault_report("D8")
    events: list[Any] = [Plain(f"k{number % 7}", number=number) for number in range(1000)]
    events[500] = bad
    outcomes = client.publish_many("readings", events)
    assert [index for index, outcome in enumerate(outcomes) if not isinstance(outcome, Acked)] == [500]
    assert isinstance(outcomes[500], Rejected)
    for key in range(7):
        wanted = [number for number in range(1000) if number % 7 == key and number != 500]
        tally.compare(wanted, [event["number"] for event in stored(app) if event["key"] == f"k{key}"])
    tally.points += 1
    assert tally.clean, tally.told


def test_times_beyond_all_bounds(app: App, client: Client, schema: Schema[Plain], fault_report: FaultReport) -> None:
    """No year wraps around, no zone is guessed."""
    tally = fault_report("D12")
    refused(client, tally, [Plain("k", at=datetime(2024, 1, 1))], says="at")  # noqa: DTZ001 - the missing zone is the point
    east, west = (timezone(timedelta(hours=hours)) for hours in (14, -12))
    refused(client, tally, [Plain("k", at=datetime(1, 1, 1, tzinfo=east))], says="at")
    refused(client, tally, [Plain("k", at=datetime(9999, 12, 31, 23, tzinfo=west))], says="at")
    first, last = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    for name, moment in (("first", first), ("last", last)):
        outcome = client.publish("readings", Plain(name, at=moment))
        if isinstance(outcome, Acked):
            (found,) = [event for event in stored(app) if event["key"] == name]
            assert msgspec.convert(found["at"], datetime) == moment
        else:
            assert "at" in outcome.reason
        tally.points += 1
    for text in (
        "+300000-01-01T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "2024-02-30T00:00:00Z",
        "2024-01-01T00:00:00",
        "1e99",
    ):
        with pytest.raises(PenstockError):
            schema.decode_strict(msgspec.json.encode({"key": "k", "at": text}))
        tally.points += 1


BAD_LINES = [
    b'{"key":"\xff"}',
    b'{"key":"\\ud800"}',
    b'{"key":"k","value":NaN}',
    b'{"key":"k","value":1e400}',
    b'{"key":"k","number":9223372036854775808}',
    b'{"key":"k","number":' + b"1" * 5000 + b"}",
    b'{"key":' * 1000 + b"1" + b"}" * 1000,
    b'{"key":"k","extra":' + b"[" * 2000 + b"]" * 2000 + b"}",
    b'{"key":"a","key":"b"}',
    b'{"key":null}',
    b'{"key":"k","text":"' + b"x" * 9_990 + b'"}',
    b'{"key":"k","at":"2024-01-01T00:00:00"}',
    b'{"key":"k","at":"+300000-01-01T00:00:00Z"}',
    b"no json",
    b"[]",
    b'{"key":"k"} {"key":"l"}',
]


def test_a_file_full_of_bad_lines(app: App, tmp_path: Path, seed: int, fault_report: FaultReport) -> None:
    """Good lines are events, once and in order; each bad one is a dead letter with its bytes, up to the limit."""
    tally = fault_report("D1", "D2", "D3", "D4", "D5", "D8", "D12")
    good = [msgspec.json.encode(Plain(f"k{number % 3}", number=number)) for number in range(200)]
    lines = list(good)
    for bad in BAD_LINES:
        lines.insert(seeded(seed, bad.hex()[:40]).randrange(len(lines)), bad)
    (tmp_path / "in.ndjson").write_bytes(b"\n".join(lines) + b"\n")
    app.read(files(str(tmp_path / "in.ndjson")), into=app.topics["readings"])
    for _ in range(2):
        app.run(until_idle=True)
        for key in range(3):
            wanted = [number for number in range(200) if number % 3 == key]
            tally.compare(wanted, [event["number"] for event in stored(app) if event["key"] == f"k{key}"])
        assert len(stored(app)) == 200
        dead = appwork.bodies(app.directory, "source.readings.dead")
        tally.compare(sorted(line[:LIMIT] for line in BAD_LINES), sorted(dead))
    tally.points += len(BAD_LINES)
    assert tally.clean, tally.told


NULS = ["\0", "a\0b", "\0\0end", "end\0"]


def test_a_zero_byte_in_text(app: App, tmp_path: Path, fault_report: FaultReport) -> None:
    """In data, in keys and in bytes: what comes out anywhere is what went in, and keys that differ behind it differ."""
    tally = fault_report("D6")
    readings = app.topics["readings"]
    app.flow("lake", readings).to(parquet(tmp_path / "lake"))
    app.flow("table", readings).to(duckdb_table(tmp_path / "out.duckdb", table="t"))

    @app.handle(readings, retry=Retry(1))
    def refuse(event: Plain) -> None:
        raise Reject(f"no: {event.text}")

    events = [Plain(f"k{text}", number=number, text=text) for number, text in enumerate(NULS)]
    with app.client() as client:
        assert all(isinstance(outcome, Acked) for outcome in client.publish_many("readings", events))
        assert [type(client.publish("loose", NewEvent(data=Keyless(1), key=text))) for text in NULS] == [Acked] * 4
    app.run(until_idle=True)
    wanted = sorted((event.key, event.text) for event in events)
    lake = pq.read_table(tmp_path / "lake", columns=["key", "text"]).to_pylist()
    with duckdb.connect(str(tmp_path / "out.duckdb"), read_only=True) as db:
        rows = db.execute("SELECT key, text FROM t").fetchall()
    letters = [msgspec.json.decode(body, type=Plain) for body in appwork.bodies(app.directory, "refuse.dead")]
    for found in (
        [(event["key"], event["text"]) for event in stored(app)],
        [(row["key"], row["text"]) for row in lake],
        rows,
        [(event.key, event.text) for event in letters],
    ):
        tally.compare(wanted, sorted(found))
        tally.points += 1
    assert canonical_key("a\0b") != canonical_key("a\0c")
    assert tally.clean, tally.told


BAD_HEADERS: list[dict[Any, Any]] = [
    {"h": "fine\r\nInjected: yes"},
    {"h": "a\nb"},
    {"h": "a\rb"},
    {"h": "a\0b"},
    {"h\r\nInjected": "yes"},
    {"h h": "yes"},
    {"h": "Grüße"},
    {"ü": "yes"},
    {"h": "x" * 1_000_000},
    {f"h{number}": "x" for number in range(10_000)},
    {"": "x"},
    {"h": 1},
]


@pytest.mark.parametrize("headers", BAD_HEADERS, ids=range(len(BAD_HEADERS)))
def test_headers_that_would_be_more_than_headers(
    client: Client, app: App, headers: dict[Any, Any], fault_report: FaultReport
) -> None:
    """Line breaks, zero bytes, too many, too long, not ASCII: refused by name; the event beside it is stored once."""
    tally = fault_report("D11")
    bad = NewEvent(data=Plain("bad"), headers=headers)
    good = NewEvent(data=Plain("good"), headers={"h": "plain text; v=1"})
    outcomes = client.publish_many("readings", [bad, good])
    assert isinstance(outcomes[0], Rejected), outcomes[0]
    assert "header" in outcomes[0].reason
    assert isinstance(outcomes[1], Acked)
    tally.compare(["good"], [event["key"] for event in stored(app)])
    tally.points += 1
    assert tally.clean, tally.told


def test_all_events_have_one_key(
    tmp_path: Path, fault_report: FaultReport, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One key in one partition, its first event blocked: what waits behind it costs no more per event the more it is.

    Neither time nor what the ledger is told, however many steps it came in; who looks at the topic is shown why.
    """
    tally = fault_report("D17")
    seconds: list[float] = []
    told: list[int] = []
    said = Lot.writes

    def writes(lot: Lot) -> list[Write]:
        out = said(lot)
        told[-1] += sum(len(value or b"") for _, value in out)
        return out

    monkeypatch.setattr(Lot, "writes", writes)
    emit.reset()
    for steps in (8, 64):
        told.append(0)
        count, log = steps * 500, str(tmp_path / f"{steps}")
        app = App("skew", path=log)
        topic = app.topic("readings", Plain, key="key")
        done: list[int] = []
        tries: list[int] = []

        @app.handle(topic, retry=Retry(1), on_failure=OnFailure(given_up="block"))
        def handle(event: Plain, done: list[int] = done, tries: list[int] = tries) -> None:
            if event.number == 0 and not tries:
                tries.append(event.number)
                raise ValueError("not yet")
            done.append(event.number)

        began = time.perf_counter()
        for start in range(0, count, 500):
            with app.client() as client:
                client.publish_many("readings", [Plain("hot", number=start + number) for number in range(500)])
            app.run(until_idle=True)
        assert outcome(["dlq", "redrive", "handle", "--all", "--log", log]) == 0
        app.run(until_idle=True)
        seconds.append(time.perf_counter() - began)
        tally.compare(list(range(count)), done)
        tally.points += 1
        capsys.readouterr()
        assert outcome(["topics", "--json", "--log", log]) == 0
        (facts,) = [fact for fact in json.loads(capsys.readouterr().out)["topics"] if fact["name"] == "readings"]
        assert facts["skew"] == facts["partitions"] > 1
        counted = emit.counters()
        handled = [dict(labels) for name, labels in counted if name == "penstock_events_handled_total"]
        assert len({labels["partition"] for labels in handled if labels["group"] == "handle"}) == 1
    assert told[1] < 16 * told[0], told  # eight times as many; were all written again with each step, sixty times
    assert seconds[1] < 30 * seconds[0], seconds  # eight times as many; were it quadratic, sixty-four times
    assert tally.clean, tally.told
