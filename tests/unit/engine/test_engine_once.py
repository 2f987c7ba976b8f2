"""`ctx.once`: True for one event per token, and the mark is permanent when that event's effect is, not before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from penstock.channel.typed import TypedTopic
from penstock.delivery.once import ONCE_EVENTS, SPACE, digest_of
from penstock.delivery.redrive import Command
from penstock.delivery.retry import Retry
from penstock.engine.context import Context
from penstock.errors import Reject
from tests.unit.engine.engine_kit import Bill, Kit, Order
from tests.unit.engine.test_engine_parking import bill, command, keyed, ledger, orders


@pytest.fixture
async def kit() -> AsyncIterator[Kit]:
    made = Kit()
    yield made
    await made.close()


def marks(kit: Kit, group: str) -> dict[bytes, int]:
    """The marks in the group's ledger."""
    found = ledger(kit, group).items()
    return {key: int.from_bytes(value) for (space, key), value in found if space == SPACE}


async def both(kit: Kit, events: list[Order]) -> tuple[TypedTopic[Any], TypedTopic[Any]]:
    return await keyed(kit, events), await kit.topic("bills", Bill, partitions=1)


async def test_one_effect_per_token_and_the_marks_come_with_it(kit: Kit) -> None:
    source, into = await both(kit, orders(*"abab"))

    def work(order: Order, ctx: Context) -> Bill | None:
        return bill(order) if ctx.once(order.customer) else None

    group = await kit.handler(work, source, into)
    await group.run()
    assert [made.id for made in await kit.events(into)] == [0, 1]
    assert marks(kit, "work") == {digest_of("a"): 0, digest_of("b"): 1}
    (step,) = kit.channel.memory.steps("work", 0)
    assert step.settle.floor_after == 4, "the marks have no step of their own"


async def test_a_second_call_for_the_same_event_is_false(kit: Kit) -> None:
    source = await keyed(kit, orders("a"))
    said: list[bool] = []

    def work(order: Order, ctx: Context) -> None:
        said.extend([ctx.once("t"), ctx.once("t"), ctx.once(b"t")])

    await (await kit.handler(work, source)).run()
    assert said == [True, False, False]


@pytest.mark.parametrize("order", ["key", "partition"])
@pytest.mark.parametrize("is_async", [False, True])
async def test_an_event_that_raises_gets_true_again(kit: Kit, order: str, is_async: bool) -> None:
    source, into = await both(kit, orders(*"aab"))
    said: list[tuple[int, bool]] = []

    def sync(event: Order, ctx: Context) -> Bill | None:
        said.append((event.id, ctx.once("the only one")))
        if event.id == 0 and ctx.attempt < 3:
            raise ValueError("not yet")
        return bill(event) if said[-1][1] else None

    async def coroutine(event: Order, ctx: Context) -> Bill | None:
        return sync(event, ctx)

    work = coroutine if is_async else sync
    await (await kit.handler(work, source, into, retry=Retry(3, first_s=1), order=order)).run()
    first = [(0, True), (0, True), (0, True), (1, False), (2, False)]
    # Parked, its key alone waits: event 2 has the token when it is tried again.
    parked = [(0, True), (2, True), (0, False), (0, False), (1, False)]
    assert said == (first if order == "partition" else parked)
    assert len(await kit.events(into)) == 1
    assert len(marks(kit, work.__name__)) == 1


async def test_a_generator_that_raises_leaves_no_mark(kit: Kit) -> None:
    source, into = await both(kit, orders("a"))

    def work(order: Order, ctx: Context) -> Any:
        if ctx.once("t"):
            yield bill(order)
        if ctx.attempt == 1:
            raise ValueError("at the end")

    await (await kit.handler(work, source, into, retry=Retry(2, first_s=1))).run()
    assert len(await kit.events(into)) == 1


async def test_a_call_that_takes_too_long_leaves_no_mark(kit: Kit) -> None:
    source, into = await both(kit, orders("a"))

    async def work(order: Order, ctx: Context) -> Bill | None:
        new = ctx.once("t")
        if ctx.attempt == 1:
            await asyncio.Event().wait()
        return bill(order) if new else None

    await (await kit.handler(work, source, into, retry=Retry(2, first_s=1, timeout_s=0.001))).run()
    assert len(await kit.events(into)) == 1


async def test_a_rejected_event_leaves_its_token_to_the_next_one(kit: Kit) -> None:
    source, into = await both(kit, orders(*"aaa"))
    said: list[bool] = []

    def work(order: Order, ctx: Context) -> Bill | None:
        said.append(ctx.once("t"))
        if order.id == 0:
            raise Reject("no")
        return bill(order) if said[-1] else None

    await (await kit.handler(work, source, into)).run()
    assert said == [True, True, False]
    assert marks(kit, "work") == {digest_of("t"): 1}


