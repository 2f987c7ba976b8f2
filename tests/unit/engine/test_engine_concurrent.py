"""Events of different keys side by side: order inside a key, no gap in progress, and what failures and deaths do."""

from __future__ import annotations

import asyncio
import random
from array import array
from collections import defaultdict
from contextlib import suppress
from typing import Any

import pytest

from penstock.delivery.lot import OnFailure
from penstock.delivery.redrive import Command
from penstock.delivery.retry import Retry
from penstock.engine.context import Context
from penstock.errors import PenstockError, Reject
from penstock.event.envelope import NewEvent
from penstock.system.slots import SIDE_BY_SIDE, MemorySlot
from tests.unit.engine.engine_kit import Bill, Kit, Order
from tests.unit.engine.test_engine_parking import bill, command, keyed, ledger, stops_after


@pytest.fixture
async def kit() -> Any:
    made = Kit()
    yield made
    await made.close()


def spread(count: int, keys: int) -> list[Order]:
    return [Order(n, f"c{n % keys}", n) for n in range(count)]


async def test_as_many_as_said_are_handled_at_once_and_never_two_of_a_key(kit: Kit) -> None:
    source = await keyed(kit, spread(300, 40))
    into = await kit.topic("bills", Bill, partitions=1, key="customer")
    now: set[str] = set()
    most = 0

    async def work(order: Order) -> Bill:
        nonlocal most
        assert order.customer not in now
        now.add(order.customer)
        most = max(most, len(now))
        await asyncio.sleep(random.Random(order.id).random() / 1000)
        now.discard(order.customer)
        return bill(order)

    group = await kit.handler(work, source, into, concurrency=8)
    await group.run()
    assert most == 8
    by_key: dict[str, list[int]] = defaultdict(list)
    for made in await kit.events(into):
        by_key[made.customer].append(made.id)
    assert all(ids == sorted(ids) for ids in by_key.values())
    assert sum(map(len, by_key.values())) == group.state.events == 300
    assert kit.channel.memory.progress("work")[0].floor == 300


async def test_a_slow_event_holds_nobody_but_its_key_and_progress_has_holes(kit: Kit) -> None:
    source = await keyed(kit, spread(60, 20))
    into = await kit.topic("bills", Bill, partitions=1, key="customer")
    release = asyncio.Event()

    async def work(order: Order) -> Bill:
        if order.id == 0:
            await release.wait()
        return bill(order)

    group = await kit.handler(work, source, into, concurrency=4, ended=None)
    running = asyncio.ensure_future(group.run())
    for _ in range(2000):
        await asyncio.sleep(0)
        progress = kit.channel.memory.progress("work")[0]
        if len(progress.holes) == 57:
            break
        kit.clock.pass_s(0.001)
    assert (progress.floor, len(progress.holes)) == (0, 57), "all but the three of the slow event's key"
    release.set()
    for _ in range(2000):
        await asyncio.sleep(0)
        kit.clock.pass_s(0.001)
        if kit.channel.memory.progress("work")[0].floor == 60:
            break
    group.stop()
    await running
    assert len(await kit.events(into)) == 60


@pytest.mark.parametrize("number", range(20))
async def test_any_pattern_of_failures_keeps_each_keys_order(kit: Kit, number: int) -> None:
    dice = random.Random(number)
    keys, count = dice.choice([1, 5, 40]), 300
    fails = {n: dice.choice([1, 2, 9]) for n in range(count) if dice.random() < 0.2}
    source = await keyed(kit, spread(count, keys))
    into = await kit.topic("bills", Bill, partitions=1, key="customer")
    tries: dict[int, int] = defaultdict(int)

    async def shaky(order: Order) -> Bill:
        tries[order.id] += 1
        await asyncio.sleep(0)
        if tries[order.id] <= fails.get(order.id, 0):
            raise ValueError("again") if order.id % 3 else Reject("no")
        return bill(order)

    parking = OnFailure(keys_max=dice.choice([3, 1000]))
    group = await kit.handler(
        shaky, source, into, concurrency=dice.choice([2, 16]), retry=Retry(3, first_s=0.1), on_failure=parking
    )
    await group.run()
    by_key: dict[str, list[int]] = defaultdict(list)
    for made in await kit.events(into):
        by_key[made.customer].append(made.id)
    assert all(ids == sorted(ids) for ids in by_key.values())
    given_up = {n for n, times in fails.items() if times > 2 or n % 3 == 0}
    assert {letter.offset for letter in await kit.letters("shaky")} == given_up
    assert sorted(i for ids in by_key.values() for i in ids) == [n for n in range(count) if n not in given_up]
    assert (group.state.events, group.state.dead) == (count, len(given_up))
    assert not [key for space, key in ledger(kit, "shaky") if space == "parked"]


