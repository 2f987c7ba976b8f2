"""The ports that everything which decides takes time, chance and threads from, and their real side."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

T = TypeVar("T")


class Clock(Protocol):
    """Where time comes from."""

    def now_us(self) -> int:
        """Wall clock, microseconds since 1970 in UTC; may jump either way."""
        ...

    def monotonic_s(self) -> float:
        """Seconds that never go back; only differences mean anything."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`; may be cancelled."""
        ...


class Offload(Protocol):
    """Run blocking work without blocking the engine: a thread in reality, inline in simulation."""

    async def run(self, work: Callable[[], T]) -> T:
        """Return what `work()` returns or raise what it raises. Cancelling does not stop `work`."""
        ...

    def close(self) -> None:
        """Release the threads; running work ends first."""
        ...


@dataclass(frozen=True, slots=True)
class System:
    """One handful of ports, passed to every component that decides something."""

    clock: Clock
    random: random.Random
    offload: Offload

    def new_id(self) -> str:
        """A name of 128 random bits in hex: for producers and logs, never for derived events."""
        return f"{self.random.getrandbits(128):032x}"


class RealClock:
    """The machine's clocks."""

    def now_us(self) -> int:
        """See `Clock`."""
        return time.time_ns() // 1000

    def monotonic_s(self) -> float:
        """See `Clock`."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """See `Clock`."""
        await asyncio.sleep(seconds)


class Threads:
    """A small pool of threads; the bound is the pool's size, callers queue behind it."""

    def __init__(self, *, threads_max: int = 4) -> None:
        self._pool = ThreadPoolExecutor(threads_max, thread_name_prefix="penstock")

    async def run(self, work: Callable[[], T]) -> T:
        """See `Offload`."""

        def guarded() -> T:
            try:
                return work()
            except StopIteration as exc:  # a future cannot carry it: who waits would wait for ever
                msg = "StopIteration: an iterator was at its end"
                raise RuntimeError(msg) from exc

        return await asyncio.get_running_loop().run_in_executor(self._pool, guarded)

    def close(self) -> None:
        """See `Offload`."""
        self._pool.shutdown(wait=True)


def real_system() -> System:
    """The machine's own clock, chance and threads. The caller closes `offload`."""
    return System(clock=RealClock(), random=random.Random(os.urandom(16)), offload=Threads())
