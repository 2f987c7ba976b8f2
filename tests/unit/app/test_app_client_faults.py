"""What clients do when something goes wrong: interrupted, fenced, forked, closed while others wait."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import apsw
import msgspec
import pytest

from penstock import Acked, App, Client, Rejected, Unknown
from penstock.app import aclient
from penstock.app.declared import TopicHandle
from penstock.app.outcome import Outcome
from penstock.channel.api import Publish
from penstock.errors import Closed, ConfigError, Fenced, LogFull
from penstock.log import producers
from penstock.system.points import hooked


class Item(msgspec.Struct):
    n: int


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App("faults", path=tmp_path / "log")


@pytest.fixture
def items(app: App) -> TopicHandle[Item]:
    return app.topic("items", Item, partitions=1)


def stored(app: App) -> list[int]:
    return app.read("items")["n"].to_list()


@contextmanager
def once(at: str, error: BaseException) -> Generator[None, None, None]:
    """Raise it the first time the code passes this point."""
    left = [error]

    def hook(name: str) -> None:
        if name == at and left:
            raise left.pop()

    with hooked(hook):
        yield
    assert not left, f"{at} was not passed"


@contextmanager
def interrupted(client: Client, *, stored: bool) -> Generator[None, None, None]:
    """Ctrl-C during the next publish, before it is stored or when it has been and nobody was told."""
    assert client._publisher is not None
    channel = client._publisher.channel
    whole = channel.publish_at_once

    def publish(asked: Publish) -> Outcome:
        channel.publish_at_once = whole  # type: ignore[method-assign]
        while stored and whole(asked) is None:  # somebody else is in the log
            pass
        raise KeyboardInterrupt

    channel.publish_at_once = publish  # type: ignore[method-assign, assignment]
    with pytest.raises(KeyboardInterrupt):
        yield


NAMES = pytest.mark.parametrize("name", [None, "till"])


# -- resolving -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["log.committed", "log.commit"])
def test_a_named_clients_unknown_event_is_resolved_after_a_newer_one_has_published(
    app: App, items: TopicHandle[Item], at: str
) -> None:
    with app.client(producer="till") as client:
        client.publish(items, Item(1))
        with once(at, OSError(5, "Input/output error")):
            unknown = client.publish(items, Item(2))
        assert isinstance(unknown, Unknown)
    with app.client(producer="till") as newer:
        assert isinstance(newer.publish(items, Item(3)), Acked)
        told = newer.resolve(unknown)
        if at == "log.committed":
            assert told == Acked("items", 0, 1, repeated=True)
        else:
            assert isinstance(told, Rejected)
            assert "was not stored and never will be" in told.reason
    assert stored(app) == ([1, 2, 3] if at == "log.committed" else [1, 3])


def test_what_is_forgotten_stays_unknown(app: App, items: TopicHandle[Item], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producers, "SEQUENCES_KEPT", 3)
    with app.client(producer="till") as client, once("log.committed", OSError(5, "Input/output error")):
        unknown = client.publish(items, Item(1))
    assert isinstance(unknown, Unknown)
    for n in range(2, 8):
        with app.client(producer="till") as newer:
            newer.publish(items, Item(n))
            newer.publish(items, Item(n))
    with app.client() as client:
        told = client.resolve(unknown)
    assert isinstance(told, Unknown)
    assert "forgotten" in told.reason


# -- two of one name -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("second", [7, 8])
def test_of_two_clients_of_one_name_the_older_is_fenced_before_either_has_published(
    app: App, items: TopicHandle[Item], second: int
) -> None:
    with app.client(producer="two") as older, app.client(producer="two") as newer:
        assert newer.publish(items, Item(7)) == Acked("items", 0, 0)
        for publish in (lambda: older.publish(items, Item(second)), lambda: _sent(older, items, Item(second))):
            with pytest.raises(Fenced, match="two"):
                publish()
        assert newer.publish(items, Item(9)) == Acked("items", 0, 1)
    assert stored(app) == [7, 9]


def _sent(client: Client, topic: TopicHandle[Item], item: Item) -> None:
    client.send(topic, item)
    client.flush()


async def test_an_asyncio_client_is_fenced_too(app: App, items: TopicHandle[Item]) -> None:
    async with app.client(producer="two") as older, app.client(producer="two") as newer:
        assert await newer.publish(items, Item(7)) == Acked("items", 0, 0)
        for _ in range(2):
            with pytest.raises(Fenced, match="two"):
                await older.publish(items, Item(7))
            with pytest.raises(Fenced, match="two"):
                await older.publish_many(items, [Item(7)])
        assert await newer.publish(items, Item(8)) == Acked("items", 0, 1)


def test_the_names_of_sources_are_theirs(app: App, items: TopicHandle[Item]) -> None:
    for name, word in (("source.orders", "sources"), ("", "producer"), ("a\nb", "printable")):
        client = app.client(producer=name)
        with pytest.raises(ConfigError, match=word):
            client.open()
    with app.client() as client:  # the refused ones have let the log go
        assert isinstance(client.publish(items, Item(1)), Acked)


# -- interrupted -----------------------------------------------------------------------------------------------------


@NAMES
@pytest.mark.parametrize("was_stored", [True, False])
def test_after_an_interrupt_events_are_stored_as_themselves(
    app: App, items: TopicHandle[Item], name: str | None, was_stored: bool
) -> None:
    with app.client(producer=name) as client:
        client.publish(items, Item(1))
        with interrupted(client, stored=was_stored):
            client.publish(items, Item(2))
        kept = [1, 2] if was_stored else [1]
        for n in (2, 3, 2):  # the first is equal to the one that was interrupted
            assert client.publish(items, Item(n)) == Acked("items", 0, len(kept))
            kept.append(n)
        client.send(items, Item(4))
        client.flush()
    assert stored(app) == [*kept, 4]


def test_an_interrupted_client_does_not_take_the_name_back(app: App, items: TopicHandle[Item]) -> None:
    with app.client(producer="till") as older:
        with interrupted(older, stored=True):
            older.publish(items, Item(1))
        with app.client(producer="till") as newer:
            with pytest.raises(Fenced, match="till"):
                older.publish(items, Item(2))
            assert newer.publish(items, Item(3)) == Acked("items", 0, 1)
    assert stored(app) == [1, 3]


def test_a_send_that_was_interrupted_is_published_by_flush(app: App, items: TopicHandle[Item]) -> None:
    with app.client() as client:
        client.send(items, Item(1))
        client.flush()
        put = client._pipe.put

        def interrupted(item: object) -> None:
            raise KeyboardInterrupt

        client._pipe.put = interrupted  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            client.send(items, Item(2))
        client._pipe.put = put  # type: ignore[method-assign]
        receipt = client.send(items, Item(3))
        client.flush()
        assert receipt.outcome == Acked("items", 0, 2)
    assert stored(app) == [1, 2, 3]


@NAMES
def test_a_full_disk_uses_no_numbers_up(app: App, items: TopicHandle[Item], name: str | None) -> None:
    with app.client(producer=name) as client:
        first = client.publish(items, Item(1))
        assert client._publisher is not None
        numbers = client._publisher.numbers
        before = (numbers.producer, numbers.epoch, numbers.sequence + 1)
        with once("log.commit", apsw.FullError("database or disk is full")), pytest.raises(LogFull):
            client.publish(items, Item(2))
        assert client.publish(items, Item(3)) == Acked("items", 0, 1)
        assert (numbers.producer, numbers.epoch, numbers.sequence) == before
    assert isinstance(first, Acked)
    assert stored(app) == [1, 3]


def test_the_failure_of_what_was_sent_is_for_flush_and_not_for_another_publish(
    app: App, items: TopicHandle[Item]
) -> None:
    with app.client() as client:
        with once("log.commit", apsw.FullError("database or disk is full")):
            receipt = client.send(items, Item(1))
            assert client.publish(items, Item(2)) == Acked("items", 0, 0)
        with pytest.raises(LogFull):
            client.flush()
        with pytest.raises(LogFull):
            assert receipt.outcome
        client.flush()
    assert stored(app) == [2]


def test_a_producer_that_the_log_has_forgotten_goes_on_as_a_new_one(app: App, items: TopicHandle[Item]) -> None:
    for name in (None, "till"):
        with app.client(producer=name) as client:
            client.publish(items, Item(1))
            client._publisher.channel.port.log.write(_forget).result()  # type: ignore[attr-defined]
            assert isinstance(client.publish(items, Item(2)), Acked)
    assert stored(app) == [1, 2, 1, 2]


def _forget(db: apsw.Connection) -> None:
    """What 30 idle days do."""
    for table in ("sequence", "producer"):
        db.execute(f"DELETE FROM {table}")


# -- closed, forked --------------------------------------------------------------------------------------------------


def test_a_client_that_is_not_open_says_so_whatever_is_asked(app: App, items: TopicHandle[Item]) -> None:
    client = app.client()
    for _ in range(2):
        for call in _calls(client, items):
            with pytest.raises(Closed, match=r"with app\.client"):
                call()
        with client:
            pass


def _calls(client: Client, items: TopicHandle[Item]) -> list[Callable[[], object]]:
    return [
        lambda: client.send(items, Item(2)),
        client.flush,
        lambda: client.publish(items, Item(2)),
        lambda: client.publish_together([(items, Item(2))]),
        lambda: client.publish_frame(items, None),
    ]


LEFT_OPEN = """
import sys

