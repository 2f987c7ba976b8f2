"""A run of calls goes on behind events that fail: what comes of them is what would, had it ended with each."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest

from penstock.channel.typed import TypedTopic
from penstock.delivery.lot import GivenUp, Lot, OnFailure
from penstock.delivery.retry import Retry
from penstock.engine.calling import call_sync
from penstock.engine.context import Context
from penstock.engine.group import Group
from penstock.errors import Reject
from tests.unit.engine.engine_kit import Bill, Kit, Order


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry per run of calls."""
    found: list[str] = []

    def counted(*args: Any) -> Any:
        found.append("run")
        return call_sync(*args)

    monkeypatch.setattr("penstock.engine.handler.call_sync", counted)
    return found


async def keyed(kit: Kit, *customers: str) -> TypedTopic[Any]:
    source = await kit.topic("orders", Order, partitions=1, key="customer")
    await kit.publish(source, [Order(number, customer, number) for number, customer in enumerate(customers)])
    return source


def bill(order: Order) -> Bill:
    return Bill(order.id, order.customer, float(order.amount))


async def warm(kit: Kit, source: TypedTopic[Any], work: Callable[..., Any], **options: Any) -> None:
    """A group whose runs are as long as its batches: the first ones are short, until it is known how quick it is."""
    group = await kit.handler(work, source, **options)
    group._work._size = 1_000  # type: ignore[attr-defined]
    await group.run()


async def test_what_fails_of_one_part_is_one_run_and_is_tried_again_in_another(kit: Kit, runs: list[str]) -> None:
    source = await keyed(kit, *(f"c{n}" for n in range(200)))

    def flaky(order: Order, ctx: Context) -> None:
        if order.id % 10 == 0 and ctx.attempt == 1:
            raise ValueError("once")

    await warm(kit, source, flaky, retry=Retry(2, first_s=1))
    assert len(runs) == 2


@pytest.mark.parametrize("first", [0, 4], ids=["nobody-waits-yet", "somebody-waits-already"])
async def test_later_events_of_its_key_wait_in_the_same_run(kit: Kit, first: int) -> None:
    """Whether or not anybody was looked for before: key c waits from its event in the middle on."""
    source = await keyed(kit, *"abcabcabc")
    into = await kit.topic("bills", Bill, partitions=1, key="customer")
    calls: list[tuple[int, int]] = []

    def flaky(order: Order, ctx: Context) -> Bill:
        calls.append((order.id, ctx.attempt))
        if order.id in (first, 5) and ctx.attempt == 1:
            raise ValueError("once")
        return bill(order)

    await warm(kit, source, flaky, into=into, retry=Retry(2, first_s=1))
    made: dict[str, list[int]] = defaultdict(list)
    for one in await kit.events(into):
        made[one.customer].append(one.id)
    assert made == {"a": [0, 3, 6], "b": [1, 4, 7], "c": [2, 5, 8]}
    assert calls.index((8, 1)) > calls.index((5, 2))
    assert calls.index((7, 1)) < calls.index((5, 2)) or first == 4


