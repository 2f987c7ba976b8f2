"""A failed event's key waits, every other key goes on; in the end it is a dead letter, or its key waits for people."""

from __future__ import annotations

import asyncio
import gc
import random
import weakref
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import msgspec
import pytest

from penstock.channel.api import Acked, Publish
from penstock.channel.typed import TypedTopic
from penstock.delivery.lot import SPACE, GivenUp, OnFailure, heads_of
from penstock.delivery.redrive import Command, encode
from penstock.delivery.retry import Retry
from penstock.engine.calling import EVENT_RESULTS_BYTES_MAX
from penstock.engine.context import Context
from penstock.engine.group import Group
from penstock.engine.results import Made
from penstock.errors import PermanentError, Reject
from penstock.event.batch import NewBatch, Rows
from penstock.event.envelope import NewEvent
from penstock.system.slots import MemorySlot
from tests.unit.engine.engine_kit import Bill, Kit, Order


@pytest.fixture
async def kit() -> Any:
    made = Kit()
    yield made
    await made.close()


def orders(*customers: str) -> list[Order]:
    """One order per letter: order 0 of the first customer, and so on."""
    return [Order(number, customer, number) for number, customer in enumerate(customers)]


async def keyed(kit: Kit, events: Sequence[Order]) -> TypedTopic[Any]:
    source = await kit.topic("orders", Order, partitions=1, key="customer")
    if events:
        await kit.publish(source, list(events))
    return source


def bill(order: Order) -> Bill:
    return Bill(order.id, order.customer, float(order.amount))


async def command(kit: Kit, group: str, made: Command) -> None:
    """Publish a redrive command to partition 0."""
    batch = NewBatch(f"{group}.redrive", 0, 1, Rows.of([encode(made)]))
    kit.clock.pass_s(2)
    answer = await kit.channel.publish(Publish(f"cli-{made.letter}-{kit.clock.monotonic_s()}", 0, 0, [batch]))
    assert isinstance(answer, Acked)


def ledger(kit: Kit, group: str) -> dict[tuple[str, bytes], bytes]:
    return kit.channel.memory.ledger(group, 0)


# -- order under failure -----------------------------------------------------------------------------------------------


async def test_only_the_key_of_the_failed_event_waits(kit: Kit) -> None:
    source = await keyed(kit, orders(*"abcabc"))
    calls: list[tuple[int, int]] = []

    def flaky(order: Order, ctx: Context) -> None:
        calls.append((order.id, ctx.attempt))
        if order.id == 0 and ctx.attempt < 3:
            raise ValueError("not yet")

    group = await kit.handler(flaky, source, retry=Retry(3, first_s=1))
    await group.run()
    assert calls == [(0, 1), (1, 1), (2, 1), (4, 1), (5, 1), (0, 2), (0, 3), (3, 1)]
    assert (group.state.events, group.state.dead) == (6, 0)
    assert (group.state.gauge.keys, group.state.gauge.events) == (0, 0)
    assert not [key for space, key in ledger(kit, "flaky") if space == SPACE], "the lot is empty, and so is its ledger"


async def test_a_key_that_fails_later_in_a_batch_holds_only_what_comes_behind_it(kit: Kit) -> None:
    source = await keyed(kit, orders(*"aabab"))
    calls: list[int] = []

    def second(order: Order, ctx: Context) -> None:
        calls.append(order.id)
        if order.id == 1 and ctx.attempt == 1:
            raise ValueError("once")

    await (await kit.handler(second, source, retry=Retry(2, first_s=1))).run()
    assert calls == [0, 1, 2, 4, 1, 3]


async def test_events_without_a_key_wait_alone(kit: Kit) -> None:
    source = await kit.topic("orders", Order, partitions=1)
    await kit.publish(source, orders(*"aaa"))
    calls: list[int] = []

    def once(order: Order, ctx: Context) -> None:
        calls.append(order.id)
        if order.id == 0 and ctx.attempt == 1:
            raise ValueError("once")

    await (await kit.handler(once, source, retry=Retry(2, first_s=1))).run()
    assert calls == [0, 1, 2, 0]


