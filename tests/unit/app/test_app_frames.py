"""Frames as events: what is stored is what the frame says, or the frame is rejected with the reason."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa
import pytest

from penstock import Acked, App, Client, NewEvent, Rejected
from penstock.app.declared import TopicHandle
from penstock.app.plan import plan_app
from penstock.errors import ConfigError, PenstockError, PermanentError
from penstock.event.partition import KEY_BYTES_MAX
from penstock.flow.frames import to_batch
from penstock.system.pipe import LOOK_S, Signal

AT = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Reading(msgspec.Struct):
    key: str
    at: datetime
    n: int
    x: float


class Note(msgspec.Struct):
    text: str


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App("frames", path=tmp_path / "log")


@pytest.fixture(params=[1, 4])
def readings(app: App, request: pytest.FixtureRequest) -> TopicHandle[Reading]:
    return app.topic("readings", Reading, key="key", time="at", partitions=request.param)


def frame(**other: Any) -> pl.DataFrame:
    return pl.DataFrame({"key": ["a"], "at": [AT], "n": [1], "x": [0.5]} | other)


def published(app: App, topic: TopicHandle[Any], what: Any) -> Acked | str:
    """Where it was stored, or why not."""
    with app.client() as client:
        (outcome,) = client.publish_frame(topic, what)
    if isinstance(outcome, Rejected):
        assert app.read(topic).height == 0
        return outcome.reason
    assert isinstance(outcome, Acked)
    return outcome


def test_sent_frames_and_sent_events_keep_their_order(app: App, readings: TopicHandle[Reading]) -> None:
    """In whatever turns they come, small and large: within a key everything is stored in the order it was sent in."""
    turns: list[int] = [1, 700, 3, 6_000, 1, 1, 40, 9_000]
    with app.client() as client:
        receipts: list[Any] = []
        sent = 0
        for turn, count in enumerate(turns * 3):
            events = [Reading("ab"[n % 2], AT, n, 0.5) for n in range(sent, sent + count)]
            sent += count
            if turn % 2:
                receipts.append(client.send_frame(readings, pl.DataFrame([msgspec.structs.asdict(e) for e in events])))
            else:
                receipts += [client.send(readings, event) for event in events]
        client.flush()
        for receipt in receipts:
            known = receipt.outcomes if hasattr(receipt, "outcomes") else [receipt.outcome]
            assert known
            assert all(isinstance(outcome, Acked) for outcome in known)
    stored = app.read(readings)
    assert stored.height == sent
    for key in "ab":
        numbers = stored.filter(pl.col("key") == key)["n"].to_list()
        assert numbers == [n for n in range(sent) if "ab"[n % 2] == key]


def test_a_sent_frame_that_does_not_fit_is_rejected_alone(app: App, readings: TopicHandle[Reading]) -> None:
    with app.client() as client:
        good = client.send_frame(readings, frame())
        bad = client.send_frame(readings, frame(n=["1"]))
        none = client.send_frame(readings, frame().clear())
        assert none.outcomes == []
        client.flush()
        assert isinstance((bad.outcomes or [None])[0], Rejected)
        assert isinstance((good.outcomes or [None])[0], Acked)
        assert client.publish_frame(readings, frame().clear()) == []
    assert app.read(readings).height == 1


def held_back(client: Client, count: int, send: Callable[[], Any]) -> tuple[int, list[Any]]:
    """How many of `count` were sent while nothing was stored; their receipts, when all is."""
    hold, sent = Signal(), list[Any]()
    publisher = client._publisher
    assert publisher is not None
    publisher.put(lambda: hold.wait(30))

    def send_all() -> None:
        for _ in range(count):
            sent.append(send())

    sender = threading.Thread(target=send_all)
    sender.start()
    waited = -1
    while sender.is_alive() and (waited != len(sent) or not sent):
        waited = len(sent)
        time.sleep(10 * LOOK_S)
    waited = len(sent)
    hold.set()
    sender.join(60)
    client.flush()
    return waited, sent


def test_frames_that_nobody_stores_yet_are_bounded(app: App, readings: TopicHandle[Reading]) -> None:
    """While the disk is slow the sender waits, and what it has sent is not kept without end."""
    large = frame(key=["k" * 60_000] * 40, at=[AT] * 40, n=list(range(40)), x=[0.5] * 40)
    with app.client() as client:
        waited, sent = held_back(client, 60, lambda: client.send_frame(readings, large))
        assert waited < 20
        assert [type(o) for receipt in sent for o in receipt.outcomes or [None]] == [Acked] * 60
    assert app.read(readings, columns=["n"]).height == 60 * 40


@pytest.mark.parametrize("where", ["data", "headers"])
def test_events_that_nobody_stores_yet_are_bounded(app: App, readings: TopicHandle[Reading], where: str) -> None:
    text = "x" * 7_500
    reading = Reading(4 * text if where == "data" else "a", AT, 1, 0.5)
    event = NewEvent(data=reading, headers=dict.fromkeys("abcd", text) if where == "headers" else {})
    with app.client() as client:
        waited, sent = held_back(client, 2_000, lambda: client.send(readings, event))
        assert waited < 1_300
        assert {type(receipt.outcome) for receipt in sent} == {Acked}
    assert app.read(readings, columns=["n"]).height == 2_000


def test_frames_sent_to_a_client_that_closes_are_stored(app: App, readings: TopicHandle[Reading]) -> None:
    with app.client() as client:
        receipts = [client.send_frame(readings, frame(n=[n])) for n in range(50)]
    assert all(isinstance(o, Acked) for receipt in receipts for o in receipt.outcomes or [None])
    with pytest.raises(PenstockError, match="not open"):
        client.send_frame(readings, frame())


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("at", [AT.replace(tzinfo=None)], ("at", "without a zone", "replace_time_zone")),
        ("at", [5], ("at", "int64", "timestamp")),
        ("at", ["2026-01-01"], ("at", "string")),
        ("n", [True], ("n", "bool", "int64")),
        ("n", [1.0], ("n", "double", "int64")),
        ("n", ["1"], ("n", "string", "int64")),
        ("n", pl.Series([2**63], dtype=pl.UInt64), ("n", "uint64", "int64")),
        ("x", [2**60 + 1], ("x", "int64", "double")),
        ("x", [True], ("x", "bool", "double")),
        ("key", [1], ("key", "int64", "string")),
        ("key", [b"a"], ("key", "binary", "string")),
        ("key", [None], ("key", "null")),
        ("key", ["k" * (KEY_BYTES_MAX + 1)], ("key", "row 0", str(KEY_BYTES_MAX + 1), "hash")),
        ("at", pl.Series([1], dtype=pl.Datetime("ns", "UTC")), ("at", "lose")),
    ],
)
def test_other_values_are_rejected_with_the_column_and_the_way_out(
    app: App, readings: TopicHandle[Reading], column: str, values: Any, words: tuple[str, ...]
) -> None:
    reason = published(app, readings, frame(**{column: values}))
    assert isinstance(reason, str)
    for word in (readings.name, *words) if "null" not in words else words:
        assert word in reason


def test_a_column_twice_is_rejected(app: App, readings: TopicHandle[Reading]) -> None:
    arrays = [pa.array(["a"]), pa.array(["b"]), pa.array([AT]), pa.array([1]), pa.array([0.5])]
    table = pa.table(arrays, names=["key", "key", "at", "n", "x"])
    for what in (table, table.to_batches()[0], table.slice(1)):
        reason = published(app, readings, what)
        assert isinstance(reason, str)
        assert "key more than once" in reason


def test_a_frame_of_objects_is_rejected(app: App, readings: TopicHandle[Reading]) -> None:
    reason = published(app, readings, frame(n=pl.Series([object()], dtype=pl.Object)))
    assert isinstance(reason, str)


def test_the_same_values_in_other_types_are_stored(app: App, readings: TopicHandle[Reading]) -> None:
    paris = timezone(timedelta(hours=1))
    fitting = [
        frame(n=pl.Series([1], dtype=pl.Int8), x=[1]),
        frame(n=pl.Series([1], dtype=pl.UInt64), x=pl.Series([0.5], dtype=pl.Float32)),
        frame(key=pl.Series(["a"], dtype=pl.Categorical), at=[AT.astimezone(paris)]),
        frame(key=["k" * KEY_BYTES_MAX], at=pl.Series([AT]).cast(pl.Datetime("ms", "UTC"))),
    ]
    for one in fitting:
        assert isinstance(published(app, readings, one), Acked)
    found = app.read(readings)
    assert sorted(found["x"].to_list()) == [0.5, 0.5, 0.5, 1.0]
    assert set(found["at"].to_list()) == {AT}


def text(offsets: list[int], data: bytes) -> pa.Array[Any]:
    """A column of text as another library may hand it over: nobody has looked whether it is."""
    ends = pa.array(offsets, pa.int32()).buffers()[1]
    return pa.Array.from_buffers(pa.string(), len(offsets) - 1, [None, ends, pa.py_buffer(data)])


@pytest.mark.parametrize("as_batch", [False, True])
def test_a_column_that_is_not_what_its_type_says_is_rejected(
    app: App, readings: TopicHandle[Reading], as_batch: bool
) -> None:
    wrong = text([0, 2], b"\xff\xfe")
    for column in (wrong, wrong.dictionary_encode()):
        table = frame().to_arrow().set_column(0, "key", column)
        reason = published(app, readings, table.to_batches()[0] if as_batch else table)
        assert re.search("column key .*UTF8", str(reason))
    notes = app.topic("notes", Note)
    assert "Offset" in str(published(app, notes, pa.table({"text": text([0, 64, 2], b"ab")})))
    reason = published(app, notes, pa.table({"text": text([0, 2], b"\xff\xfe")}))
    assert reason == "column text holds what is no string: In chunk 0: Invalid: Invalid UTF8 sequence at string index 0"


def test_what_is_no_frame_is_rejected_by_its_name(app: App, readings: TopicHandle[Reading]) -> None:
    for what, name in ((pl.Series([1]), "Series"), (frame().lazy(), "LazyFrame"), ({"key": ["a"]}, "dict")):
        assert published(app, readings, what) == (
            f"found {name}; expected a Polars DataFrame, an Arrow table or a record batch"
        )


def test_a_frame_is_published_after_what_was_sent_before(app: App, readings: TopicHandle[Reading]) -> None:
    begin = Signal()

    class Held(Signal):
        def set(self) -> None:
            while not begin.wait(LOOK_S):
                pass

    with app.client() as client:
        put = client._pipe.put

        def put_and_begin(item: Any) -> None:
            put(item)
            if isinstance(item, Signal):
                begin.set()

        put(Held())  # the thread that publishes what is sent waits until it is asked to finish
        client._pipe.put = put_and_begin  # type: ignore[method-assign]
        for n in range(500):
            client.send(readings, Reading("a", AT, n, 0.0))
        client.publish_frame(readings, frame(n=[500]))
        begin.set()
        assert client.publish_frame(readings, frame().clear()) == []
    assert app.read(readings)["n"].to_list() == list(range(501))


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        (pl.col("at").dt.replace_time_zone(None), "at.*without a zone.*replace_time_zone"),
        ((pl.col("n") > 1).alias("n"), "n is bool.*int64"),
        (pl.col("n").cast(pl.Float64), "n is double.*int64"),
    ],
)
def test_a_flow_into_a_topic_must_have_its_values(
    app: App, readings: TopicHandle[Reading], expression: pl.Expr, words: str
) -> None:
    wanted = app.topic("wanted", Reading, key="key")
    app.flow("fitted", readings).with_columns(expression).to(wanted)
    with pytest.raises(ConfigError, match=rf"flows\.fitted\.to.*{words}"):
        plan_app(app)


def test_what_a_function_returns_is_never_taken_for_another_type() -> None:
    schema = pa.schema([("at", pa.timestamp("us", "UTC")), ("n", pa.int64())])
    good = pl.DataFrame({"at": [AT], "n": pl.Series([1], dtype=pl.Int32)})
    assert to_batch(good, schema).to_pylist() == [{"at": AT, "n": 1}]
    for wrong, word in (({"at": [AT.replace(tzinfo=None)]}, "without a zone"), ({"n": [True]}, "bool")):
        with pytest.raises(PermanentError, match=word):
            to_batch(good.with_columns(**{name: pl.Series(values) for name, values in wrong.items()}), schema)
