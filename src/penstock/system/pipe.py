"""A thread that works off what others hand it, in order; and waiting for it so that Ctrl-C can do no harm.

CPython runs signal handlers in the main thread alone, between two instructions, so a KeyboardInterrupt can be raised
nearly everywhere in it. Whatever Python code a lock is taken by has such places while the lock is held: in
``Condition.__enter__`` and ``__exit__`` (and so in Event, Semaphore, Queue, Future and Thread), after ``acquire()`` and
before its ``try``, and from CPython 3.14 on (where ``with`` is made of ordinary calls, and signals are looked for after
each) in ``with lock:`` itself. So a thread that may be interrupted owns nothing here: it puts an item into a queue that
is implemented in C, in one step, and waits for a signal. Where it must own something it has a baton, under a token, and
a thread of a pipe, which is never interrupted, can tell whether it still has. Source: Python/bytecodes.c of CPython
3.11 to 3.14 (``CHECK_EVAL_BREAKER``, ``_CHECK_PERIODIC``).
"""

from __future__ import annotations

import threading
from _thread import start_new_thread
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")
Lock = threading.Lock
Permits = threading.Semaphore

LOOK_S = 0.1
"""Who waits looks that often by himself: a wake-up that an interrupt has lost costs this much."""
IDLE_S = 1.0


class Ended(Exception):
    """The thread ended before it came to this."""


class Signal:
    """Set or not, and a way to wait for it. May be used from any thread, and be interrupted anywhere.

    The flag alone says what is; the lock only wakes, and nobody ever owns it: it is shut or open, anybody opens it,
    and open it lets one through. An interrupt between the two loses a wake-up, or leaves one too many.
    """

    __slots__ = ("_gate", "_is_set")

    def __init__(self) -> None:
        self._is_set = False
        self._gate = Lock()
        self._gate.acquire()

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._is_set

    def set(self) -> None:
        """Set it, and wake who waits."""
        self._is_set = True
        self._wake()

    def clear(self) -> None:
        """Take it back."""
        self._is_set = False
        self._gate.acquire(blocking=False)

    def wait(self, timeout: float) -> bool:
        """Whether it is set, after `timeout` seconds at most; may return early all the same, so ask again."""
        if not self._is_set:
            self._gate.acquire(True, timeout)
            if self._is_set:
                self._wake()  # the next one that waits
        return self._is_set

    def _wake(self) -> None:
        with suppress(RuntimeError):  # it is open
            self._gate.release()


class Baton:
    """Taken by one owner at a time, who is known: what nobody can tell of a lock after its taker was interrupted.

    The owner is whatever object the taker has made for it. Taking is one step of a dictionary, so an interrupt leaves
    it taken or not, and whoever knows that the owner is gone gives it back for him.
    """

    __slots__ = ("_gate", "_held")

    def __init__(self) -> None:
        self._held: dict[str, object] = {}
        self._gate = Lock()  # wakes, as that of a signal

    @property
    def owner(self) -> object | None:
        """Who has it."""
        return self._held.get("")

    def take(self, owner: object) -> bool:
        """Take it if it is free; whether `owner` has it now."""
        return self._held.setdefault("", owner) is owner

    def wait(self, timeout: float) -> None:
        """Return when it may be free, after `timeout` seconds at most."""
        self._gate.acquire(True, timeout)

    def give(self, owner: object) -> None:
        """Let the next one take it; nothing when `owner` does not have it."""
        if self._held.get("") is owner:
            del self._held[""]
        if self._gate.locked():
            with suppress(RuntimeError):
                self._gate.release()

    @contextmanager
    def held(self, owner: object) -> Generator[None, None, None]:
        """Wait for it and have it; for threads that nobody interrupts."""
        while not self.take(owner):
            self.wait(LOOK_S)
        try:
            yield
        finally:
            self.give(owner)


class Pipe(Generic[T]):
    """Calls `work(item)` for every item put in, one after the other, in a thread of its own. `work` must not raise.

    Not bounded by itself: who puts in bounds what is under way. The thread begins with `start`. `last()` is called at
    the end, in the thread; `idle()` there too, each time nothing came for IDLE_S seconds.
    """

    def __init__(
        self,
        work: Callable[[T], object],
        *,
        name: str,
        last: Callable[[], None] | None = None,
        idle: Callable[[], None] | None = None,
    ) -> None:
        self._work = work
        self._name = name
        self._last = last
        self._idle = idle
        self._items: SimpleQueue[T | None] = SimpleQueue()
        self._begun = Lock()  # taken once, by the thread, for good
        self.ended = Signal()

    def start(self) -> None:
        """Begin; returns at once. Called again, it does no harm."""
        # `Thread.start` waits, under a lock, for the thread to run: that is done in a thread too.
        start_new_thread(self._start, ())

    def put(self, item: T) -> None:
        """Hand an item over; returns at once."""
        self._items.put(item)

    def wait_for(self, signal: Signal) -> None:
        """Wait until the signal is set by something that was put in.

        Raises:
            Ended: it never will be.
        """
        while not signal.wait(LOOK_S):
            if self.ended.is_set() and not signal.is_set():
                raise Ended

    def end(self) -> None:
        """Work off what is there, then end the thread; returns at once."""
        self._items.put(None)

    def close(self) -> None:
        """`end`, and wait for it; may be called twice, not from the thread."""
        self.end()
        if not self._begun.locked():  # an interrupt came between
            self.start()
        while not self.ended.wait(LOOK_S):
            pass

    # -- the thread ------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        try:
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
        except BaseException:  # there may be no more threads: who waits is told
            if not self._begun.locked():
                self.ended.set()
            raise

    def _run(self) -> None:
        if not self._begun.acquire(blocking=False):
            return
        try:
            while (item := self._next()) is not None:
                self._work(item)
        finally:
            try:
                if self._last is not None:
                    self._last()
            finally:
                self.ended.set()

    def _next(self) -> T | None:
        while self._idle is not None:
            try:
                return self._items.get(timeout=IDLE_S)
            except Empty:
                self._idle()
        return self._items.get()


class Worker(Pipe[Callable[[], object]]):
    """A thread that runs what it is handed, in order; `call` waits for what that returns or raises."""

    def __init__(self, *, name: str, last: Callable[[], None] | None = None) -> None:
        super().__init__(_run, name=name, last=last)

    def call(self, work: Callable[[], R]) -> R:
        """Run `work` there and wait for it. A caller that is interrupted leaves it to be done all the same.

        Raises:
            Ended: the thread ended before; `work` was not run.
        """
        if self.ended.is_set():
            raise Ended
        answer = _Answer(work)
        self.put(answer.find)
        self.wait_for(answer.found)
        return answer.given()


def _run(work: Callable[[], object]) -> None:
    work()


class _Answer(Generic[R]):
    """What a call came to."""

    __slots__ = ("_error", "_result", "_work", "found")

    def __init__(self, work: Callable[[], R]) -> None:
        self._work = work
        self._result: list[R] = []
        self._error: BaseException | None = None
        self.found = Signal()

    def find(self) -> None:
        try:
            self._result.append(self._work())
        except BaseException as exc:  # noqa: BLE001 - it is the caller's
            self._error = exc
        self.found.set()

    def given(self) -> R:
        error, self._error = self._error, None
        if error is None:
            return self._result[0]
        try:
            raise error
        finally:
            del error  # it refers to this frame
