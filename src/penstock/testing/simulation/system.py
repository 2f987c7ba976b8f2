"""The simulated side of `penstock.system`: virtual clocks with a skewed wall clock, seeded chance, inline offload."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from penstock.system.chance import Random, seeded
from penstock.system.ports import System
from penstock.testing.simulation.loop import SimLoop

T = TypeVar("T")

START_US = 1_767_225_600_000_000
"""The wall clock at virtual second 0: the first of January 2026, UTC."""

DAY_US = 86_400_000_000
YIELDS_MAX = 3
DELAY_S_MAX = 0.05


class SimClock:
    """Virtual time. The wall clock of each process may jump; the monotonic one never does."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        self.skew_us = 0

    def now_us(self) -> int:
        """See `Clock`."""
        return START_US + self.skew_us + int(self._loop.time() * 1e6)

    def monotonic_s(self) -> float:
        """See `Clock`."""
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        """See `Clock`."""
        await sleep(self._loop, seconds)


async def sleep(loop: SimLoop, seconds: float) -> None:
    """Let virtual time pass."""
    over: asyncio.Future[None] = loop.create_future()
    timer = loop.call_later(max(0.0, seconds), _end, over)
    try:
        await over
    finally:
        timer.cancel()


def _end(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)


class Inline:
    """Offloaded work runs in the loop's thread, at a later point drawn from the seed; its answer may be late."""

    def __init__(self, loop: SimLoop, chance: Random) -> None:
        self._loop = loop
        self._chance = chance

    async def run(self, work: Callable[[], T]) -> T:
        """See `Offload`. The process may be killed before the work, or after it and before the answer."""
        await self._pause()
        result = work()
        await self._pause()
        return result

    async def _pause(self) -> None:
        if self._chance.random() < 0.5:
            await sleep(self._loop, self._chance.random() * DELAY_S_MAX)
        else:
            await sleep(self._loop, 0.0)

    def close(self) -> None:
        """See `Offload`: there is nothing to release."""


def sim_system(loop: SimLoop, *, seed: int, name: str) -> System:
    """A `System` of one simulated process; its clock is a `SimClock`."""
    return System(clock=SimClock(loop), random=seeded(seed, name), offload=Inline(loop, seeded(seed, name, "offload")))