async def test_after_its_last_attempt_the_event_is_a_dead_letter_and_its_key_goes_on(kit: Kit) -> None:
    source = await keyed(kit, orders(*"aab"))
    into = await kit.topic("bills", Bill, partitions=1, key="customer")

    def never(order: Order) -> Bill:
        if order.id == 0:
            raise ValueError(f"no {order.id}")
        return bill(order)

    group = await kit.handler(never, source, into, retry=Retry(3, first_s=1))
    await group.run()
    (letter,) = await kit.letters("never")
    assert (letter.offset, letter.attempts, letter.error, letter.holds) == (0, 3, "ValueError", False)
    assert [(t.error, t.reason) for t in letter.tries] == [("ValueError", "no 0")] * 3
    assert letter.tries[0].at_us < letter.tries[2].at_us
    assert "in never" in letter.stack
    assert letter.body == msgspec.json.encode(orders("a")[0])
    assert [b.id for b in await kit.events(into)] == [2, 1]
    assert (group.state.events, group.state.dead) == (3, 1)


async def test_a_rejection_and_a_permanent_error_are_not_tried_again(kit: Kit) -> None:
    source = await keyed(kit, orders(*"ab"))

    def no(order: Order) -> None:
        raise Reject("no") if order.id == 0 else PermanentError("never")

    await (await kit.handler(no, source, retry=Retry(5, first_s=1))).run()
    letters = await kit.letters("no")
    assert [(letter.attempts, letter.error) for letter in letters] == [(1, "Reject"), (1, "PermanentError")]


async def test_policies_by_type_of_exception(kit: Kit) -> None:
    source = await keyed(kit, orders(*"ab"))
    calls: list[int] = []

    def typed(order: Order) -> None:
        calls.append(order.id)
        raise ConnectionError("down") if order.id == 0 else ValueError("wrong")

    policies: Any = {OSError: Retry(4, first_s=1), Exception: Retry(2, first_s=1)}
    await (await kit.handler(typed, source, retry=policies)).run()
    assert {letter.offset: letter.attempts for letter in await kit.letters("typed")} == {0: 4, 1: 2}
    assert (calls.count(0), calls.count(1)) == (4, 2)


async def test_a_call_that_takes_too_long_is_cancelled_and_tried_again(kit: Kit) -> None:

    source = await keyed(kit, orders(*"ab"))
    calls: list[int] = []

    async def slow(order: Order, ctx: Context) -> None:
        calls.append(order.id)
        if order.id == 0 and ctx.attempt == 1:
            await asyncio.sleep(30)

    await (await kit.handler(slow, source, retry=Retry(2, first_s=1, timeout_s=0.02))).run()
    assert calls == [0, 1, 0]


# -- block, redrive, skip ----------------------------------------------------------------------------------------------


async def blocked(kit: Kit, *customers: str, broken: set[int]) -> tuple[Group, TypedTopic[Any], list[int], Any]:
    """A handler that fails on `broken`, with the policy *block*; run until only held keys wait."""
    source = await keyed(kit, orders(*customers))
    into = await kit.topic("bills", Bill, partitions=1, key="customer")
    calls: list[int] = []

    def strict(order: Order) -> Bill:
        calls.append(order.id)
        if order.id in broken:
            raise ValueError("broken")
        return bill(order)

    async def again() -> Group:
        return await kit.handler(strict, source, into, retry=Retry(2, first_s=1), given_up="block")

    group = await again()
    await group.run()
    return group, into, calls, again


async def test_under_block_the_key_waits_for_a_redrive_and_order_holds(kit: Kit) -> None:
    broken = {1}
    group, into, calls, again = await blocked(kit, *"abababb", broken=broken)
    assert [b.id for b in await kit.events(into)] == [0, 2, 4]
    (letter,) = await kit.letters("strict")
    assert (letter.offset, letter.holds) == (1, True)
    assert (group.state.gauge.keys, group.state.gauge.events) == (1, 3)
    assert kit.channel.memory.progress("strict")[0].oldest == 3
    broken.clear()
    await command(kit, "strict", Command("redrive", 0, 1, letter.body, letter.key, letter.id))
    await (await again()).run()
    assert [b.id for b in await kit.events(into)] == [0, 2, 4, 1, 3, 5, 6]
    assert calls.count(1) == 3
    assert kit.channel.memory.progress("strict")[0].oldest is None
    assert ledger(kit, "strict")["letters", bytes(8)] == b"handled"


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_group_does_not_end_before_everything_that_was_said_is_done(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, concurrency: int
) -> None:
    monkeypatch.setattr("penstock.engine.commands.AT_ONCE", 2)
    source, broken = await keyed(kit, orders(*"abcdefghij")), True
    calls: list[int] = []

    async def strict(order: Order) -> None:
        calls.append(order.id)
        if broken:
            raise ValueError("broken")

    await (await kit.handler(strict, source, retry=Retry(1), concurrency=concurrency)).run()
    broken = False
    calls.clear()
    for number, letter in enumerate(await kit.letters("strict")):
        await command(kit, "strict", Command("redrive", number, letter.offset, letter.body, letter.key, letter.id))
    await (await kit.handler(strict, source, concurrency=concurrency)).run()
    assert sorted(calls) == [*range(10)]


