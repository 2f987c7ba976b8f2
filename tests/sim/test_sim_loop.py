"""The loop: virtual time, seeded order, frozen and dead processes, and no hanging."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar

import pytest

from penstock.system.chance import seeded
from penstock.testing.simulation.loop import PROCESS, Lives, SimLoop, Stuck
from penstock.testing.simulation.system import sim_system, sleep

T = TypeVar("T")
DAY_S = 86_400.0


def run(make: Callable[[SimLoop], Coroutine[Any, Any, T]], *, seed: int = 0, steps_max: int = 10_000) -> T:
    loop = SimLoop(seeded(seed), steps_max=steps_max)
    try:
        return loop.run_until_complete(make(loop))
    finally:
        loop.dispose()


def test_time_is_virtual_and_advances_to_the_next_timer() -> None:
    async def main(loop: SimLoop) -> list[float]:
        times = [loop.time()]
        await sleep(loop, DAY_S)
        times.append(loop.time())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await loop.create_future()
        return [*times, loop.time()]

    assert run(main) == [0.0, DAY_S, DAY_S + 5]


def ordering(seed: int) -> list[str]:
    async def main(loop: SimLoop) -> list[str]:
        seen: list[str] = []

        async def one(name: str) -> None:
            for number in range(4):
                seen.append(f"{name}{number}")
                await asyncio.sleep(0)

        await asyncio.gather(*(one(name) for name in "abc"))
        return seen

    return run(main, seed=seed)


def test_the_seed_orders_what_is_ready_and_each_task_keeps_its_own_order() -> None:
    found = [ordering(seed) for seed in range(20)]
    assert found == [ordering(seed) for seed in range(20)]
    assert len({tuple(order) for order in found}) > 10
    for order in found:
        for name in "abc":
            assert [step for step in order if step[0] == name] == [f"{name}{number}" for number in range(4)]


def test_callbacks_of_one_process_run_in_the_order_they_were_scheduled() -> None:
    async def main(loop: SimLoop) -> list[int]:
        seen: list[int] = []
        for number in range(10):
            loop.call_soon(seen.append, number)
        await sleep(loop, 0)
        return seen

    assert [run(main, seed=seed) for seed in range(5)] == [list(range(10))] * 5


def test_a_deadlock_is_found_not_waited_for() -> None:
    async def main(loop: SimLoop) -> None:
        await loop.create_future()

    with pytest.raises(Stuck, match="deadlock"):
        run(main)


def test_a_livelock_ends_at_the_bound() -> None:
    async def main(loop: SimLoop) -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(Stuck, match="livelock"):
        run(main, steps_max=500)


def in_process(loop: SimLoop, work: Coroutine[Any, Any, None]) -> Lives:
    lives = Lives(0, "p")
    context = Context()
    context.run(PROCESS.set, lives)
    loop.create_task(work, context=context)
    return lives


def test_a_frozen_process_goes_on_where_it_was_and_a_dead_one_never_does() -> None:
    async def main(loop: SimLoop) -> list[tuple[float, float]]:
        seen: list[tuple[float, float]] = []
        cleaned: list[str] = []

        async def ticks() -> None:
            try:
                while True:
                    seen.append((loop.time(), len(seen)))
                    await sleep(loop, 1)
            finally:
                cleaned.append("the dead do not clean up")

        lives = in_process(loop, ticks())
        await sleep(loop, 2.5)
        lives.frozen = True
        await sleep(loop, 5)
        loop.thaw(lives)
        await sleep(loop, 1.5)
        lives.dead = True
        await sleep(loop, 10)
        assert cleaned == []
        return seen

    assert run(main) == [(0.0, 0), (1.0, 1), (2.0, 2), (7.5, 3), (8.5, 4)]


def test_offloaded_work_runs_inline_and_later() -> None:
    async def main(loop: SimLoop) -> float:
        system = sim_system(loop, seed=1, name="x")
        done: list[float] = []
        answer = [await system.offload.run(lambda: done.append(loop.time()) or len(done)) for _ in range(20)]
        assert answer == list(range(1, 21))
        assert len(set(done)) > 3
        return loop.time()

    assert run(main) > 0


def test_an_exception_nobody_awaits_is_kept() -> None:
    async def main(loop: SimLoop) -> list[str]:
        loop.call_soon(lambda: 1 // 0)
        await sleep(loop, 0)
        return loop.failures

    assert run(main) == ["ZeroDivisionError: integer division or modulo by zero"]
