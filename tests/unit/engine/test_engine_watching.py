"""The watchdog names the event at which a call takes too long, at once and at doubling intervals, and no other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from penstock.delivery.retry import Retries, Retry
from penstock.engine.context import Context
from penstock.engine.group import Group
from penstock.engine.handler import RUN_S_MAX
from penstock.engine.handling import HandlerWork
from penstock.engine.watching import Hand, Watchdog
from penstock.errors import ConfigError
from penstock.system.chance import seeded
from penstock.system.looking import this_thread
from penstock.system.slots import MemoryRecords, PartitionSlot, Slot
from penstock.telemetry import emit
from tests.unit.engine.engine_kit import Bill, Kit, Order, QuickClock
from tests.unit.engine.test_engine_parking import bill, keyed, orders


@pytest.fixture
async def kit() -> AsyncIterator[Kit]:
    made = Kit()
    yield made
    await made.close()


class Fake:
    """A handler that shows what it is told to."""

    name, topic = "work", "orders"

    def __init__(self, warn_s: float | None = 60.0) -> None:
        self.warn_s = warn_s
        self.hands: list[Hand] = []

    def in_hand(self) -> list[Hand]:
        return self.hands

    def hurry(self, now_s: float) -> None:
        """It is quick."""


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, object, object]]:
    """Level, event and seconds of what was logged since this was asked last."""
    fields = [(record.levelname, record.__dict__["penstock"]) for record in caplog.records]
    caplog.clear()
    return [(level, said["event"], said["seconds"]) for level, said in fields]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="penstock")
    return caplog


def pass_s(clock: QuickClock, dog: Watchdog, seconds: int) -> None:
    """A look each second."""
    for _ in range(seconds):
        clock.pass_s(1)
        dog.look()


def test_it_tells_after_the_limit_and_at_doubling_intervals(log: pytest.LogCaptureFixture) -> None:
    clock, fake = QuickClock(), Fake()
    dog = Watchdog([fake], clock, thread=-1)
    fake.hands = [Hand(1, 0, 7)]
    dog.look()
    pass_s(clock, dog, 59)
    assert told(log) == []
    pass_s(clock, dog, 400)
    assert told(log) == [("WARNING", "orders/0/7", seconds) for seconds in (60, 120, 240)]
    fake.hands = []
    pass_s(clock, dog, 200)
    assert told(log) == [("INFO", "orders/0/7", 460)]


def test_a_late_look_tells_once(log: pytest.LogCaptureFixture) -> None:
    clock, fake = QuickClock(), Fake()
    dog = Watchdog([fake], clock, thread=-1)
    fake.hands = [Hand(1, 0, 7)]
    dog.look()
    clock.pass_s(1_000)
    dog.look()
    pass_s(clock, dog, 919)
    assert told(log) == [("WARNING", "orders/0/7", 1_000)]
    pass_s(clock, dog, 1)
    assert told(log) == [("WARNING", "orders/0/7", 1_920)], "60 s, doubled five times"


def test_another_call_begins_anew(log: pytest.LogCaptureFixture) -> None:
    clock, fake = QuickClock(), Fake()
    dog = Watchdog([fake], clock, thread=-1)
    for call in range(20):
        fake.hands = [Hand(call, 0, 7)]
        pass_s(clock, dog, 59)
    assert told(log) == []


def test_each_of_several_has_its_own_time_and_is_counted_once(log: pytest.LogCaptureFixture) -> None:
    emit.reset()
    clock, one, two = QuickClock(), Fake(), Fake(10)
    dog = Watchdog([one, two], clock, thread=-1)
    one.hands = [Hand("a", 0, 1), Hand("b", 1, 2)]
    two.hands = [Hand("a", 0, 3)]
    dog.look()
    pass_s(clock, dog, 30)
    one.hands = [Hand("b", 1, 2)]
    pass_s(clock, dog, 40)
    assert told(log) == [
        ("WARNING", "orders/0/3", 10),
        ("WARNING", "orders/0/3", 20),
        ("WARNING", "orders/0/3", 40),
        ("WARNING", "orders/1/2", 60),
    ]
    assert emit.counters()["penstock_handler_slow_calls_total", (("group", "work"),)] == 2


def test_none_is_never(log: pytest.LogCaptureFixture) -> None:
    clock, fake = QuickClock(), Fake(None)
    fake.hands = [Hand(1, 0, 7)]
    dog = Watchdog([fake], clock, thread=-1)
    pass_s(clock, dog, 10_000)
    assert told(log) == []


def test_the_limit_is_the_default_policys() -> None:
    assert Retries.of(None).warn_s == 60
    assert Retries.of({ValueError: Retry(5), Exception: Retry(warn_s=None)}).warn_s is None
    with pytest.raises(ConfigError, match=r"retry\.warn_s: 0; expected seconds above 0, or None for no limit"):
        Retry(warn_s=0)


# -- what handlers show ------------------------------------------------------------------------------------------------


def shown(group: Group) -> list[tuple[int, int]]:
    assert isinstance(group.work, HandlerWork)
    return [(hand.partition, hand.offset) for hand in group.work.in_hand()]


async def test_a_plain_handler_shows_its_event_and_where_it_is(kit: Kit, log: pytest.LogCaptureFixture) -> None:
    source = await keyed(kit, orders(*"abc"))
    found: list[list[tuple[int, int]]] = []

    def work(order: Order) -> None:
        found.append(shown(group))
        if order.id == 1:
            dog.look()
            kit.clock.pass_s(61)
            dog.look()

    group = await kit.handler(work, source)
    assert isinstance(group.work, HandlerWork)
    dog = Watchdog([group.work], kit.clock, thread=this_thread())
    await group.run()
    assert found == [[(0, 0)], [(0, 1)], [(0, 2)]]
    assert shown(group) == []
    (record,) = log.records
    text = record.getMessage()
    assert text.startswith("a handler has not come back from one event group=work event=orders/0/1 seconds=61 runs_at=")
    assert f"{__file__}:" in text
    assert text.partition("runs_at=")[2].startswith(__file__), "not how it came to be called"
    assert "customer" not in text, "no values"


async def test_the_same_event_again_is_another_call(kit: Kit) -> None:
    source = await keyed(kit, orders("a"))
    calls: set[object] = set()

    def work(order: Order, ctx: Context) -> None:
        assert isinstance(group.work, HandlerWork)
        calls.update(hand.call for hand in group.work.in_hand())
        if ctx.attempt < 3:
            raise ValueError("not yet")

    group = await kit.handler(work, source, retry=Retry(3, first_s=0), order="partition")
    await group.run()
    assert len(calls) == 3


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_run_of_calls_that_became_slow_is_ended_behind_the_event_at_hand(
    kit: Kit, seed: int, kind: str
) -> None:
    """Wherever it is cut short, among new events, parked ones and those behind them: each is handled once, in order."""
    rng = seeded(seed)
    wanted = orders(*(f"c{rng.randrange(7)}" for _ in range(4_000)))
    source = await keyed(kit, wanted)
    into = await kit.topic("bills", Bill, partitions=1)
    failing = {rng.randrange(4_000) for _ in range(300)}
    cuts = 0

    def work(order: Order, ctx: Context) -> Bill:
        nonlocal cuts
        assert isinstance(group.work, HandlerWork)
        if rng.randrange(40) == 0:
            kit.clock.pass_s(RUN_S_MAX + 0.1)
            cuts += 1
        group.work.hurry(kit.clock.monotonic_s())
        if order.id in failing and ctx.attempt < 3:
            raise ValueError("not yet")
        return bill(order)

    async def awaited(order: Order, ctx: Context) -> Bill:
        return work(order, ctx)

    retry = Retry(5, first_s=rng.randrange(3))
    group = await kit.handler(work if kind == "sync" else awaited, source, into, retry=retry)
    await group.run()
    found = await kit.events(into)
    assert cuts > 50
    for customer in (f"c{number}" for number in range(7)):
        mine = [order.id for order in wanted if order.customer == customer]
        assert [one.id for one in found if one.customer == customer] == mine


async def test_a_run_that_is_cut_short_goes_no_further_than_the_event_at_hand(kit: Kit) -> None:
    source = await keyed(kit, orders(*"ab" * 2_000))
    runs: dict[object, list[int]] = {}

    def work(order: Order) -> None:
        assert isinstance(group.work, HandlerWork)
        (hand,) = group.work.in_hand()
        assert isinstance(hand.call, tuple)
        runs.setdefault(hand.call[0], []).append(order.id)
        if order.id in slow:
            kit.clock.pass_s(RUN_S_MAX + 0.1)
            group.work.hurry(kit.clock.monotonic_s())

    slow = {2_345, 3_456}
    group = await kit.handler(work, source)
    await group.run()
    assert [number for run in runs.values() for number in run] == list(range(4_000))
    assert max(map(len, runs.values())) > 500, "quick calls are many in a run"
    assert slow < {run[-1] for run in runs.values()}


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_an_async_handler_shows_what_it_waits_for(
    kit: Kit, log: pytest.LogCaptureFixture, concurrency: int
) -> None:
    source = await keyed(kit, orders(*"abc"))
    release = asyncio.Event()
    held = asyncio.Event()

    async def deeper() -> None:
        held.set()
        await release.wait()

    async def work(order: Order) -> None:
        if order.id == 1:
            await deeper()

    group = await kit.handler(work, source, concurrency=concurrency)
    assert isinstance(group.work, HandlerWork)
    running = asyncio.ensure_future(group.run())
    await held.wait()
    for _ in range(20):
        await asyncio.sleep(0)
    assert shown(group) == [(0, 1)]
    dog = Watchdog([group.work], kit.clock, thread=-1)
    dog.look()
    kit.clock.pass_s(61)
    dog.look()
    text = log.records[0].getMessage()
    assert "event=orders/0/1 seconds=61 waits_at=" in text
    assert ".deeper > " in text, "down to where it waits"
    release.set()
    await running
    assert shown(group) == []


async def test_a_slot_that_is_closed_shows_nothing(kit: Kit) -> None:
    source = await keyed(kit, orders("a"))
    shared: dict[str, bytearray] = {}
    records = MemoryRecords(shared, "one", 1)

    def slots(group: str, partition: int) -> Slot:
        return PartitionSlot(records, partition)

    group = await kit.handler(idle_hands, source, slots=slots)
    await group.run()
    records.words.release()
    assert shown(group) == []


def idle_hands(order: Order) -> None:
    """Nothing."""
