"""What handlers give may be large: no step is larger than the log takes at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from penstock.channel.rules import bytes_of
from penstock.delivery.retry import Retry
from penstock.engine.context import Context
from penstock.engine.results import Made
from tests.unit.engine.engine_kit import Kit, Order

STEP, RUN, EVENT = 100, 1_000, 3_000
LARGE = b"x" * 100


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each step's results."""
    found: list[int] = []
    draft = Made.draft

    def weighed(made: Made, after: int | None, *, oldest: int | None) -> Any:
        drawn = draft(made, after, oldest=oldest)
        found.append(sum(bytes_of(batch) for batch in drawn.outputs if batch.topic == "bills"))
        return drawn

    monkeypatch.setattr(Made, "draft", weighed)
    monkeypatch.setattr("penstock.engine.handling.STEP_BYTES_MAX", STEP)
    monkeypatch.setattr("penstock.engine.results.RUN_BYTES_MAX", RUN)
    monkeypatch.setattr("penstock.engine.results.EVENT_RESULTS_BYTES_MAX", EVENT)
    return found


async def handle(kit: Kit, work: Any, count: int, *, size: int) -> int:
    """Handle so many events, `size` of them in a run if nothing is in the way; how many results there are."""
    source = await kit.topic("orders", Order, partitions=1, key="customer")
    results = await kit.topic("bills", None, partitions=1)
    await kit.publish(source, [Order(n, f"c{n}", n) for n in range(count)])
    group = await kit.handler(work, source, results, retry=Retry(4, first_s=0.1))
    group._work._size = size  # type: ignore[attr-defined]
    await group.run()
    return len(await kit.events(results))


async def test_many_runs_are_not_one_step(kit: Kit, steps: list[int]) -> None:
    """The first events said nothing of what the others give, so that a slice has far more of them than a step holds."""

    def grows(order: Order) -> bytes | None:
        return LARGE if order.id >= 100 else None

    assert await handle(kit, grows, 200, size=200) == 100
    assert max(steps) < STEP + RUN + 2 * len(LARGE)


async def test_an_event_that_gives_more_than_the_step_has_room_for_begins_the_next_one(
    kit: Kit, steps: list[int]
) -> None:
    def gives(order: Order) -> list[bytes] | None:
        return [LARGE] * {0: 9, 1: 31, 2: 1}[order.id]

    assert await handle(kit, gives, 3, size=3) == 10
    assert [letter.offset for letter in await kit.letters("gives")] == [1]
    assert max(steps) < STEP + RUN + EVENT


async def test_parked_events_that_fail_again_in_turns_are_not_one_step(kit: Kit, steps: list[int]) -> None:
    """Each failure ends a run, and each run is small enough."""

    def again(order: Order, ctx: Context) -> list[bytes]:
        if ctx.attempt == 1 or (order.id % 2 and ctx.attempt == 2):
            raise ValueError("again")
        return [LARGE] * 8

    assert await handle(kit, again, 20, size=20) == 160
    assert max(steps) < STEP + 2 * RUN


async def test_parked_and_new_events_are_not_one_step_when_each_are_enough(kit: Kit, steps: list[int]) -> None:
    def both(order: Order, ctx: Context) -> list[bytes] | None:
        if order.id == 0 and ctx.attempt == 1:
            raise ValueError("once")
        if order.id == 999:
            kit.clock.pass_s(0.2)
        return [LARGE] * 9 if order.id in (0, 1_000) else None

    assert await handle(kit, both, 1_001, size=1_000) == 18
    assert max(steps) < STEP + RUN


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("result", [LARGE, b"", object()], ids=["large", "empty", "refused"])
async def test_results_without_end_are_a_dead_letter(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, result: object, concurrency: int
) -> None:
    """They were taken on until the memory was full; the test ends when the bound does its work."""
    monkeypatch.setattr("penstock.engine.calling.EVENT_RESULTS_BYTES_MAX", 100_000)
    source = await kit.topic("orders", Order, partitions=1, key="customer")
    results = await kit.topic("bills", None, partitions=1)
    await kit.publish(source, [Order(n, "ann", n) for n in range(3)])
    given = 0

    async def work(order: Order) -> Any:
        def without_end() -> Iterator[object]:
            nonlocal given
            while given < 10_000:
                given += 1
                yield result

        return without_end() if order.id == 1 else LARGE

    await (await kit.handler(work, source, results, retry=Retry(4), concurrency=concurrency)).run()
    (letter,) = await kit.letters("work")
    assert (letter.offset, letter.error, letter.attempts) == (1, "OutputRefused", 1)
    assert "return fewer" in letter.reason
    assert len(await kit.events(results)) == 2
    assert given < 2_000
