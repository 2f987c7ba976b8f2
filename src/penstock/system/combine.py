"""Combining of requests: whoever holds the gate serves everybody who waits, so one sync serves many.

A caller that can wait runs the round itself when nobody else does (no hand-over between threads); otherwise a worker
thread runs it. Source: flat combining, Hendler et al., SPAA 2010, applied to group commit.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from penstock.system.pipe import Baton

Q = TypeVar("Q")
R = TypeVar("R")

_WATCH_S_MIN = 0.01


Mutex = threading.Lock


class Ended(Exception):
    """The combiner was closed before the request was queued."""


class Waiting(Generic[Q, R]):
    """One request, its size in bytes, since when it waits, and its future answer."""

    __slots__ = ("answer", "request", "since", "size")

    def __init__(self, request: Q, size: int) -> None:
        self.request = request
        self.size = size
        self.since = time.monotonic()
        self.answer: Future[R] = Future()


@dataclass(frozen=True, slots=True)
class Gate:
    """The lock between processes, as the combiner needs it; `enter` and a `try_enter` that says True hold it.

    `leave` undoes whatever an interrupted caller has left: a `try_enter` half-way, a round. `busy(waited_s)` makes the
    error for a request that waited too long while somebody else was inside.
    """

    enter: Callable[[], None]
    try_enter: Callable[[], bool]
    leave: Callable[[], None]
    busy: Callable[[float], Exception]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes of one round and of the queue (`submit` blocks above), and how long the gate may be another's."""

    round_bytes_max: int
    queued_bytes_max: int
    gate_wait_s: float