async def test_an_edited_redrive_is_handled_with_the_new_bytes(kit: Kit) -> None:
    _, into, _, again = await blocked(kit, *"aa", broken={0})
    body = msgspec.json.encode(Order(100, "a", 7))
    await command(kit, "strict", Command("redrive", 0, 0, body, b"a"))
    await (await again()).run()
    assert [b.id for b in await kit.events(into)] == [100, 1]


async def test_a_skip_lets_the_key_go_on_without_the_event(kit: Kit) -> None:
    _, into, _, again = await blocked(kit, *"aab", broken={0})
    await command(kit, "strict", Command("skip", 0, 0))
    await (await again()).run()
    assert [b.id for b in await kit.events(into)] == [2, 1]
    assert ledger(kit, "strict")["letters", bytes(8)] == b"skipped"


async def test_a_letter_is_redriven_once_however_often_it_is_asked_for(kit: Kit) -> None:
    broken = {0}
    _, into, calls, again = await blocked(kit, *"aa", broken=broken)
    broken.clear()
    body = msgspec.json.encode(orders("a")[0])
    for _ in range(2):
        await command(kit, "strict", Command("redrive", 0, 0, body, b"a"))
    await (await again()).run()
    await command(kit, "strict", Command("redrive", 0, 0, body, b"a"))
    await (await again()).run()
    assert [b.id for b in await kit.events(into)] == [0, 1]
    assert calls.count(0) == 3


async def test_a_redrive_that_fails_again_is_a_letter_of_its_own_and_the_key_still_waits(kit: Kit) -> None:
    broken = {0}
    _, into, _, again = await blocked(kit, *"aa", broken=broken)
    body = msgspec.json.encode(orders("a")[0])
    await command(kit, "strict", Command("redrive", 0, 0, body, b"a"))
    await (await again()).run()
    letters = await kit.letters("strict")
    assert [(letter.again, letter.holds) for letter in letters] == [(0, True), (1, True)]
    assert ledger(kit, "strict")["letters", bytes(8)] == b"failed again"
    broken.clear()
    await command(kit, "strict", Command("redrive", 1, 0, body, b"a", again=2))
    await (await again()).run()
    assert [b.id for b in await kit.events(into)] == [0, 1]


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize(("given_up", "error"), [("continue", ValueError), ("continue", Reject), ("block", Reject)])
async def test_a_redriven_event_that_its_key_went_on_without_is_marked_as_out_of_order(
    kit: Kit, given_up: GivenUp, error: type[Exception], concurrency: int
) -> None:
    source = await keyed(kit, orders(*"aa"))
    into = await kit.topic("bills", Bill, partitions=1, key="customer")
    broken, marks = {0}, []

    async def late(order: Order, ctx: Context) -> Bill:
        marks.append((order.id, ctx.redriven))
        if order.id in broken:
            raise error("broken")
        return bill(order)

    options: dict[str, Any] = {"retry": Retry(1), "given_up": given_up, "concurrency": concurrency}
    await (await kit.handler(late, source, into, **options)).run()
    (letter,) = await kit.letters("late")
    broken.clear()
    await command(kit, "late", Command("redrive", 0, 0, letter.body, letter.key, letter.id))
    await (await kit.handler(late, source, into, **options)).run()
    assert marks == [(0, 0), (1, 0), (0, 1)]
    batches = await kit.channel.read("bills", 0, 0, events_max=10)
    heads = [h for batch in batches for h in batch.payload.attributes.get("headers", [None] * batch.count)]
    assert heads == [None, {"redriven": "out of order"}]


