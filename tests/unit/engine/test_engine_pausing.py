"""A partition that is paused: the others go on, and little of it is kept in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from penstock import App
from penstock.channel.typed import TypedTopic
from penstock.delivery.lot import OnFailure
from penstock.delivery.retry import Retry
from penstock.engine.context import Context
from penstock.engine.place import Place
from penstock.event.batch import Delivered
from penstock.event.partition import partition_of
from tests.unit.engine.engine_kit import Kit, Order
from tests.unit.engine.test_engine_parking import keyed, orders, stops_after


@pytest.fixture
async def kit() -> Any:
    made = Kit()
    yield made
    await made.close()


async def spread(kit: Kit, *keys: str) -> tuple[TypedTopic[Any], dict[str, int]]:
    """A topic of four partitions with one order per key, and which partition has which key."""
    source = await kit.topic("orders", Order, partitions=4, key="customer")
    await kit.publish(source, orders(*keys))
    return source, {key: partition_of(key.encode(), 4) for key in keys}


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("cause", ["full", "breaker", "order"])
async def test_a_partition_that_is_paused_does_not_hold_up_the_others(kit: Kit, cause: str, concurrency: int) -> None:
    keys = [f"k{number}" for number in range(40)]
    source, partition = await spread(kit, *keys, *keys)
    bad = 0  # the one that is delivered first
    policy = {
        "full": OnFailure(keys_max=2),
        "breaker": OnFailure(breaker=2),
        "order": OnFailure(order="partition" if concurrency == 1 else "key", keys_max=1 if concurrency > 1 else 1_000),
    }[cause]
    well, calls = False, list[tuple[int, str]]()

    def shaky(order: Order) -> None:
        calls.append((order.id, order.customer))
        if partition[order.customer] == bad and not well:
            raise ConnectionError("down") if cause == "breaker" else ValueError("not now")

    async def beside(order: Order) -> None:
        shaky(order)

    function = shaky if concurrency == 1 else beside
    options: dict[str, Any] = {"retry": Retry(1_000, first_s=30), "on_failure": policy, "concurrency": concurrency}
    group = await kit.handler(function, source, ended=lambda: group.state.events >= 80, **options)
    running = asyncio.ensure_future(group.run())
    others = {number for number, key in enumerate(keys * 2) if partition[key] != bad}
    for _ in range(2_000):
        done = {number for number, key in calls if partition[key] != bad} == others
        if done and group.state.gauge.paused:
            break
        await asyncio.sleep(0)
    else:
        pytest.fail("other partitions wait too")
    assert len({key for _, key in calls if partition[key] == bad}) <= 2 + (concurrency > 1) * 8
    assert group.state.gauge.paused.startswith(f"partition {bad}: ")
    well = True
    await asyncio.wait_for(running, 60)
    for key in keys:
        seen = list(dict.fromkeys(number for number, called in calls if called == key))
        assert seen == [keys.index(key), keys.index(key) + 40], "the order of a key is kept"
    assert group.state.events == 80
    assert not group.state.gauge.paused


def test_however_often_a_partition_is_paused_little_of_it_is_put_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.engine.group.EVENTS_MAX", 10)
    aside, put_aside = list[int](), Place.put_aside

    def noted(self: Place, batches: Sequence[Delivered]) -> None:
        aside.append(sum(batch.count for batch in batches))
        put_aside(self, batches)

    monkeypatch.setattr(Place, "put_aside", noted)
    app = App("shop", path=tmp_path / "log")
    source = app.topic("orders", Order, key="customer", partitions=1)
    policy = OnFailure(keys_max=2)

    @app.handle(source, retry=Retry(3, first_s=0.005), on_failure=policy, concurrency=2, name="shaky")
    async def _(_: Order, ctx: Context) -> None:
        if ctx.attempt == 1:
            raise ValueError("once")

    with app.client() as client:
        client.publish_many(source, orders(*map(str, range(200))))
    assert app.run(until_idle=True).part("shaky").events == 200
    assert len(aside) > 20
    assert max(aside) <= 20, "the rest of one delivery, and what was read ahead"


async def test_an_outage_uses_up_neither_the_attempts_nor_the_time_of_an_event(kit: Kit) -> None:
    source = await keyed(kit, orders(*"abcdef"))
    well = list[int]()
    hiccups = 2

    def fragile(order: Order) -> None:
        nonlocal hiccups
        if kit.clock.monotonic_s() < 600 or (order.id == 0 and not well):
            raise ConnectionError("down")
        if order.id == 0 and hiccups:
            hiccups -= 1
            raise ConnectionError("once more")
        well.append(order.id)

    policy = Retry(10, first_s=0.2, factor=1, total_s=1.5)
    group = await kit.handler(fragile, source, retry=policy, on_failure=OnFailure(breaker=2))
    await group.run()
    assert (group.state.events, group.state.dead) == (6, 0)


async def test_the_next_owner_knows_that_the_target_fails_however_few_wait(kit: Kit) -> None:
    """One event waits at a time where the partition's order is kept: it alone says how many keys failed before it."""
    source = await keyed(kit, [Order(n, f"c{n}", n) for n in range(40)])
    well, done = False, list[int]()

    def post(order: Order) -> None:
        if not well:
            raise ConnectionError("down")
        done.append(order.id)

    policy = OnFailure(breaker=4, order="partition")
    for _ in range(5):
        group = await kit.handler(post, source, retry=Retry(2, first_s=0.1), on_failure=policy, ended=None)
        kit.clock.sleep = stops_after(group, kit, 20)  # type: ignore[method-assign]
        await group.run()
    well = True
    group = await kit.handler(post, source, retry=Retry(2, first_s=0.1), on_failure=policy)
    await group.run()
    assert [letter.offset for letter in await kit.letters("post")] == [0, 1, 2], "given up before it was known"
    assert done == list(range(3, 40))