async def test_after_a_death_those_in_flight_run_alone_and_only_the_killer_is_charged(kit: Kit) -> None:
    source = await keyed(kit, spread(30, 30))
    into = await kit.topic("bills", Bill, partitions=1, key="customer")
    words = bytearray(32)
    died = asyncio.Event()

    async def fatal(order: Order, ctx: Context) -> Bill:
        await asyncio.sleep(0)
        if order.id == 7:
            died.set()
            await asyncio.Event().wait()
        return bill(order)

    def slots(*_: object) -> MemorySlot:
        return MemorySlot(words)

    options: dict[str, Any] = {"concurrency": 10, "retry": Retry(2, first_s=0.1), "slots": slots}
    for life in range(3):
        died.clear()
        running = asyncio.ensure_future((await kit.handler(fatal, source, into, **options)).run())
        await died.wait()
        running.cancel()  # stands for the end of the process: the slot is as it was
        with pytest.raises(asyncio.CancelledError):
            await running
        if life == 0:
            assert memoryview(words).cast("Q")[1] == SIDE_BY_SIDE
    await (await kit.handler(fatal, source, into, **options)).run()
    (letter,) = await kit.letters("fatal")
    assert (letter.offset, letter.error, letter.attempts) == (7, "ProcessDied", 2)
    assert sorted(made.id for made in await kit.events(into)) == [n for n in range(30) if n != 7]


@pytest.mark.parametrize("number", range(10))
async def test_results_of_a_key_are_stored_in_the_order_of_its_events(kit: Kit, number: int) -> None:
    """Also those of an event that waited, when others of its key are handled and not yet part of a step."""
    dice = random.Random(number)
    source = await keyed(kit, spread(200, 10))
    into = await kit.topic("bills", Bill, partitions=1, key="customer")
    fails = {n for n in range(200) if dice.random() < 0.5}

    async def shaky(order: Order, ctx: Context) -> Bill:
        for _ in range(dice.randrange(3)):
            await asyncio.sleep(0)
        if order.id in fails and ctx.attempt == 1:
            raise ValueError("once")
        return bill(order)

    options: dict[str, Any] = {"retry": Retry(2, first_s=0), "on_failure": OnFailure(keys_max=1)}
    group = await kit.handler(shaky, source, into, concurrency=4, **options)
    await group.run()
    by_key: dict[str, list[int]] = defaultdict(list)
    for made in await kit.events(into):
        by_key[made.customer].append(made.id)
    assert sum(map(len, by_key.values())) == 200
    assert all(ids == sorted(ids) for ids in by_key.values())


@pytest.mark.parametrize("number", range(40))
async def test_any_pattern_of_failures_deaths_and_owners_keeps_each_keys_order(kit: Kit, number: int) -> None:
    """Owners with and without concurrency, and other bounds, follow one another; some come to a sudden end."""
    dice = random.Random(number)
    source, into = await keyed(kit, []), await kit.topic("bills", Bill, partitions=1, key="customer")
    kinds = [*["fine"] * dice.choice([3, 30]), "once", "twice", "always", "reject", "odd", "dies", "dies once", "stops"]
    kind, tries, keys = {n: dice.choice(kinds) for n in range(200)}, defaultdict[int, int](int), dice.choice([3, 20])
    words, sleep, concurrency, sent = bytearray(32), kit.clock.sleep, 1, 0

    async def shaky(order: Order, ctx: Context) -> Any:
        tries[order.id] += 1
        what, first = kind[order.id], tries[order.id] == 1
        if dice.random() < 0.2:
            await asyncio.sleep(0)
        if dice.random() < 0.05:
            kit.clock.pass_s(0.6)
        if what == "dies" or (what == "dies once" and first):
            raise SystemExit if concurrency == 1 else ValueError("as good as dead")
        if what == "always" or (what == "once" and first) or (what == "twice" and tries[order.id] < 3):
            raise ValueError("again")
        if what == "reject":
            raise Reject("no")
        if what == "stops" and first:
            group.stop()
        return "odd" if what == "odd" else bill(order)

    for _ in range(400):
        size = min(200 - sent, dice.randrange(1, 80))
        if size:
            await kit.publish(source, [Order(n, f"c{dice.randrange(keys)}", n) for n in range(sent, sent + size)])
        sent += size
        concurrency = dice.choice([1, 1, 4])
        bounds = OnFailure(keys_max=dice.choice([2, 1000]), events_max=dice.choice([5, 1000]))
        options: dict[str, Any] = {"concurrency": concurrency, "on_failure": bounds, "retry": Retry(3, first_s=0.5)}
        group = await kit.handler(shaky, source, into, slots=lambda *_: MemorySlot(words), **options)
        kit.clock.sleep = sleep  # type: ignore[method-assign]
        kit.clock.sleep = stops_after(group, kit, dice.choice([5, 400]))  # type: ignore[method-assign]
        with suppress(SystemExit):
            await group.run()
            waits = [key for space, key in ledger(kit, "shaky") if space in ("parked", "attempts")]
            if sent == 200 == kit.channel.memory.progress("shaky")[0].floor and not waits:
                break
    by_key: dict[str, list[int]] = defaultdict(list)
    for made in await kit.events(into):
        by_key[made.customer].append(made.id)
    given = [letter.offset for letter in await kit.letters("shaky")]
    assert sorted([*given, *(n for ids in by_key.values() for n in ids)]) == list(range(200)), "each event once"
    assert all(ids == sorted(ids) for ids in by_key.values())