async def test_a_change_from_block_to_continue_lets_the_held_keys_go_on(kit: Kit) -> None:
    source = await keyed(kit, orders(*"aaa"))
    into = await kit.topic("bills", Bill, partitions=1, key="customer")

    def strict(order: Order) -> Bill:
        if order.id == 0:
            raise ValueError("broken")
        return bill(order)

    await (await kit.handler(strict, source, into, retry=Retry(1), given_up="block")).run()
    assert await kit.events(into) == []
    await (await kit.handler(strict, source, into, retry=Retry(1))).run()
    assert [b.id for b in await kit.events(into)] == [1, 2]


async def test_a_redrive_needs_no_quiet_moment(kit: Kit) -> None:
    source = await keyed(kit, orders("a"))
    broken, seen = {0}, list[int]()

    async def busy(order: Order) -> None:
        seen.append(order.id)
        if order.id in broken:
            raise Reject("not yet")
        kit.clock.pass_s(0.2)
        if order.id and len(seen) < 100:  # there is always one more
            await kit.publish(source, [Order(order.id + 1, "b", 0)])

    await (await kit.handler(busy, source)).run()
    broken.clear()
    await kit.publish(source, [Order(1, "b", 0)])
    await command(kit, "busy", Command("redrive", 0, 0, msgspec.json.encode(orders("a")[0]), b"a"))
    await (await kit.handler(busy, source)).run()
    assert seen.index(0, 1) < 20


async def test_under_block_a_result_that_cannot_be_published_holds_its_key(kit: Kit) -> None:
    source = await keyed(kit, orders(*"abab"))
    into = await kit.topic("bills", Bill, partitions=1, key="customer")

    def wrong(order: Order) -> Any:
        return bill(order) if order.id else "not a bill"

    await (await kit.handler(wrong, source, into, given_up="block")).run()
    (letter,) = await kit.letters("wrong")
    assert (letter.offset, letter.error, letter.holds) == (0, "OutputRefused", True)
    assert [b.id for b in await kit.events(into)] == [1, 3]


# -- bounds ------------------------------------------------------------------------------------------------------------


async def test_a_dead_target_parks_no_more_keys_than_the_breaker_and_charges_nobody(kit: Kit) -> None:
    source = await keyed(kit, [Order(n, f"c{n % 50}", n) for n in range(200)])
    into = await kit.topic("bills", Bill, partitions=1, key="customer")
    most, calls = 0, 0

    def post(order: Order) -> Bill:
        nonlocal most, calls
        calls += 1
        most = max(most, group.state.gauge.keys)
        if kit.clock.monotonic_s() < 3600:
            raise ConnectionError("down")
        return bill(order)

    group = await kit.handler(post, source, into, retry=Retry(3, first_s=1), on_failure=OnFailure(breaker=10))
    await group.run()
    assert most <= 11
    assert calls < 200 + 200
    assert await kit.letters("post") == []
    found: dict[str, list[int]] = defaultdict(list)
    for made in await kit.events(into):
        found[made.customer].append(made.id)
    assert all(ids == sorted(ids) for ids in found.values())
    assert sum(map(len, found.values())) == 200
    assert kit.clock.monotonic_s() < 3600 + 60, "it goes on soon after the target is back"