class Combiner(Generic[Q, R]):
    """Collects requests and serves them, in the order they came, in rounds.

    `serve(batch)` is called with the gate entered and must leave it; it answers every request of the batch and never
    raises; the batch is empty when everybody has given up. `finish()` is called once, at the end, with the gate
    entered, and must leave it too.
    """

    def __init__(
        self, serve: Callable[[list[Waiting[Q, R]]], None], gate: Gate, *, limits: Limits, finish: Callable[[], None]
    ) -> None:
        self._serve = serve
        self._gate = gate
        self._limits = limits
        self._finish = finish
        self._queue: deque[Waiting[Q, R]] = deque()
        self._queued_bytes = 0
        self._state = threading.Condition()
        self._serving = Baton()  # of this thread here, or of a request whose caller serves it
        self._closing = False
        self._stuck = threading.Event()
        self._stuck_since = 0.0
        self._ended = threading.Event()
        self._watcher: threading.Thread | None = None
        self._thread = threading.Thread(target=self._work, name="penstock-commit", daemon=True)
        self._thread.start()

    def submit(self, request: Q, size: int) -> Future[R]:
        """Queue a request for the worker thread; the future is answered in another thread.

        Cancelling the future withdraws a request that was not taken up.

        Raises:
            Ended: the combiner was closed; nothing was queued.
        """
        return self._queued(Waiting(request, size))

    def _queued(self, waiting: Waiting[Q, R]) -> Future[R]:
        with self._state:
            while self._queued_bytes > self._limits.queued_bytes_max and not self._closing:
                self._state.wait()
            if self._closing:
                raise Ended
            self._queue.append(waiting)
            self._queued_bytes += waiting.size
            self._state.notify_all()
        return waiting.answer

    def serve_now(self, request: Q, size: int) -> R:
        """Serve a request in this thread when nobody else is serving; otherwise queue it and wait for its answer."""
        waiting: Waiting[Q, R] = Waiting(request, size)
        try:
            if self._served(waiting):
                return waiting.answer.result()
        finally:
            self._let_go(waiting)
        return self._queued(waiting).result()

    def serve_at_once(self, request: Q, size: int) -> Waiting[Q, R] | None:
        """Serve a request in this thread, without any lock of Python's; None: others are there, nothing was done.

        For one caller at a time. Where it is interrupted it may leave the gate entered: `forsake` puts that right.
        """
        waiting: Waiting[Q, R] = Waiting(request, size)
        try:
            return waiting if self._served(waiting) else None
        except Exception:  # the gate itself failed; an interrupt is left to `forsake`
            self._let_go(waiting)
            raise

    def forsake(self) -> None:
        """Undo what the interrupted caller of `serve_at_once` has left; in another thread, when none is there."""
        owner = self._serving.owner
        if isinstance(owner, Waiting):
            self._let_go(owner)

    def _served(self, waiting: Waiting[Q, R]) -> bool:
        if not self._serving.take(waiting):
            return False
        alone = not self._queue and not self._closing and self._gate.try_enter()
        if alone:
            self._serve([waiting])
        self._serving.give(waiting)
        return alone

    def _let_go(self, owner: object) -> None:
        if self._serving.owner is owner:
            self._gate.leave()
            self._serving.give(owner)

    def full(self) -> bool:
        """Whether `submit` would block now."""
        return self._queued_bytes > self._limits.queued_bytes_max

    def close(self) -> bool:
        """Serve what is queued, then finish. May be called twice, not from the worker.

        Returns:
            False when somebody else did not leave the gate in time: who waited was told, and the worker finishes
            whenever it gets in.
        """
        with self._state:
            self._closing = True
            self._state.notify_all()
        while self._thread.is_alive():
            self._thread.join(self._limits.gate_wait_s)
            if self._stuck.is_set() and not self._ended.is_set():
                return False
        return True

    # -- the worker ------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while self._wait_for_work():
                with self._serving.held(self):
                    self._enter()
                    self._serve(self._take())
            with self._serving.held(self):
                self._enter()
                self._finish()
        except OSError as exc:
            self._give_up(exc)
        finally:
            self._ended.set()
            self._stuck.set()  # lets the watcher see the end

    def _give_up(self, error: OSError) -> None:
        """The lock itself failed: nobody will be served any more, and everybody who waits is told."""
        with self._state:
            self._closing = True
            left = list(self._queue)
            self._queue.clear()
            self._state.notify_all()
        for waiting in left:
            if waiting.answer.set_running_or_notify_cancel():
                waiting.answer.set_exception(error)

    def _wait_for_work(self) -> bool:
        with self._state:
            while not self._queue and not self._closing:
                self._state.wait()
            return bool(self._queue)

    def _enter(self) -> None:
        if self._gate.try_enter():
            return
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, name="penstock-watch", daemon=True)
            self._watcher.start()
        self._stuck_since = time.monotonic()
        self._stuck.set()
        self._gate.enter()
        self._stuck.clear()

    def _take(self) -> list[Waiting[Q, R]]:
        batch: list[Waiting[Q, R]] = []
        size = 0
        with self._state:
            while self._queue and (not batch or size + self._queue[0].size <= self._limits.round_bytes_max):
                waiting = self._queue.popleft()
                self._queued_bytes -= waiting.size
                if waiting.answer.set_running_or_notify_cancel():
                    size += waiting.size
                    batch.append(waiting)
            self._state.notify_all()
        return batch

    # -- the watcher: flock has no time-out, so somebody else must tell those who wait ------------------------------

    def _watch(self) -> None:
        while True:
            self._stuck.wait()
            if self._ended.is_set():
                return
            self._ended.wait(max(self._expire(), _WATCH_S_MIN))

    def _expire(self) -> float:
        """Tell those who waited too long for the gate; how long until the next one has."""
        expired: list[tuple[Waiting[Q, R], float]] = []
        limit_s = self._limits.gate_wait_s
        now = time.monotonic()
        with self._state:
            while self._stuck.is_set() and self._queue:
                waited_s = now - max(self._queue[0].since, self._stuck_since)
                if waited_s < limit_s:
                    break
                waiting = self._queue.popleft()
                self._queued_bytes -= waiting.size
                expired.append((waiting, waited_s))
            delay = limit_s - (now - max(self._queue[0].since, self._stuck_since)) if self._queue else limit_s
            self._state.notify_all()
        for waiting, waited_s in expired:
            if waiting.answer.set_running_or_notify_cancel():
                waiting.answer.set_exception(self._gate.busy(waited_s))
        return delay