async def test_a_suspect_is_alone_in_all_partitions(kit: Kit) -> None:
    """Or it is charged for what an event of another partition does beside it."""
    source = await kit.topic("orders", Order, partitions=2, key="customer")
    await kit.publish(source, spread(400, 400))
    words = bytearray(32)
    memoryview(words).cast("Q")[:2] = memoryview(array("Q", [2, 0]))
    at_work: set[tuple[int, int]] = set()
    beside: list[set[tuple[int, int]]] = []

    async def slow(order: Order, ctx: Context) -> None:
        at_work.add((ctx.partition, ctx.offset))
        for _ in range(20):
            if (1, 0) in at_work and len(at_work) > 1:
                beside.append(set(at_work))
            await asyncio.sleep(0)
        at_work.remove((ctx.partition, ctx.offset))

    group = await kit.handler(slow, source, concurrency=8, slots=lambda *_: MemorySlot(words))
    await group.run()
    assert (group.state.events, beside) == (400, [])


async def test_suspects_that_fail_are_parked_and_handled_while_the_others_still_run_alone(kit: Kit) -> None:
    source = await keyed(kit, spread(6, 6))
    into = await kit.topic("bills", Bill, partitions=1, key="customer")
    words = bytearray(32)
    memoryview(words).cast("Q")[:2] = memoryview(array("Q", [1, SIDE_BY_SIDE]))

    async def slow(order: Order, ctx: Context) -> Bill:
        kit.clock.pass_s(1)  # each is a step of its own, and what is parked is due before the next
        if order.id == 0 and ctx.attempt == 1:
            raise ValueError("once")
        return bill(order)

    group = await kit.handler(
        slow, source, into, concurrency=3, retry=Retry(2, first_s=0.5), slots=lambda *_: MemorySlot(words)
    )
    await group.run()
    assert sorted(made.id for made in await kit.events(into)) == list(range(6))
    assert group.state.events == 6


async def test_a_redriven_event_is_marked_however_many_steps_pass_while_it_is_handled(kit: Kit) -> None:
    source = await keyed(kit, spread(2, 2))
    into = await kit.topic("bills", Bill, partitions=1, key="customer")
    mended, release = False, asyncio.Event()

    async def late(order: Order, ctx: Context) -> Bill:
        if order.id == 0 and not mended:
            raise ValueError("broken")
        if ctx.redriven:
            await release.wait()
        return bill(order)

    await (await kit.handler(late, source, into, concurrency=4, retry=Retry(1))).run()
    (letter,) = await kit.letters("late")
    mended = True
    await command(kit, "late", Command("redrive", 0, 0, letter.body, letter.key, letter.id))
    await kit.publish(source, [Order(2, "c2", 2)])
    running = asyncio.ensure_future((await kit.handler(late, source, into, concurrency=4, retry=Retry(1))).run())
    for _ in range(3000):
        await asyncio.sleep(0)
        kit.clock.pass_s(0.001)
        if len(await kit.events(into)) == 2:
            break
    release.set()
    await running
    batches = await kit.channel.read("bills", 0, 0, events_max=10)
    heads = [h for batch in batches for h in batch.payload.attributes.get("headers", [None] * batch.count)]
    assert [made.id for made in await kit.events(into)] == [1, 2, 0]
    assert heads == [None, None, {"redriven": "out of order"}]