import msgspec
from penstock import App
from penstock.system import points


class Item(msgspec.Struct):
    n: int


def full(point):
    if point == "log.commit":
        import apsw

        raise apsw.FullError("database or disk is full")


app = App("faults", path=sys.argv[1])
items = app.topic("items", Item, partitions=1)
client = app.client()
client.open()
disk = points.hooked(full)
if sys.argv[2] == "full":
    disk.__enter__()
for n in range(3_000):
    client.send(items, Item(n))
if sys.argv[2] == "raises":
    raise SystemExit(7)
"""


@pytest.mark.parametrize(("ending", "code"), [("quietly", 0), ("raises", 7), ("full", 0)])
def test_what_was_sent_is_published_when_a_program_ends_without_closing(tmp_path: Path, ending: str, code: int) -> None:
    app = App("faults", path=tmp_path / "log")
    app.topic("items", Item, partitions=1)
    command = [sys.executable, "-c", LEFT_OPEN, str(tmp_path / "log"), ending]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code
    if ending == "full":
        assert "not all that was sent is stored" in done.stderr
    else:
        assert done.stderr == ""
        assert stored(app) == list(range(3_000))


def test_a_forked_child_is_told_at_once(app: App, items: TopicHandle[Item]) -> None:
    with app.client() as client:
        client.send(items, Item(1))
        client.flush()

        def child() -> None:
            for call in _calls(client, items):
                with pytest.raises(Closed, match="forked child"):
                    call()
            client.close()
            gc.collect()

        assert _in_a_child(child) == 0
        client.send(items, Item(3))
        client.flush()
    assert stored(app) == [1, 3]


async def test_a_forked_child_is_told_by_the_asyncio_client_too(app: App, items: TopicHandle[Item]) -> None:
    async with app.client() as client:
        await client.publish(items, Item(1))

        def child() -> None:
            with pytest.raises(Closed, match="forked child"):
                client.publish(items, Item(2)).send(None)

        assert _in_a_child(child) == 0
        assert await client.publish(items, Item(3)) == Acked("items", 0, 1)


def _in_a_child(work: Callable[[], None]) -> int:
    """The exit code of a forked child that does the work: 0 when it did, negative when it hung."""
    pid = os.fork()
    if pid == 0:
        code = 1
        signal.alarm(20)
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_what_is_sent_while_the_client_is_closed_is_answered(app: App, items: TopicHandle[Item]) -> None:
    client = app.client()
    client.open()
    lane = client._lane(items)
    client._pipe.close()  # another thread is in the middle of `close`
    receipt = client.send(items, Item(1))
    client.close()
    with pytest.raises(Closed):
        _ = receipt.outcome
    with pytest.raises(Closed):
        lane.wait_for_room(1 << 40)
    assert stored(app) == []


# -- closing from asyncio --------------------------------------------------------------------------------------------


@pytest.fixture
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aclient, "WAITING_EVENTS_MAX", 10)


@pytest.mark.usefixtures("little_room")
async def test_who_waits_for_room_is_served_by_close(app: App, items: TopicHandle[Item]) -> None:
    async with asyncio.timeout(30):
        async with app.client() as client:
            many = [asyncio.create_task(client.publish_many(items, [Item(n) for n in range(20)])) for _ in range(3)]
            single = [asyncio.create_task(client.publish(items, Item(100 + n))) for n in range(25)]
            gone = asyncio.create_task(client.publish(items, Item(999)))
            await asyncio.sleep(0)
            gone.cancel()
        for outcomes in await asyncio.gather(*many):
            assert all(isinstance(outcome, Acked) for outcome in outcomes)
        assert all(isinstance(outcome, Acked) for outcome in await asyncio.gather(*single))
        with pytest.raises(Closed):
            await client.publish(items, Item(1))
    assert len(await asyncio.to_thread(stored, app)) == 85


async def test_a_close_that_is_cancelled_goes_on_and_everybody_is_answered(app: App, items: TopicHandle[Item]) -> None:
    async with asyncio.timeout(30):
        client = await app.client().__aenter__()
        tasks = [asyncio.create_task(client.publish_many(items, [Item(n) for n in range(20_000)])) for _ in range(2)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(client.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        for outcomes in await asyncio.gather(*tasks):
            assert all(isinstance(outcome, Acked) for outcome in outcomes)
        await client.close()
        with pytest.raises(Closed):
            await client.publish(items, Item(1))
    assert len(await asyncio.to_thread(stored, app)) == 40_000


async def test_what_waits_is_bounded_in_bytes_and_taken_on_in_turn(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aclient, "WAITING_BYTES_MAX", 5_000)
    notes = app.topic("notes", partitions=1)
    looks, most = 0, 0
    wake = aclient.AsyncClient._wake

    def counted(client: aclient.AsyncClient) -> None:
        nonlocal looks
        looks += 1
        wake(client)

    monkeypatch.setattr(aclient.AsyncClient, "_wake", counted)
    async with asyncio.timeout(30), app.client() as client:
        tasks = [asyncio.create_task(client.publish(notes, b"%04d" % n + b"x" * 500)) for n in range(1_000)]
        while not all(task.done() for task in tasks):
            most = max(most, client._waiting_bytes)
            await asyncio.sleep(0.001)  # a loop without a rest would keep the interpreter from the thread that stores
            for task in tasks[500:510]:
                task.cancel()
        assert client._waiting_bytes == 0
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        offsets = [outcome.offset for outcome in outcomes if isinstance(outcome, Acked)]
        assert offsets == list(range(990))  # in the order in which they came
    assert 5_000 <= most <= 5_504
    assert looks < 3_000  # and not everybody each time


@pytest.mark.usefixtures("little_room")
async def test_when_the_sender_is_stopped_everybody_is_told(app: App, items: TopicHandle[Item]) -> None:
    async with asyncio.timeout(30):
        client = await app.client().__aenter__()
        under_way = asyncio.create_task(client.publish(items, Item(1)))
        while not client._jobs:
            await asyncio.sleep(0)
        while client._jobs:  # until it is taken up
            await asyncio.sleep(0)
        waiting = asyncio.create_task(client.publish_many(items, [Item(n) for n in range(20)]))
        for_room = asyncio.create_task(client.publish(items, Item(2)))
        await asyncio.sleep(0)
        assert client._sender is not None
        client._sender.cancel()  # what the end of a loop does
        told = await asyncio.gather(under_way, waiting, for_room, return_exceptions=True)
        assert isinstance(told[0], Unknown)
        assert [type(one) for one in told[1:]] == [Closed, Closed]
        await client.close()
        async with app.client() as again:
            assert isinstance(await again.resolve(told[0]), Acked)
    assert await asyncio.to_thread(stored, app) == [1]
