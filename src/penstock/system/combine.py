"""Combining of requests: whoever holds the gate serves everybody who waits, so one sync serves many.

A caller that can wait runs the round itself when nobody else does (no hand-over between threads); otherwise a worker
thread runs it. Source: flat combining, Hendler et al., SPAA 2010, applied to group commit.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from typing import Generic, TypeVar

Q = TypeVar("Q")
R = TypeVar("R")


class Waiting(Generic[Q, R]):
    """One request, its size in bytes and its future answer."""

    __slots__ = ("answer", "request", "size")

    def __init__(self, request: Q, size: int) -> None:
        self.request = request
        self.size = size
        self.answer: Future[R] = Future()


class Gate:
    """The lock between processes, as the combiner needs it; both calls hold it afterwards."""

    def __init__(self, enter: Callable[[], None], try_enter: Callable[[], bool]) -> None:
        self.enter = enter
        self.try_enter = try_enter


class Combiner(Generic[Q, R]):
    """Collects requests and serves them in rounds of at most `round_bytes_max`.

    `serve(batch)` is called with the gate entered and must leave it; it answers every request of the batch.
    Requests are served in the order they came. At most `queued_bytes_max` wait; `submit` blocks above that.
    """

    def __init__(
        self,
        serve: Callable[[list[Waiting[Q, R]]], None],
        gate: Gate,
        *,
        round_bytes_max: int,
        queued_bytes_max: int,
    ) -> None:
        self._serve = serve
        self._gate = gate
        self._round_bytes_max = round_bytes_max
        self._queued_bytes_max = queued_bytes_max
        self._queue: deque[Waiting[Q, R]] = deque()
        self._queued_bytes = 0
        self._state = threading.Condition()
        self._serving = threading.Lock()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="penstock-commit", daemon=True)
        self._thread.start()

    def submit(self, request: Q, size: int) -> Future[R]:
        """Queue a request for the worker thread; the future is answered in that thread."""
        waiting: Waiting[Q, R] = Waiting(request, size)
        self._enqueue(waiting)
        return waiting.answer

    def serve_now(self, request: Q, size: int, *, wait_s: float) -> R:
        """Queue a request and serve it in this thread when nobody else is serving.

        Raises:
            TimeoutError: not answered within `wait_s`; the request has been withdrawn, it was not taken up.
        """
        waiting: Waiting[Q, R] = Waiting(request, size)
        if self._serving.acquire(blocking=False):
            try:
                with self._state:
                    alone = not self._queue and not self._closing
                if alone and self._gate.try_enter():
                    self._serve([waiting])
                    return waiting.answer.result()
            finally:
                self._serving.release()
        self._enqueue(waiting)
        try:
            return waiting.answer.result(timeout=wait_s)
        except FutureTimeout:
            if self._withdraw(waiting):
                raise TimeoutError from None
            return waiting.answer.result()  # it was taken up: its commit is under way and will answer

    def _enqueue(self, waiting: Waiting[Q, R]) -> None:
        with self._state:
            while self._queued_bytes > self._queued_bytes_max and not self._closing:
                self._state.wait()
            if self._closing:
                msg = "closed"
                raise RuntimeError(msg)
            self._queue.append(waiting)
            self._queued_bytes += waiting.size
            self._state.notify_all()

    def _withdraw(self, waiting: Waiting[Q, R]) -> bool:
        with self._state:
            try:
                self._queue.remove(waiting)
            except ValueError:
                return False
            self._queued_bytes -= waiting.size
            self._state.notify_all()
            return True

    def _take(self) -> list[Waiting[Q, R]]:
        batch: list[Waiting[Q, R]] = []
        size = 0
        with self._state:
            while self._queue and (not batch or size + self._queue[0].size <= self._round_bytes_max):
                waiting = self._queue.popleft()
                size += waiting.size
                batch.append(waiting)
            self._queued_bytes -= size
            self._state.notify_all()
        return batch

    def _work(self) -> None:
        while True:
            with self._state:
                while not self._queue and not self._closing:
                    self._state.wait()
                if not self._queue:
                    return
            with self._serving:
                self._gate.enter()
                self._serve(self._take())

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nobody serves for the time of the block; requests queue up meanwhile. The gate is the caller's to enter."""
        with self._serving:
            yield

    def full(self) -> bool:
        """Whether `submit` would block now."""
        return self._queued_bytes > self._queued_bytes_max

    def close(self) -> None:
        """Serve what is queued, then stop the worker; may be called twice, not from the worker."""
        with self._state:
            self._closing = True
            self._state.notify_all()
        self._thread.join()