async def test_redriven_events_are_never_handled_beside_others_of_their_key(kit: Kit) -> None:
    source = await keyed(kit, spread(12, 3))
    into = await kit.topic("bills", Bill, partitions=1, key="customer")
    mended, now, most = False, set[str](), 0

    async def late(order: Order) -> Bill:
        nonlocal most
        if not mended or (order.id == 14 and 14 not in failed):
            failed.add(order.id)
            raise ValueError("broken")
        assert order.customer not in now
        now.add(order.customer)
        most = max(most, len(now))
        await asyncio.sleep(0.02 / (order.id + 1))
        now.discard(order.customer)
        return bill(order)

    failed = set[int]()
    await (await kit.handler(late, source, into, concurrency=8, retry=Retry(1))).run()
    letters = await kit.letters("late")
    mended = True
    for number, letter in enumerate(letters):
        said = Command("redrive", number, letter.offset, letter.body, letter.key, letter.id)
        await command(kit, "late", said)
    await kit.publish(source, [Order(12 + n, f"c{n % 3}", n) for n in range(12)])
    group = await kit.handler(late, source, into, concurrency=8, retry=Retry(2, first_s=0.001))
    await group.run()
    by_key: dict[str, list[int]] = defaultdict(list)
    for made in await kit.events(into):
        by_key[made.customer].append(made.id)
    assert most == 3
    assert sorted(one for ids in by_key.values() for one in ids) == list(range(24)), "each once"
    for ids in by_key.values():
        for some in ([one for one in ids if one < 12], [one for one in ids if one >= 12]):
            assert some == sorted(some), "in order among the redriven, and among the others"


@pytest.mark.parametrize("given_up", ["continue", "block"])
async def test_results_that_are_too_much_together_are_several_steps(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, given_up: str
) -> None:
    monkeypatch.setattr("penstock.engine.results.RUN_BYTES_MAX", 1_500)
    monkeypatch.setattr("penstock.engine.concurrent.STEP_BYTES_MAX", 1_000)
    source = await keyed(kit, spread(20, 20))
    into = await kit.topic("bills", Bill, partitions=1, key="customer")
    together = asyncio.Event()

    async def large(order: Order) -> Bill:
        if order.id < 19:
            await together.wait()
        together.set()  # all end before anybody can send anything
        if order.id == 18:
            raise Reject("not this one")
        return Bill(order.id, f"{order.id}:" + "x" * 600, 0.0)

    group = await kit.handler(large, source, into, given_up=given_up, concurrency=20)
    monkeypatch.setattr("penstock.channel.rules.TOGETHER_BYTES_MAX", 6_000)
    await group.run()
    assert sorted(made.id for made in await kit.events(into)) == [*range(18), 19]
    assert [letter.offset for letter in await kit.letters("large")] == [18]
    assert (group.state.events, kit.channel.memory.progress("large")[0].floor) == (20, 20)


@pytest.mark.parametrize("given_up", ["continue", "block"])
@pytest.mark.parametrize("concurrency", [1, 20])
async def test_a_result_that_is_let_go_is_refused_once(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, given_up: str, concurrency: int
) -> None:
    monkeypatch.setattr("penstock.engine.results.RUN_BYTES_MAX", 1_500)
    monkeypatch.setattr("penstock.engine.concurrent.STEP_BYTES_MAX", 1_000)
    source = await keyed(kit, spread(20, 20))
    into = await kit.topic("bills", Bill, partitions=1)
    together = asyncio.Event()

    def billed(order: Order) -> Any:
        made = Bill(order.id, "x" * 600, 0.0)
        return NewEvent(data=made, id="its own") if order.id == 18 else made

    async def billed_later(order: Order) -> Any:
        if order.id < 19:
            await together.wait()
        together.set()  # all end before anybody can send anything
        return billed(order)

    function = billed if concurrency == 1 else billed_later
    group = await kit.handler(function, source, into, given_up=given_up, concurrency=concurrency, retry=Retry(1))
    await group.run()
    assert sorted(made.id for made in await kit.events(into)) == [*range(18), 19]
    assert [letter.offset for letter in await kit.letters(function.__name__)] == [18]
    assert (group.state.events, group.state.dead) == (20, 1)


@pytest.mark.parametrize("number", range(3))
async def test_a_pause_that_has_just_ended_is_not_the_end(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The channel was asked while the partition was paused: that it had nothing then says nothing of what it has."""
    monkeypatch.setattr("penstock.engine.group.EVENTS_MAX", 10)
    dice = random.Random(number)
    source = await kit.topic("orders", Order, partitions=1, key="customer")
    await kit.publish(source, [Order(n, f"c{n % 3}", n) for n in range(200)])

    async def slow(order: Order, ctx: Context) -> None:
        kit.clock.pass_s(dice.choice([0.0, 0.01, 2.0]))
        if order.id % 10 == 0 and ctx.attempt == 1:
            raise ConnectionError("down")

    policy = OnFailure(keys_max=1, breaker=1)
    group = await kit.handler(slow, source, retry=Retry(2, first_s=0), on_failure=policy, concurrency=3)
    await group.run()
    assert group.state.events == 200


async def test_a_handler_that_cancels_its_own_task_ends_the_group_and_does_not_stop_it_for_ever(kit: Kit) -> None:
    source = await keyed(kit, spread(6, 3))

    async def cancels(order: Order) -> None:
        if order.id == 3:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)

    group = await kit.handler(cancels, source, concurrency=2)
    with pytest.raises(PenstockError, match="was cancelled from inside"):
        await asyncio.wait_for(group.run(), 5)