async def test_the_run_ends_where_the_lot_is_full(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    source = await keyed(kit, *(f"c{n}" for n in range(50)))
    most = 0
    real = Lot.park

    def park(self: Lot, *args: Any) -> None:
        nonlocal most
        real(self, *args)
        most = max(most, len(self.heads))

    monkeypatch.setattr(Lot, "park", park)

    def flaky(order: Order, ctx: Context) -> None:
        if ctx.attempt == 1:
            raise ValueError("once")

    await warm(kit, source, flaky, retry=Retry(2, first_s=1), on_failure=OnFailure(keys_max=5))
    assert most == 5


async def test_a_target_that_fails_ends_the_run_and_is_counted(kit: Kit) -> None:
    source = await keyed(kit, *(f"c{n}" for n in range(50)))
    down: list[int] = []

    def send(order: Order) -> None:
        if kit.clock.monotonic_s() < 60:
            down.append(order.id)
            raise ConnectionError("down")

    await warm(kit, source, send, retry=Retry(5, first_s=1), on_failure=OnFailure(breaker=3))
    assert set(down) == {0, 1, 2}


async def test_order_partition_ends_the_run(kit: Kit) -> None:
    source = await keyed(kit, *(f"c{n}" for n in range(6)))
    calls: list[int] = []

    def flaky(order: Order, ctx: Context) -> None:
        calls.append(order.id)
        if order.id % 2 == 1 and ctx.attempt == 1:
            raise ValueError("once")

    await warm(kit, source, flaky, retry=Retry(2, first_s=1), order="partition")
    assert calls == [0, 1, 1, 2, 3, 3, 4, 5, 5]


async def test_a_failed_event_leaves_its_token_to_the_next_one_of_the_run(kit: Kit, runs: list[str]) -> None:
    source = await keyed(kit, "a", "b", "c")
    into = await kit.topic("bills", Bill, partitions=1, key="customer")
    said: list[bool] = []

    def work(order: Order, ctx: Context) -> Bill | None:
        said.append(ctx.once("t"))
        if order.id == 0 and ctx.attempt == 1:
            raise ValueError("once")
        return bill(order) if said[-1] else None

    await warm(kit, source, work, into=into, retry=Retry(2, first_s=1))
    assert (said, len(runs)) == ([True, True, False, False], 2)
    assert [one.id for one in await kit.events(into)] == [1]


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("given_up", ["continue", "block"])
async def test_what_fails_behind_results_that_are_let_go_is_called_again_for_the_first_time(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, given_up: GivenUp, times: int
) -> None:
    """The run is cut for its results' sake: an event behind the cut has not been handled, nor has it failed."""
    monkeypatch.setattr("penstock.engine.results.RUN_BYTES_MAX", 200)
    source = await keyed(kit, *"abcdefghij", *"aijij")  # a waits first, and the others are looked for
    into = await kit.topic("bills", Bill, partitions=1, key="customer")
    calls: dict[int, int] = defaultdict(int)

    def work(order: Order) -> Bill:
        calls[order.id] += 1
        if calls[order.id] <= {0: 1, 8: times, 9: times}.get(order.id, 0):
            raise ValueError("again")
        return bill(order)

    await warm(kit, source, work, into=into, retry=Retry(2, first_s=1), given_up=given_up)
    assert await kit.letters("work") == []
    made: dict[str, list[int]] = defaultdict(list)
    for one in await kit.events(into):
        made[one.customer].append(one.id)
    assert (made["i"], made["j"]) == ([8, 11, 13], [9, 12, 14])
    assert sorted(one.id for one in await kit.events(into)) == [*range(15)]


async def test_given_up_behind_a_cut_is_one_letter(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.engine.results.RUN_BYTES_MAX", 200)
    source = await keyed(kit, *"abcdefghij")
    into = await kit.topic("bills", Bill, partitions=1, key="customer")

    def work(order: Order) -> Bill:
        if order.id == 8:
            raise ValueError("no")
        return bill(order)

    await warm(kit, source, work, into=into, retry=Retry(1))
    assert [letter.offset for letter in await kit.letters("work")] == [8]
    assert len(await kit.events(into)) == 9


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_a_handler_that_changes_an_events_key_changes_nobodys_order(kit: Kit, concurrency: int) -> None:
    """Keys are looked at when something fails: by then the handler has had the event in its hands."""
    source = await keyed(kit, *"abacaba")
    calls: list[tuple[int, int]] = []

    async def shouting(order: Order, ctx: Context) -> None:
        calls.append((order.id, ctx.attempt))
        order.customer = order.customer.upper()
        if order.id in (0, 3) and ctx.attempt == 1:
            raise ValueError("once")

    await warm(kit, source, shouting, retry=Retry(2, first_s=1), concurrency=concurrency)
    assert [call for call in calls if call[0] in (0, 2, 4, 6)] == [(0, 1), (0, 2), (2, 1), (4, 1), (6, 1)]


@pytest.mark.parametrize("number", range(40))
async def test_whatever_fails_wherever_runs_end(kit: Kit, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Small runs, parts and steps; a member is stopped, or loses its partition: nothing is lost, or out of order."""
    dice = random.Random(number)
    for name, choices in {
        "results.RUN_BYTES_MAX": (150, 10**7),
        "handling.STEP_BYTES_MAX": (100, 10**7),
        "parts.PART_ROWS": (7, 50, 1_000),
        "place.KEPT_BYTES_MAX": (1, 10**7),
        "place.READ_BYTES_MAX": (500, 10**7),
        "group.EVENTS_MAX": (40, 50_000),
    }.items():
        monkeypatch.setattr(f"penstock.engine.{name}", dice.choice(choices))
    kinds = dice.sample(["fails", "down", "reject", "slow", "stop", "seize"], 3)
    does = [[dice.choice(kinds) if dice.random() < 0.2 else "" for _ in range(3)] for _ in range(200)]
    source = await keyed(kit, *(f"c{dice.randrange(20)}" for _ in does))
    into = await kit.topic("bills", Bill, partitions=1, key="customer")
    policy = OnFailure(keys_max=dice.choice([1, 5, 1_000]), breaker=dice.choice([1, 20]))
    group: Group | None = None

    def work(order: Order, ctx: Context) -> Bill:
        match does[order.id][ctx.attempt - 1]:
            case "fails":
                raise ValueError("fails")
            case "down" if dice.random() < 0.7:
                raise ConnectionError("down")
            case "reject":
                raise Reject("no")
            case "slow":
                kit.clock.pass_s(dice.choice([0.01, 0.3, 2]))
            case "stop" if group is not None and dice.random() < 0.3:
                group.stop()
            case "seize" if dice.random() < 0.05:
                kit.channel.seize("work")
            case _:
                pass
        return bill(order)

    settled = 0
    while group is None or group.stopping():
        group = await kit.handler(work, source, into, retry=Retry(3, first_s=0.1), on_failure=policy)
        group._work._size = dice.choice([1, 1_000])  # type: ignore[attr-defined]
        await group.run()
        settled += group.state.events
    made: dict[str, list[int]] = defaultdict(list)
    for one in await kit.events(into):
        made[one.customer].append(one.id)
    given = [letter.offset for letter in await kit.letters("work")]
    assert sorted([*given, *(number for numbers in made.values() for number in numbers)]) == [*range(200)]
    assert settled == 200
    assert all(numbers == sorted(numbers) for numbers in made.values())
    assert kit.channel.memory.progress("work")[0].oldest is None


class Unspeakable(Exception):
    """Its notes cannot be read, nor its cause."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("__notes__", "__cause__", "__traceback__"):
            raise RuntimeError(name)
        return super().__getattribute__(name)


class Text(str):
    __slots__ = ()

    def __getitem__(self, key: Any) -> Any:
        return 5


class OddText(Exception):
    def __str__(self) -> str:
        return Text("odd")


PLACE: Any = [("f", "a", "b", 5)]
"""No place of a syntax error: its line's text is a number."""


@pytest.mark.parametrize(
    ("error", "name", "reason"),
    [
        (ValueError("a file named \udcff"), "ValueError", "a file named \\udcff"),
        (Unspeakable("x"), "Unspeakable", "x"),
        (OddText(), "OddText", "odd"),
        (SyntaxError("m", *PLACE), "SyntaxError", "m (f)"),
        (type("L" * 1_000, (Exception,), {})("x"), "L" * 200, "x"),
    ],
    ids=["half-a-surrogate", "no-notes", "text-of-its-own", "no-syntax", "long-name"],
)
async def test_no_error_is_too_odd_to_be_told_of(kit: Kit, error: Exception, name: str, reason: str) -> None:
    source = await keyed(kit, *"abc")

    def odd(order: Order) -> None:
        if order.id == 1:
            raise error

    group = await kit.handler(odd, source, retry=Retry(2, first_s=0))
    await group.run()
    (letter,) = await kit.letters("odd")
    assert (letter.error, letter.reason, len(letter.tries)) == (name, reason, 2)
    assert "in odd" in letter.stack
    assert group.state.events == 3