async def test_a_full_lot_pauses_the_partition_and_loses_nothing(kit: Kit) -> None:
    source = await keyed(kit, [Order(n, f"c{n % 20}", n) for n in range(100)])
    into = await kit.topic("bills", Bill, partitions=1, key="customer")
    most = 0

    def slow(order: Order, ctx: Context) -> Bill:
        nonlocal most
        most = max(most, group.state.gauge.keys)
        if ctx.attempt == 1 and order.id < 20:
            raise ValueError("once")
        return bill(order)

    parking = OnFailure(keys_max=5, events_max=7)
    group = await kit.handler(slow, source, into, retry=Retry(2, first_s=1), on_failure=parking)
    await group.run()
    assert most <= 6
    ids: dict[str, list[int]] = defaultdict(list)
    for made in await kit.events(into):
        ids[made.customer].append(made.id)
    assert sorted(i for of in ids.values() for i in of) == list(range(100))
    assert all(of == sorted(of) for of in ids.values())


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("given_up", ["continue", "block"])
async def test_when_all_that_waited_for_a_dead_target_is_given_up_the_partition_goes_on(
    kit: Kit, given_up: str, concurrency: int
) -> None:
    source = await keyed(kit, [Order(n, f"c{n}", n) for n in range(10)])
    calls: list[int] = []

    async def post(order: Order, ctx: Context) -> None:
        calls.append(order.id)
        if order.id < 3:
            raise ConnectionError("down") if ctx.attempt == 1 else PermanentError("no such account")

    options: dict[str, Any] = {"given_up": given_up, "concurrency": concurrency, "on_failure": OnFailure(breaker=3)}
    group = await kit.handler(post, source, retry=Retry(3, first_s=1), **options)
    kit.clock.sleep = stops_after(group, kit, 300)  # type: ignore[method-assign]
    await group.run()
    assert sorted(set(calls)) == list(range(10))
    assert (group.state.events, group.state.dead, group.state.gauge.paused) == (10, 3, "")


@pytest.mark.parametrize("error", [ValueError, ConnectionError])
async def test_a_take_over_pauses_for_a_dead_target_alone_and_charges_nobody_for_it(
    kit: Kit, error: type[Exception]
) -> None:
    """Keys that failed by themselves and wait long are no reason to pause."""
    source = await keyed(kit, [Order(n, f"c{n}", n) for n in range(20)])
    calls: list[tuple[int, float]] = []

    def post(order: Order) -> None:
        calls.append((order.id, kit.clock.monotonic_s()))
        if len(calls) == 20:
            group.stop()
        raise error("no")

    policy: dict[str, Any] = {"retry": Retry(schedule=(600, 600)), "on_failure": OnFailure(breaker=20)}
    group = await kit.handler(post, source, ended=None, **policy)
    await group.run()
    assert len(calls) == 20
    await kit.publish(source, [Order(100, "good", 1)])
    kit.clock.pass_s(0 if error is ValueError else 700)  # due, and the target is still down
    group = await kit.handler(post, source, **policy)
    kit.clock.sleep = stops_after(group, kit, 5)  # type: ignore[method-assign]
    await group.run()
    assert (100 in [number for number, _ in calls]) == (error is ValueError)
    rows = [(key, value) for (space, key), value in ledger(kit, "post").items() if space == SPACE]
    assert [head.attempts for head, _ in heads_of(rows)] == [1] * (21 if error is ValueError else 20)


@pytest.mark.parametrize("action", ["skip", "redrive"])
async def test_a_command_about_a_letter_that_holds_nobody_does_not_shut_out_those_that_make_room(
    kit: Kit, action: Any
) -> None:
    source = await keyed(kit, orders(*"abcd"))
    into = await kit.topic("bills", Bill, partitions=1, key="customer")
    broken = {1, 2}

    def strict(order: Order) -> Bill:
        if order.id == 0 and broken:
            raise Reject("not yet")
        if order.id in broken:
            raise ValueError("broken")
        return bill(order)

    async def run() -> None:
        options: dict[str, Any] = {"retry": Retry(1), "given_up": "block", "on_failure": OnFailure(keys_max=2)}
        group = await kit.handler(strict, source, into, **options)
        kit.clock.sleep = stops_after(group, kit, 100)  # type: ignore[method-assign]
        await group.run()

    await run()
    letters = await kit.letters("strict")
    assert [(letter.offset, letter.holds) for letter in letters] == [(0, False), (1, True), (2, True)]
    broken.clear()
    for number, one in enumerate(letters):
        said = action if number == 0 else "redrive"
        await command(kit, "strict", Command(said, number, one.offset, one.body, one.key, one.id))
    await run()
    assert sorted(b.id for b in await kit.events(into)) == ([1, 2, 3] if action == "skip" else [0, 1, 2, 3])
    assert sum(space == "letters" for space, _ in ledger(kit, "strict")) == 3