async def test_given_up_and_redriven_it_gets_true_again(kit: Kit) -> None:
    source, into = await both(kit, orders("a"))
    said: list[bool] = []

    def work(order: Order, ctx: Context) -> Bill | None:
        said.append(ctx.once("t"))
        if not ctx.redriven:
            raise Reject("look at it")
        return bill(order) if said[-1] else None

    await (await kit.handler(work, source, into)).run()
    assert marks(kit, "work") == {}
    (letter,) = await kit.letters("work")
    await command(kit, "work", Command("redrive", 0, 0, letter.body, b"a"))
    await (await kit.handler(work, source, into)).run()
    assert said == [True, True]
    assert marks(kit, "work") == {digest_of("t"): 1}, "the horizon counts from the floor, which has passed it"


async def test_results_that_are_let_go_let_the_marks_go(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.engine.results.RUN_BYTES_MAX", 60)
    source, into = await both(kit, orders(*"abcdef"))
    said: list[tuple[int, bool]] = []

    def work(order: Order, ctx: Context) -> Bill | None:
        said.append((order.id, ctx.once(str(order.id))))
        return bill(order) if said[-1][1] else None

    await (await kit.handler(work, source, into)).run()
    assert len(said) > 6, "some were called again"
    assert all(new for _, new in said)
    assert sorted(made.id for made in await kit.events(into)) == [*range(6)]
    assert len(marks(kit, "work")) == 6


async def test_an_event_whose_result_is_refused_leaves_no_mark(kit: Kit) -> None:
    source, into = await both(kit, orders(*"aa"))

    def work(order: Order, ctx: Context) -> Any:
        ctx.once(str(order.id))
        return "no bill" if order.id == 0 else bill(order)

    await (await kit.handler(work, source, into)).run()
    assert len(await kit.letters("work")) == 1
    assert marks(kit, "work") == {digest_of("1"): 1}


async def test_a_result_that_is_refused_is_known_with_its_step_and_lets_the_token_go_with_it(kit: Kit) -> None:
    """Others of the step that ask meanwhile get False; the next step's event gets the token."""
    source, into = await both(kit, orders(*"ab"))

    def work(order: Order, ctx: Context) -> Any:
        said[order.id] = ctx.once("t")
        return "no bill" if order.id == 0 else None

    said: dict[int, bool] = {}
    group = await kit.handler(work, source, into)
    group._work._size = 10  # type: ignore[attr-defined]
    await group.run()
    await kit.publish(source, [Order(2, "c", 2)])
    await (await kit.handler(work, source, into)).run()
    assert said == {0: True, 1: False, 2: True}
    assert [letter.offset for letter in await kit.letters("work")] == [0]


async def test_without_into_what_returns_something_leaves_no_mark(kit: Kit) -> None:
    source = await keyed(kit, orders("a"))

    def work(order: Order, ctx: Context) -> Any:
        ctx.once("t")
        return order

    await (await kit.handler(work, source)).run()
    assert len(await kit.letters("work")) == 1
    assert marks(kit, "work") == {}


async def test_the_next_owner_has_the_marks(kit: Kit) -> None:
    source, into = await both(kit, orders(*"ab"))

    def work(order: Order, ctx: Context) -> Bill | None:
        return bill(order) if ctx.once(order.customer) else None

    await (await kit.handler(work, source, into)).run()
    await kit.publish(source, [Order(2, "a", 2), Order(3, "c", 3)])
    await (await kit.handler(work, source, into)).run()
    assert [made.id for made in await kit.events(into)] == [0, 1, 3]
    assert marks(kit, "work") == {digest_of("a"): 0, digest_of("b"): 1, digest_of("c"): 3}


async def test_the_horizon_is_exact_and_what_lies_beyond_it_leaves_the_ledger(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ONCE_EVENTS == 100_000
    monkeypatch.setattr("penstock.delivery.once.ONCE_EVENTS", 3)
    source, into = await both(kit, orders(*"abccabcc"))

    def work(order: Order, ctx: Context) -> Bill | None:
        return bill(order) if ctx.once("always" if order.customer == "c" else order.customer) else None

    await (await kit.handler(work, source, into)).run()
    assert [made.id for made in await kit.events(into)] == [0, 1, 2, 4, 5, 6], "3 and 7 come within three"
    assert marks(kit, "work") == {digest_of("b"): 5, digest_of("always"): 6}
    await kit.publish(source, [Order(8, "x", 8), Order(9, "x", 9)])
    await (await kit.handler(work, source, into)).run()
    assert marks(kit, "work") == {digest_of("x"): 8}


async def test_a_wrong_token_is_the_handlers_mistake(kit: Kit) -> None:
    source = await keyed(kit, orders("a"))

    def work(order: Order, ctx: Context) -> None:
        ctx.once(order.id)  # type: ignore[arg-type]

    await (await kit.handler(work, source, retry=Retry(1))).run()
    (letter,) = await kit.letters("work")
    assert letter.error == "TypeError"
    assert "ctx.once(0): a token is str or bytes" in letter.reason


async def test_a_handler_that_marks_nothing_writes_nothing(kit: Kit) -> None:
    source = await keyed(kit, orders(*"aa"))

    def work(order: Order, ctx: Context) -> None:
        assert ctx.attempt == 1

    await (await kit.handler(work, source)).run()
    assert ledger(kit, "work") == {}


# -- side by side ------------------------------------------------------------------------------------------------------


async def test_side_by_side_only_marks_of_finished_events_go_into_a_step(kit: Kit) -> None:
    source, into = await both(kit, orders(*"abc"))
    release = asyncio.Event()
    said: dict[int, bool] = {}

    async def work(order: Order, ctx: Context) -> Bill | None:
        said[order.id] = ctx.once("a" if order.id == 2 else order.customer)
        if order.id == 0:
            await release.wait()
        return bill(order) if said[order.id] else None

    group = await kit.handler(work, source, into, concurrency=3, ended=None)
    running = asyncio.ensure_future(group.run())
    for _ in range(2000):
        await asyncio.sleep(0)
        kit.clock.pass_s(0.001)
        if len(kit.channel.memory.progress("work")[0].holes) == 2:
            break
    assert said == {0: True, 1: True, 2: False}, "what an event in flight holds is not new"
    assert marks(kit, "work") == {digest_of("b"): 1}
    release.set()
    for _ in range(2000):
        await asyncio.sleep(0)
        kit.clock.pass_s(0.001)
        if kit.channel.memory.progress("work")[0].floor == 3:
            break
    assert marks(kit, "work") == {digest_of("a"): 0, digest_of("b"): 1}
    group.stop()
    await running


@pytest.mark.parametrize("given_up", ["continue", "block"])
async def test_side_by_side_an_event_that_fails_gets_true_again(kit: Kit, given_up: str) -> None:
    source, into = await both(kit, orders(*"abcd" * 5))

    async def work(order: Order, ctx: Context) -> Bill | None:
        new = ctx.once(str(order.id))
        await asyncio.sleep(0)
        if order.id % 3 == 0 and ctx.attempt < 3:
            raise ValueError("not yet")
        if order.id == 7:
            raise Reject("never")
        return bill(order) if new else None

    group = await kit.handler(work, source, into, concurrency=4, retry=Retry(3, first_s=0.1), given_up=given_up)
    await group.run()
    assert sorted(made.id for made in await kit.events(into)) == [n for n in range(20) if n != 7]
    assert set(marks(kit, "work")) == {digest_of(str(n)) for n in range(20) if n != 7}


async def test_side_by_side_a_result_that_is_refused_leaves_no_mark(kit: Kit) -> None:
    source, into = await both(kit, orders(*"ab"))

    async def work(order: Order, ctx: Context) -> Any:
        ctx.once(str(order.id))
        return "no bill" if order.id == 0 else bill(order)

    await (await kit.handler(work, source, into, concurrency=2)).run()
    assert len(await kit.letters("work")) == 1
    assert marks(kit, "work") == {digest_of("1"): 1}


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_a_task_that_outlives_its_call_takes_no_token_from_others(kit: Kit, concurrency: int) -> None:
    source, into = await both(kit, orders(*"aaa"))
    tasks: list[asyncio.Task[bool]] = []
    over = asyncio.Event()

    async def later(ctx: Context) -> bool:
        await over.wait()
        return ctx.once("t")

    async def work(order: Order, ctx: Context) -> Bill | None:
        if order.id == 0:
            tasks.append(asyncio.create_task(later(ctx)))
            return None
        over.set()
        await asyncio.sleep(0)
        return bill(order) if ctx.once("t") else None

    await (await kit.handler(work, source, into, concurrency=concurrency)).run()
    with pytest.raises(RuntimeError, match="after the handler has come back"):
        await tasks[0]
    assert [made.id for made in await kit.events(into)] == [1]
