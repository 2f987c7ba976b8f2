"""Publishing through the face: three outcomes, one transaction, pipelined, from threads and from asyncio."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import polars as pl
import pytest

from penstock import Acked, App, NewEvent, Rejected, Unknown
from penstock.app.declared import TopicHandle
from penstock.errors import Closed, ConfigError, Fenced, PenstockError
from penstock.system.points import hooked


class Order(msgspec.Struct):
    id: int
    customer: str
    at: datetime


@dataclass
class Note:
    text: str


NOW = datetime(2026, 1, 2, tzinfo=UTC)


def order(number: int, customer: str = "c") -> Order:
    return Order(number, customer, NOW)


def bad() -> Order:
    return Order("x", "c", NOW)  # type: ignore[arg-type]


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App("shop", path=tmp_path / "log")


@pytest.fixture
def orders(app: App) -> TopicHandle[Order]:
    return app.topic("orders", Order, key="customer", time="at", event_bytes_max=1000)


@pytest.fixture
def raw(app: App) -> TopicHandle[bytes]:
    return app.topic("raw", partitions=1)


def stored(app: App, topic: str = "orders") -> list[int]:
    return sorted(app.read(topic)["id"].to_list())


# -- one and many ----------------------------------------------------------------------------------------------------


def test_acked_says_where(app: App, orders: TopicHandle[Order]) -> None:
    with app.client() as client:
        first, second = client.publish(orders, order(1)), client.publish("orders", order(2))
    assert isinstance(first, Acked)
    assert isinstance(second, Acked)
    assert (first.topic, first.partition, second.offset - first.offset) == ("orders", second.partition, 1)
    assert stored(app) == [1, 2]


def test_what_a_consumer_could_not_decode_is_rejected_and_the_field_named(app: App, orders: TopicHandle[Order]) -> None:
    naive = Order(1, "c", datetime(2026, 1, 2))  # noqa: DTZ001 - that is the point
    with app.client() as client:
        outcomes = [client.publish(orders, event) for event in (bad(), naive, Order(2**63, "c", NOW))]
    assert [type(outcome) for outcome in outcomes] == [Rejected] * 3
    for outcome, word in zip(outcomes, ("id", "at", "id"), strict=True):
        assert isinstance(outcome, Rejected)
        assert word in outcome.reason
    assert stored(app) == []


def test_one_bad_among_a_thousand(app: App, orders: TopicHandle[Order]) -> None:
    events = [order(n) for n in range(1000)]
    events[500] = bad()
    events[600] = order(600, "c" * 2000)
    with app.client() as client:
        outcomes = client.publish_many(orders, events)
    rejected = {index: o.reason for index, o in enumerate(outcomes) if isinstance(o, Rejected)}
    assert sorted(rejected) == [500, 600]
    assert "1000" in rejected[600]
    assert "event_bytes_max" in rejected[600]
    assert stored(app) == sorted({*range(1000)} - {500, 600})


def test_several_topics_are_one_transaction_all_or_none(
    app: App, orders: TopicHandle[Order], raw: TopicHandle[bytes]
) -> None:
    with app.client() as client:
        good = client.publish_together([(orders, order(1)), (raw, b"x"), (orders, order(2))])
        none = client.publish_together([(orders, order(3)), (raw, b"y"), (orders, bad())])
    assert [type(o) for o in good] == [Acked] * 3
    assert [type(o) for o in none] == [Rejected] * 3
    assert isinstance(none[1], Rejected)
    assert "orders" in none[1].reason
    assert stored(app) == [1, 2]


def test_an_envelope_of_its_own(app: App, raw: TopicHandle[bytes], orders: TopicHandle[Order]) -> None:
    event = NewEvent(data=b"hello", key="k", id="e1", headers={"trace": "1"})
    with app.client() as client:
        assert isinstance(client.publish(raw, event), Acked)
        beside = client.publish(orders, NewEvent(data=order(1), key="other"))
        line = client.publish(raw, NewEvent(data=b"x", headers={"a": "b\r\nc: d"}))
    assert isinstance(beside, Rejected)
    assert "customer" in beside.reason
    assert isinstance(line, Rejected)


@pytest.mark.parametrize("name", ["id", "type", "subject", "correlationid", "headers"])
def test_text_of_a_kind_of_its_own_is_text(app: App, raw: TopicHandle[bytes], name: str) -> None:
    class Text(str):
        __slots__ = ()

    said = {Text("a"): Text("b")} if name == "headers" else Text("b")
    with app.client() as client:
        outcomes = client.publish_many(raw, [b"x", NewEvent(data=b"y", **{name: said})])  # type: ignore[arg-type]
        assert [type(outcome) for outcome in outcomes] == [Acked, Acked]
        assert client._opened is not None
        (batch,) = asyncio.run(client._opened.channel.read("raw", 0, 0, events_max=10))
    assert batch.payload.attributes[name][1] == said


def test_a_frame_is_published_as_columns(app: App, orders: TopicHandle[Order]) -> None:
    frame = pl.DataFrame({"customer": ["a", "b", "a"], "id": [1, 2, 3], "at": [NOW] * 3})
    with app.client() as client:
        outcomes = client.publish_frame(orders, frame)
        wrong = client.publish_frame(orders, frame.drop("at"))
        unfit = client.publish_frame(orders, frame.with_columns(id=pl.lit("x")))
    assert all(isinstance(outcome, Acked) for outcome in outcomes)
    for (outcome,), word in ((wrong, "at"), (unfit, "id")):
        assert isinstance(outcome, Rejected)
        assert word in outcome.reason
    assert stored(app) == [1, 2, 3]


# -- pipelined -------------------------------------------------------------------------------------------------------


def test_sent_events_keep_their_order_and_each_has_its_outcome(app: App, orders: TopicHandle[Order]) -> None:
    with app.client() as client:
        receipts = [client.send(orders, bad() if n == 7777 else order(n)) for n in range(12_000)]
        client.flush()
        outcomes = [receipt.outcome for receipt in receipts]
    assert isinstance(outcomes[7777], Rejected)
    offsets = [o.offset for o in outcomes if isinstance(o, Acked)]
    assert offsets == list(range(11_999))
    assert app.read("orders")["id"].to_list() == [n for n in range(12_000) if n != 7777]


def test_headers_that_are_changed_after_they_were_sent_are_stored_as_they_were(
    app: App, raw: TopicHandle[bytes]
) -> None:
    headers: dict[str, str] = {}
    with app.client() as client:
        for n in range(500):
            headers["number"] = str(n)
            client.send(raw, NewEvent(data=b"x", headers=headers))
        headers["number"] = "changed\r\n"
        client.flush()
        assert client._opened is not None
        batches = asyncio.run(client._opened.channel.read("raw", 0, 0, events_max=1000))
    found = [h["number"] for batch in batches for h in batch.payload.attributes["headers"]]
    assert found == [str(n) for n in range(500)]


def test_close_publishes_what_was_sent_and_publish_comes_after_it(app: App, orders: TopicHandle[Order]) -> None:
    with app.client() as client:
        for n in range(100):
            client.send(orders, order(n))
        last = client.publish(orders, order(100))
        for n in range(101, 200):
            client.send(orders, order(n))
    assert isinstance(last, Acked)
    assert app.read("orders")["id"].to_list() == list(range(200))


def test_what_is_sent_while_another_thread_closes_has_an_outcome(app: App, orders: TopicHandle[Order]) -> None:
    client = app.client()
    client.open()
    client.send(orders, order(0))
    lane = client._lanes[orders]  # pyright: ignore[reportPrivateUsage]
    encode = lane.encode

    def closed_meanwhile(event: Order) -> bytes:
        closing = threading.Thread(target=client.close)
        closing.start()
        closing.join()
        return encode(event)

    lane.encode = closed_meanwhile
    receipt = client.send(orders, order(1))
    with pytest.raises(Closed):
        _ = receipt.outcome
    assert stored(app) == [0]


def test_from_many_threads(app: App, orders: TopicHandle[Order]) -> None:
    with app.client() as client, ThreadPoolExecutor(8) as pool:

        def work(thread: int) -> list[int]:
            for n in range(50):
                (client.send if n % 2 else client.publish)(orders, order(1000 * thread + n, f"c{thread}"))
            return []

        list(pool.map(work, range(8)))
    frame = app.read("orders")
    for thread in range(8):
        mine = frame.filter(pl.col("customer") == f"c{thread}")["id"].to_list()
        assert mine == [1000 * thread + n for n in range(50)]


def test_a_client_that_is_not_open_says_so(app: App, orders: TopicHandle[Order]) -> None:
    client = app.client()
    with pytest.raises(Closed, match=r"with app\.client"):
        client.publish(orders, order(1))
    with client, pytest.raises(ConfigError, match=r"topics\.order\b.*it has orders"):
        client.publish("order", order(1))
    client.close()


async def test_inside_a_running_loop_as_in_a_notebook(app: App, orders: TopicHandle[Order]) -> None:
    with app.client() as client:
        assert isinstance(client.publish(orders, order(1)), Acked)
    assert stored(app) == [1]
    with pytest.raises(ConfigError, match=r"await app\.serve"):
        app.run()


# -- asyncio ---------------------------------------------------------------------------------------------------------


async def test_a_thousand_tasks_share_commits(app: App, orders: TopicHandle[Order]) -> None:
    commits: list[str] = []
    async with app.client() as client:
        with hooked(lambda name: commits.append(name) if name == "log.commit" else None):
            outcomes = await asyncio.gather(
                *(client.publish(orders, bad() if n == 5 else order(n)) for n in range(1000))
            )
    assert [n for n, outcome in enumerate(outcomes) if isinstance(outcome, Rejected)] == [5]
    assert len(commits) <= 5
    assert await asyncio.to_thread(stored, app) == [n for n in range(1000) if n != 5]


async def test_async_many_and_together(app: App, orders: TopicHandle[Order], raw: TopicHandle[bytes]) -> None:
    async with app.client() as client:
        many = await client.publish_many(orders, [order(1), bad(), order(2)])
        together = await client.publish_together([(orders, order(3)), (raw, b"x")])
    assert [type(o) for o in many] == [Acked, Rejected, Acked]
    assert [type(o) for o in together] == [Acked, Acked]
    with pytest.raises(Closed):
        await client.publish(orders, order(4))


async def test_a_frame_from_asyncio(app: App, orders: TopicHandle[Order]) -> None:
    frame = pl.DataFrame({"customer": ["a", "b", "a"], "id": [1, 2, 3], "at": [NOW] * 3})
    async with app.client() as client:
        await client.publish(orders, order(0, "a"))
        outcomes = await client.publish_frame(orders, frame)
        assert await client.publish_frame(orders, frame.clear()) == []
        (wrong,) = await client.publish_frame(orders, frame.drop("at"))
    assert all(isinstance(outcome, Acked) for outcome in outcomes)
    assert isinstance(wrong, Rejected)
    assert await asyncio.to_thread(stored, app) == [0, 1, 2, 3]


async def test_a_cancelled_publish_harms_nobody_else(app: App, orders: TopicHandle[Order]) -> None:
    async with app.client() as client:
        tasks = [asyncio.ensure_future(client.publish(orders, order(n))) for n in range(20)]
        await asyncio.sleep(0)
        tasks[3].cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(outcomes[3], asyncio.CancelledError)
    assert all(isinstance(o, Acked) for n, o in enumerate(outcomes) if n != 3)
    assert set(await asyncio.to_thread(stored, app)) >= set(range(20)) - {3}


# -- unknown ---------------------------------------------------------------------------------------------------------


def _failing(at: str) -> object:
    def hook(name: str) -> None:
        if name == at:
            raise OSError(5, "Input/output error")

    return hooked(hook)


@pytest.mark.parametrize(("at", "repeated"), [("log.committed", True), ("log.commit", False)])
def test_an_unknown_outcome_can_be_resolved_and_is_stored_once(
    app: App, orders: TopicHandle[Order], at: str, repeated: bool
) -> None:
    with app.client() as client:
        with _failing(at):  # type: ignore[attr-defined]
            outcome = client.publish(orders, order(1))
        assert isinstance(outcome, Unknown)
        with pytest.raises(PenstockError, match="open"):
            client.publish(orders, order(2))  # fail-stop: the log object, not the process
    with app.client() as again:
        for tries in range(2):
            told = again.resolve(outcome)
            assert isinstance(told, Acked)
            assert told.repeated == (repeated or tries > 0)
    assert stored(app) == [1]


async def test_an_unknown_outcome_from_asyncio(app: App, orders: TopicHandle[Order]) -> None:
    async with app.client() as client:
        with _failing("log.committed"):  # type: ignore[attr-defined]
            outcomes = await asyncio.gather(*(client.publish(orders, order(n)) for n in range(5)))
        assert all(isinstance(outcome, Unknown) for outcome in outcomes)
    async with app.client() as again:
        told = [await again.resolve(outcome) for outcome in outcomes if isinstance(outcome, Unknown)]
    assert [type(outcome) for outcome in told] == [Acked] * 5
    assert await asyncio.to_thread(stored, app) == [0, 1, 2, 3, 4]


def test_a_named_producer_fences_the_one_before_it(app: App, orders: TopicHandle[Order]) -> None:
    with app.client(producer="collector") as first:
        assert isinstance(first.publish(orders, order(1)), Acked)
        with app.client(producer="collector") as second:
            assert isinstance(second.publish(orders, order(2)), Acked)
            for _ in range(2):
                with pytest.raises(Fenced, match="collector"):
                    first.publish(orders, order(3))
            assert isinstance(second.publish(orders, order(4)), Acked)
    assert stored(app) == [1, 2, 4]


def test_dataclasses_are_types_too(app: App) -> None:
    notes = app.topic("notes", Note)
    with app.client() as client:
        assert isinstance(client.publish(notes, Note("hi")), Acked)
    assert app.read(notes).to_dicts() == [{"text": "hi"}]


def test_read_columns_and_limit(app: App, orders: TopicHandle[Order]) -> None:
    with app.client() as client:
        client.publish_many(orders, [order(n, f"c{n}") for n in range(50)])
    assert app.read(orders, columns=["id"], limit=7).shape == (7, 1)
    with pytest.raises(ConfigError, match="no column nope"):
        app.read(orders, columns=["nope"])


def test_what_is_no_frame_is_rejected_with_what_is(app: App, orders: TopicHandle[Order]) -> None:
    with app.client() as client:
        (outcome,) = client.publish_frame(orders, {"id": [1]})
    assert isinstance(outcome, Rejected)
    assert "expected a Polars DataFrame" in outcome.reason


def test_a_forked_child_is_told_and_its_close_ends(app: App, orders: TopicHandle[Order]) -> None:
    with app.client() as client:
        client.publish(orders, order(1))
        child = os.fork()
        if child == 0:
            code = 1
            try:
                client.publish(orders, order(2))
            except Closed:
                client.close()
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert isinstance(client.publish(orders, order(3)), Acked)
    assert stored(app) == [1, 3]