@pytest.mark.parametrize(
    "result", [bytes(3_000), NewEvent(data=b"", headers={"scan": "x" * 3_000})], ids=["data", "headers"]
)
async def test_results_of_a_run_past_the_limit_are_handled_in_several_steps(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, result: Any
) -> None:
    monkeypatch.setattr("penstock.engine.results.RUN_BYTES_MAX", 10_000)
    source = await keyed(kit, orders(*"abcdefghij" * 10))
    into = await kit.topic("out")
    calls: list[int] = []

    def large(order: Order) -> Any:
        calls.append(order.id)
        return result

    group = await kit.handler(large, source, into)
    await group.run()
    assert (group.state.events, len(await kit.events(into))) == (100, 100)
    assert len(calls) > 100, "what was let go was handled again"


async def test_one_event_that_gives_too_much_is_a_dead_letter_alone(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    assert EVENT_RESULTS_BYTES_MAX > 100_000_000
    monkeypatch.setattr("penstock.engine.results.RUN_BYTES_MAX", 10_000)
    monkeypatch.setattr("penstock.engine.results.EVENT_RESULTS_BYTES_MAX", 20_000)
    source = await keyed(kit, orders(*"abc"))
    into = await kit.topic("out")

    def many(order: Order) -> list[bytes]:
        return [bytes(1_000)] * (30 if order.id == 1 else 3)

    group = await kit.handler(many, source, into)
    await group.run()
    (letter,) = await kit.letters("many")
    assert (letter.offset, letter.error) == (1, "OutputRefused")
    assert "return fewer" in letter.reason
    assert len(await kit.events(into)) == 6


# -- across owners -----------------------------------------------------------------------------------------------------


async def test_what_is_parked_outlives_its_owner(kit: Kit) -> None:
    source = await keyed(kit, orders(*"ababab"))
    into = await kit.topic("bills", Bill, partitions=1, key="customer")
    down = True

    def wait(order: Order) -> Bill:
        if down and order.customer == "a":
            raise ValueError("down")
        return bill(order)

    first = await kit.handler(wait, source, into, retry=Retry(100, first_s=1000), ended=None)
    kit.clock.sleep = stops_after(first, kit, 3)  # type: ignore[method-assign]
    await first.run()
    (head,) = heads_of([(k, v) for (space, k), v in ledger(kit, "wait").items() if space == SPACE])
    assert (head[0].key, head[0].offset, head[0].attempts, head[1]) == (b"a", 0, 1, 2)
    down = False
    await kit.publish(source, [Order(6, "a", 6), Order(7, "b", 7)])
    kit.clock.pass_s(2000)
    await (await kit.handler(wait, source, into, retry=Retry(100, first_s=1000))).run()
    made = [b.id for b in await kit.events(into)]
    assert [i for i in made if i % 2 == 0] == [0, 2, 4, 6]
    assert [i for i in made if i % 2] == [1, 3, 5, 7]


def stops_after(group: Group, kit: Kit, sleeps: int) -> Any:
    real, left = kit.clock.sleep, sleeps

    async def sleep(seconds: float) -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            group.stop()
        await real(seconds)

    return sleep


async def lives(kit: Kit, source: TypedTopic[Any], handler: Any, *, deaths: int) -> None:
    """So many lives of the handler end with a SystemExit, which stands for a death; the next one goes to its end."""
    words = bytearray(32)
    for life in range(deaths + 1):
        group = await kit.handler(handler, source, retry=Retry(3, first_s=1), slots=lambda *_: MemorySlot(words))
        with pytest.raises(SystemExit) if life < deaths else nullcontext():
            await group.run()


async def test_a_death_while_a_parked_event_is_tried_again_is_charged_to_it(kit: Kit) -> None:
    source = await keyed(kit, orders(*"aab"))
    calls: list[int] = []

    def fatal(order: Order, ctx: Context) -> None:
        calls.append(order.id)
        if order.id == 0 and ctx.attempt == 1:
            raise ValueError("first")
        if order.id == 0:
            raise SystemExit

    await lives(kit, source, fatal, deaths=2)
    (letter,) = await kit.letters("fatal")
    assert (letter.offset, letter.error, letter.attempts) == (0, "ProcessDied", 3)
    assert calls == [0, 2, 0, 0, 1]


async def test_a_death_at_an_event_that_waited_behind_a_parked_one_is_charged_to_it(kit: Kit) -> None:
    source = await keyed(kit, orders(*"aaab"))
    calls: list[tuple[int, int]] = []

    def fatal(order: Order, ctx: Context) -> None:
        calls.append((order.id, ctx.attempt))
        if order.id == 0 and calls.count((0, 1)) == 1 and ctx.attempt == 1:
            raise ValueError("once")
        if order.id == 1:
            raise SystemExit

    await lives(kit, source, fatal, deaths=3)
    (letter,) = await kit.letters("fatal")
    assert (letter.offset, letter.error, letter.attempts) == (1, "ProcessDied", 3)
    assert [one for one in calls if one[0] != 0] == [(3, 1), (1, 1), (1, 2), (1, 3), (2, 1)]


async def test_what_waits_behind_a_parked_event_is_handled_with_it_up_to_one_that_fails(kit: Kit) -> None:
    source = await keyed(kit, orders(*"aaaabbbb"))
    into = await kit.topic("bills", Bill, partitions=1, key="customer")
    calls: list[tuple[int, int]] = []

    def shaky(order: Order, ctx: Context) -> Bill:
        calls.append((order.id, ctx.attempt))
        if order.id in (0, 2, 4) and ctx.attempt == 1:
            raise ValueError("once")
        if order.id == 6:
            raise Reject("not this one")
        return bill(order)

    group = await kit.handler(shaky, source, into=into, retry=Retry(3, first_s=1))
    await group.run()
    at = calls.index
    assert sorted(calls) == sorted([(n, 1) for n in range(8)] + [(0, 2), (2, 2), (4, 2)]), "each attempt once"
    assert at((0, 2)) < at((1, 1)) < at((2, 1)) < at((2, 2)) < at((3, 1))
    assert at((4, 2)) < at((5, 1)) < at((6, 1)) < at((7, 1))
    found = [event.id for event in await kit.events(into)]
    assert [n for n in found if n < 4] == [0, 1, 2, 3]
    assert [n for n in found if n >= 4] == [4, 5, 7]
    assert [letter.offset for letter in await kit.letters("shaky")] == [6]
    assert (group.state.events, group.state.dead) == (8, 1)


async def test_what_is_read_for_parked_events_is_bounded(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys whose events lie far apart: the batch that holds each of them is read, and kept until the step."""
    monkeypatch.setattr("penstock.engine.place.READ_BYTES_MAX", 2_000)
    monkeypatch.setattr("penstock.engine.place.KEPT_BYTES_MAX", 1)
    monkeypatch.setattr("penstock.engine.handling.STEP_BYTES_MAX", 2_000)
    source = await keyed(kit, [])
    for start in range(0, 6_000, 20):
        await kit.publish(source, [Order(n, f"c{n % 20 or n}", n) for n in range(start, start + 20)])
    largest, calls = 0, list[tuple[int, int]]()
    draft = Made.draft

    def weighed(made: Made, after: int | None, *, oldest: int | None) -> Any:
        nonlocal largest
        if after is None:
            largest = max(largest, sum(len(d.payload.body) for d in {id(d): d for d in made.inputs}.values()))  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType]
        return draft(made, after, oldest=oldest)

    def shaky(order: Order, ctx: Context) -> None:
        calls.append((order.id, ctx.attempt))
        if order.id % 20 == 0 and ctx.attempt == 1:
            raise ValueError("once")

    monkeypatch.setattr(Made, "draft", weighed)
    group = await kit.handler(shaky, source, retry=Retry(2, first_s=1_000))
    await group.run()
    assert sorted(calls) == sorted([(n, 1) for n in range(6_000)] + [(n, 2) for n in range(0, 6_000, 20)])
    assert group.state.events == 6_000
    assert 0 < largest < 6_000


@pytest.mark.parametrize("slow_s", [0.0, 10.0])
async def test_many_that_fail_again_together_do_not_hold_up_a_stop_or_a_step(kit: Kit, slow_s: float) -> None:
    """A call may take as long as its time-out: hundreds of them in one step would be lost with the process."""
    source = await keyed(kit, [Order(n, f"c{n}", n) for n in range(500)])
    again = 0

    def shaky(order: Order, ctx: Context) -> None:
        nonlocal again
        if ctx.attempt == 2:
            again += 1
            kit.clock.pass_s(slow_s)
            if not slow_s or again == 20:
                group.stop()
        raise ValueError("no")

    group = await kit.handler(shaky, source, retry=Retry(3, first_s=1), ended=None)
    await group.run()
    assert again == (20 if slow_s else 1)
    assert group.state.steps >= again
    rows = [(key, value) for (space, key), value in ledger(kit, "shaky").items() if space == SPACE]
    assert sum(head.attempts for head, _ in heads_of(rows)) == 500 + again


async def test_what_a_handler_raised_is_gone_when_it_is_dealt_with(kit: Kit) -> None:
    """An error's traceback leads to every event of its call: kept until the collector comes, that is the memory."""
    source = await keyed(kit, orders(*"abcdefgh" * 4))
    raised: list[weakref.ref[BaseException]] = []

    class Kept(ValueError):
        def __init__(self) -> None:
            super().__init__("again")
            raised.append(weakref.ref(self))

    def flaky(order: Order, ctx: Context) -> None:
        if ctx.attempt < 3:
            raise Kept

    gc.collect()
    gc.disable()
    try:
        await (await kit.handler(flaky, source, retry=Retry(3, first_s=1))).run()
        alive = sum(one() is not None for one in raised)
    finally:
        gc.enable()
    assert (len(raised), alive) == (64, 0)


# -- a model -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(30))
@pytest.mark.parametrize("given_up", ["continue", "block"])
async def test_any_pattern_of_failures_keeps_each_keys_order(kit: Kit, number: int, given_up: str) -> None:
    dice = random.Random(number)
    keys, count = dice.choice([1, 3, 20]), 400
    fails = {n: dice.choice([1, 1, 2, 5]) for n in range(count) if dice.random() < dice.choice([0.01, 0.1, 0.5])}
    source = await keyed(kit, [])
    into = await kit.topic("bills", Bill, partitions=1, key="customer")
    tries: dict[int, int] = defaultdict(int)

    def shaky(order: Order) -> Bill:
        tries[order.id] += 1
        if tries[order.id] <= fails.get(order.id, 0):
            raise ValueError("again")
        return bill(order)

    parking = OnFailure(keys_max=dice.choice([2, 1000]), events_max=dice.choice([10, 1000]))
    options: dict[str, Any] = {"retry": Retry(3, first_s=0.5), "on_failure": parking, "given_up": given_up}
    sent = 0
    for size in _sizes(count, dice):
        await kit.publish(source, [Order(n, f"c{dice.randrange(keys)}", n) for n in range(sent, sent + size)])
        sent += size
        if given_up == "continue":
            await (await kit.handler(shaky, source, into, **options)).run()
    if given_up == "block":  # every letter is redriven until its event is handled
        for _ in range(count):
            group = await kit.handler(shaky, source, into, **options, ended=lambda: True)
            stop = _stops_when_held(group, kit)
            await group.run()
            kit.clock.sleep = stop  # type: ignore[method-assign]
            done = {int.from_bytes(k) for (space, k), _ in ledger(kit, "shaky").items() if space == "letters"}
            open_ = [(n, letter) for n, letter in enumerate(await kit.letters("shaky")) if n not in done]
            if not open_ and not group.state.gauge.paused:
                break
            for n, letter in open_:
                made = Command("redrive", n, letter.offset, letter.body, letter.key, letter.id, letter.again + 1)
                await command(kit, "shaky", made)
    made_by: dict[str, list[int]] = defaultdict(list)
    for one in await kit.events(into):
        made_by[one.customer].append(one.id)
    given = {letter.offset for letter in await kit.letters("shaky")} if given_up == "continue" else set()
    assert sorted(i for of in made_by.values() for i in of) == [n for n in range(count) if n not in given]
    assert all(of == sorted(of) for of in made_by.values())
    assert kit.channel.memory.progress("shaky")[0].oldest is None


def _sizes(count: int, dice: random.Random) -> Iterator[int]:
    while count:
        size = min(count, dice.randrange(1, 200))
        count -= size
        yield size


def _stops_when_held(group: Group, kit: Kit) -> Any:
    """A full lot of held keys pauses the partition for ever: somebody stops the group, and redrives."""
    real = kit.clock.sleep

    async def sleep(seconds: float) -> None:
        if group.state.gauge.paused and kit.clock.monotonic_s() % 7 > 6:
            group.stop()
        await real(seconds)

    kit.clock.sleep = sleep  # type: ignore[method-assign]
    return real
