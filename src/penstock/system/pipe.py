"""A thread that works off what others hand it, in order; and the locks that go with it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")
Lock = threading.Lock
Signal = threading.Event
Permits = threading.Semaphore


class Pipe(Generic[T]):
    """Calls `work(item)` for every item put in, one after the other, in a thread of its own. `work` must not raise.

    Not bounded by itself: who puts in bounds what is under way.
    """

    def __init__(self, work: Callable[[T], None], *, name: str) -> None:
        self._work = work
        self._items: SimpleQueue[T | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, item: T) -> None:
        """Hand an item over; returns at once."""
        self._items.put(item)

    def _run(self) -> None:
        while (item := self._items.get()) is not None:
            self._work(item)

    def close(self) -> None:
        """Work off what is there, then end the thread; may be called twice, not from the thread."""
        if self._thread.is_alive():
            self._items.put(None)
            self._thread.join()
