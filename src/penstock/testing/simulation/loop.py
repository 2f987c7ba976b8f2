"""A deterministic event loop: virtual time, seeded order of what is ready, processes that can be frozen and killed.

No threads, no sockets, no selector. Time advances to the next timer when nothing is ready. What is ready is taken in
an order drawn from the seed, but first in, first out within one *lane*: a task is a lane, and the plain callbacks of a
process are one. Handles belong to the process whose context they were scheduled in.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import events
from bisect import insort
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from heapq import heappop, heappush
from typing import Any, TypeVar

from penstock.system.chance import Random

T = TypeVar("T")

STEPS_MAX = 200_000


class Stuck(Exception):
    """The simulated world cannot go on: a deadlock (nothing will ever happen) or a livelock (too many steps)."""


class Lives:
    """Whether a simulated process runs; its number orders it among others. `parked` is what a frozen one would do."""

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        self.name = name
        self.dead = False
        self.frozen = False
        self.parked: list[_Ready] = []


PROCESS: ContextVar[Lives | None] = ContextVar("PROCESS", default=None)
"""The simulated process that the running code belongs to; None for the world itself."""


class _Ready(asyncio.Handle):
    """A callback that may run now."""

    __slots__ = ("action", "given", "inside", "lane", "lives", "timer")

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: SimLoop,
        context: Context,
        *,
        timer: _Timer | None = None,
    ) -> None:
        super().__init__(callback, args, loop, context)
        self.timer = timer
        self.action = callback
        self.given = args
        self.inside = context
        self.lives = context.get(PROCESS)
        self.lane = loop.lane_of(callback, self.lives)


class _Timer(asyncio.TimerHandle):
    """A callback that becomes ready at a virtual time."""

    __slots__ = ("action", "given", "inside")

    def __init__(
        self, when: float, callback: Callable[..., object], args: tuple[Any, ...], loop: SimLoop, *, context: Context
    ) -> None:
        super().__init__(when, callback, args, loop, context)
        self.action = callback
        self.given = args
        self.inside = context


class SimLoop(asyncio.AbstractEventLoop):
    """See the module. One use: `run_until_complete` once, then `dispose`.

    Attributes:
        steps: callbacks run so far.
        failures: exceptions that nobody awaited, as text.
    """

    def __init__(self, chance: Random, *, steps_max: int = STEPS_MAX, shuffled: bool = True) -> None:
        self._chance = chance.random
        self._steps_max = steps_max
        self._shuffled = shuffled
        self._now = 0.0
        self._count = 0
        self._lanes: dict[int, deque[_Ready]] = {}
        self._order: list[int] = []
        self._timers: list[tuple[float, int, _Timer]] = []
        self._tasks: dict[asyncio.Task[Any], int] = {}
        self._lane = 0
        self._begun = 0
        self._closed = False
        self.steps = 0
        self.failures: list[str] = []

    # -- running ---------------------------------------------------------------------------------------------------

    def run_until_complete(self, future: Awaitable[T]) -> T:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Run until `future` is done.

        Raises:
            Stuck: nothing is ready and no timer is set, or `steps_max` callbacks have run.
        """
        main = asyncio.ensure_future(future, loop=self)
        before = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=None, finalizer=self._finalize)
        events._set_running_loop(self)
        try:
            while not main.done():
                self._advance()
        finally:
            events._set_running_loop(None)
            sys.set_asyncgen_hooks(*before)
        return main.result()

    def _advance(self) -> None:
        if not self._order:
            self._jump()
            return
        self.steps += 1
        if self.steps > self._steps_max:
            msg = f"livelock: {self.steps} callbacks ran by virtual second {self._now:.3f} and there is no end"
            raise Stuck(msg)
        handle = self._pick()
        self._lane = handle.lane
        if handle.cancelled() or (handle.timer is not None and handle.timer.cancelled()):
            return
        lives = handle.lives
        if lives is not None and (lives.dead or lives.frozen):
            lives.parked.append(handle)
            return
        try:
            handle.inside.run(handle.action, *handle.given)
        except Exception as exc:  # noqa: BLE001 - what a callback raises is a finding, not an end of the loop
            self.failures.append(f"{type(exc).__name__}: {exc}")

    def _pick(self) -> _Ready:
        order = self._order
        index = int(self._chance() * len(order)) if self._shuffled and len(order) > 1 else 0
        lane = order[index]
        queue = self._lanes[lane]
        handle = queue.popleft()
        if not queue:
            del order[index]
            del self._lanes[lane]
        return handle

    def _jump(self) -> None:
        """To the next timer."""
        while self._timers and self._timers[0][2].cancelled():
            heappop(self._timers)
        if not self._timers:
            msg = f"deadlock: at virtual second {self._now:.3f} nothing is ready and no timer is set"
            raise Stuck(msg)
        self._now = max(self._now, self._timers[0][0])
        while self._timers and self._timers[0][0] <= self._now:
            timer = heappop(self._timers)[2]
            if not timer.cancelled():
                self._push(_Ready(timer.action, timer.given, self, timer.inside, timer=timer))

    def _push(self, handle: _Ready) -> None:
        queue = self._lanes.get(handle.lane)
        if queue is None:
            self._lanes[handle.lane] = deque((handle,))
            insort(self._order, handle.lane)
        else:
            queue.append(handle)

    def lane_of(self, callback: Callable[..., object], lives: Lives | None) -> int:
        """The number of the lane: creation order of tasks, which no hash or address can change.

        A task begins in the lane of whoever made it: tasks begin in the order they are made, as asyncio promises.
        """
        owner = getattr(callback, "__self__", None)
        if isinstance(owner, asyncio.Task):
            number = self._tasks.setdefault(owner, len(self._tasks))  # pyright: ignore[reportUnknownArgumentType]
            begins = number == self._begun
            self._begun += begins
            return self._lane if begins else number
        return -1 if lives is None else -2 - lives.number

    def thaw(self, lives: Lives) -> None:
        """Let a frozen process go on with what it had been about to do."""
        lives.frozen = False
        parked, lives.parked = lives.parked, []
        for handle in parked:
            self._push(handle)

    # -- scheduling ------------------------------------------------------------------------------------------------

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.Handle:
        """See asyncio."""
        handle = _Ready(callback, args, self, copy_context() if context is None else context)
        if not self._closed:
            self._push(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """See asyncio; virtual seconds."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """See asyncio; virtual seconds."""
        timer = _Timer(when, callback, args, self, context=copy_context() if context is None else context)
        self._count += 1
        heappush(self._timers, (when, self._count, timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled timers are passed over when their time comes."""

    def create_future(self) -> asyncio.Future[Any]:
        """See asyncio."""
        return asyncio.Future(loop=self)

    def create_task(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        coro: Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: Context | None = None,
        eager_start: bool | None = None,
    ) -> asyncio.Task[T]:
        """See asyncio; tasks never start eagerly. The loop holds every task until `dispose`."""
        inside = copy_context() if context is None else context
        return asyncio.Task(coro, loop=self, name=name or f"sim-{len(self._tasks)}", context=inside)

    # -- the end ---------------------------------------------------------------------------------------------------

    def dispose(self) -> None:
        """Drop everything that has not ended; code of the dead does not run on."""
        self._closed = True
        before = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=None, finalizer=_ignore)
        events._set_running_loop(self)
        try:
            closed = 0
            while closed < len(self._tasks):  # what is closed may begin tasks on its way out: they go as well
                tasks = list(self._tasks)[closed:]
                closed += len(tasks)
                for task in tasks:
                    if not task.done():
                        with suppress(BaseException):
                            task.get_coro().close()  # type: ignore[union-attr]
        finally:
            events._set_running_loop(None)
            sys.set_asyncgen_hooks(*before)
        self._tasks.clear()
        self._lanes.clear()
        self._order.clear()
        self._timers.clear()

    def _finalize(self, generator: AsyncGenerator[Any, Any]) -> None:
        if not self._closed:
            self.create_task(_close(generator))

    # -- what asyncio asks of a loop -------------------------------------------------------------------------------

    def get_debug(self) -> bool:
        """Never."""
        return False

    def is_running(self) -> bool:
        """Until `dispose`."""
        return not self._closed

    def is_closed(self) -> bool:
        """After `dispose`."""
        return self._closed

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep what nobody awaited; tasks of the dead that are dropped are no finding."""
        if not self._closed and "exception" in context:
            self.failures.append(f"{context.get('message', '')}: {context['exception']!r}")


async def _close(generator: AsyncGenerator[Any, Any]) -> None:
    await generator.aclose()


def _ignore(generator: AsyncGenerator[Any, Any]) -> None:
    """The dead close nothing."""