async def test_a_target_that_fails_is_tried_with_one_event_at_a_time_also_side_by_side(kit: Kit) -> None:
    source = await keyed(kit, [Order(n, f"c{n}", n) for n in range(40)])
    now, most, tries, done = 0, 0, 0, list[int]()

    async def post(order: Order, ctx: Context) -> None:
        nonlocal now, most, tries
        if kit.clock.monotonic_s() > 60:
            done.append(order.id)
            return
        now += 1
        if ctx.attempt > 1:
            most, tries = max(most, now), tries + 1
        began_s = kit.clock.monotonic_s()
        while kit.clock.monotonic_s() < began_s + 5:  # the target is slow to fail
            await asyncio.sleep(0)
        now -= 1
        raise TimeoutError("down")

    options: dict[str, Any] = {"retry": Retry(50, first_s=0.1, pause_max_s=0.1), "on_failure": OnFailure(breaker=8)}
    group = await kit.handler(post, source, concurrency=8, ended=lambda: len(done) == 40, **options)
    running = asyncio.ensure_future(group.run())
    for _ in range(100_000):
        kit.clock.pass_s(0.01)
        await asyncio.sleep(0)
        if running.done():
            break
    await asyncio.wait_for(running, 10)
    assert sorted(done) == list(range(40))
    assert tries > 3
    assert most == 1


@pytest.mark.parametrize("bound", ["WINDOW_MAX", "QUEUED_MAX"])
async def test_a_slow_event_side_by_side_holds_up_no_other_partition_and_no_retry(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(f"penstock.engine.concurrent.{bound}", 20)
    keys = [f"k{number}" for number in range(40)]
    source, partition = await spread(kit, *keys, *keys)
    mine = [key for key in keys if partition[key] == 0]
    slow = [Order(1_000 + n, mine[0] if bound == "QUEUED_MAX" else mine[1 + n % (len(mine) - 1)], 0) for n in range(60)]
    await kit.publish(source, [*slow, Order(9_999, mine[1], 0)])
    release, done = asyncio.Event(), dict[str, list[int]]()

    async def work(order: Order, ctx: Context) -> None:
        if order.id == keys.index(mine[0]):
            await release.wait()
        if order.id == 1 and ctx.attempt == 1:
            raise ValueError("once")
        done.setdefault(order.customer, []).append(order.id)

    group = await kit.handler(
        work, source, concurrency=8, ended=lambda: release.is_set() and group.state.events == 141, retry=Retry(2)
    )
    running = asyncio.ensure_future(group.run())
    others = [key for key in keys if partition[key] != 0]
    for _ in range(3_000):
        kit.clock.pass_s(0.001)
        await asyncio.sleep(0)
        if all(len(done.get(key, [])) == 2 for key in others):
            break
    else:
        pytest.fail("other partitions wait too")
    assert 9_999 not in done.get(mine[1], []), "what is begun is bounded"
    release.set()
    await asyncio.wait_for(running, 20)
    assert sum(map(len, done.values())) == 141
    assert all(ids == sorted(ids) for ids in done.values())
