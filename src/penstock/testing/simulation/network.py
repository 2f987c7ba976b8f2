"""What lies between the processes and the channel: counts calls, says which fault strikes, carries requests."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar

from penstock.system.chance import Random
from penstock.testing.simulation.history import Entry, History, Note
from penstock.testing.simulation.loop import SimLoop
from penstock.testing.simulation.system import sleep
from penstock.testing.simulation.tape import KINDS, Fault, Tape

T = TypeVar("T")

NOTHING: dict[str, Fault] = {name: Fault(name, -1, "delay_before", 0.0) for name in KINDS}


class Network:
    """One per world. `changed` is called after each note."""

    def __init__(self, loop: SimLoop, chance: Random, tape: Tape, *, changed: Callable[[], None]) -> None:
        self.history = History()
        self.late = 0
        self.struck: list[Fault] = []
        self.calls: Counter[str] = Counter()
        self._loop = loop
        self._chance = chance
        self._changed = changed
        self._faults = {(fault.operation, fault.nth): fault for fault in tape}
        self._outside = Context()
        self._requests: list[Coroutine[Any, Any, object]] = []

    def strike(self, operation: str, process: str) -> Fault:
        """The fault that strikes this call; one that does nothing when there is none."""
        nth = self.calls[operation]
        self.calls[operation] += 1
        fault = self._faults.get((operation, nth))
        if fault is None:
            return NOTHING[operation]
        self.struck.append(fault)
        self.note(Note(f"{process} meets {fault}"))
        return fault

    def note(self, entry: Entry) -> None:
        """Add to the history."""
        self.history.add(self._loop.time(), entry)
        self._changed()

    async def send(self, request: Coroutine[Any, Any, T]) -> T:
        """Execute a request outside the process; what becomes of the process does not matter to it."""
        return await asyncio.shield(self._loop.create_task(request, context=self._outside.copy()))

    def later(self, seconds: float, request: Coroutine[Any, Any, object]) -> None:
        """Execute a request after a while; nobody waits for it."""
        self.late += 1
        self._requests.append(request)
        self._loop.create_task(self._after(seconds, request), context=self._outside.copy())

    def close(self) -> None:
        """Drop what is still under way."""
        for request in self._requests:
            request.close()

    async def _after(self, seconds: float, request: Coroutine[Any, Any, object]) -> None:
        try:
            await sleep(self._loop, seconds)
            await request
        finally:
            self.late -= 1
            self._changed()
