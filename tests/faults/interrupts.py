"""Ctrl-C on purpose: a KeyboardInterrupt at the n-th instruction of a call, or by signals that really come."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

HERE = "/tests/faults/"
Trace = Callable[[FrameType, str, Any], Any]


class Stuck(BaseException):
    """What should have ended has not."""


@contextmanager
def deadline(seconds: float) -> Generator[None, None, None]:
    """Raise `Stuck` in the main thread when the block takes longer."""

    def raise_stuck(_number: int, _frame: FrameType | None) -> None:
        msg = f"no end within {seconds} s"
        raise Stuck(msg) from None

    before = signal.signal(signal.SIGALRM, raise_stuck)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def instructions(work: Callable[[], object]) -> list[str]:
    """The file of each bytecode instruction that `work` takes in this thread, in order, libraries included."""
    return _traced(work, None)[0]


def interrupted_at(number: int, work: Callable[[], object]) -> bool:
    """Do `work` and raise KeyboardInterrupt before its instruction `number`, from 0; whether it came so far.

    Any instruction: more than CPython does, which looks for signals at a function's start, after calls and when it
    jumps back.
    """
    return _traced(work, number)[1]


def _traced(work: Callable[[], object], number: int | None) -> tuple[list[str], bool]:
    seen: list[str] = []

    def trace(frame: FrameType, event: str, _arg: Any) -> Trace:
        frame.f_trace_opcodes = HERE not in frame.f_code.co_filename
        if event == "opcode":
            if len(seen) == number:
                sys.settrace(None)
                raise KeyboardInterrupt
            seen.append(frame.f_code.co_filename)
        return trace

    before = sys.gettrace()
    hook, sys.unraisablehook = sys.unraisablehook, _interrupted_finalizer
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return seen, True
    finally:
        sys.settrace(before)
        sys.unraisablehook = hook
    return seen, False


class Storm:
    """SIGINT for the main thread, again and again, but raised only inside `interrupted`. Use it with ``with``."""

    def __init__(self, chance: random.Random, *, gap_s: float) -> None:
        self._chance = chance
        self._gap_s = gap_s
        self._armed = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._blow, daemon=True)
        self.raised = 0

    def __enter__(self) -> Storm:
        self._hook, sys.unraisablehook = sys.unraisablehook, _interrupted_finalizer
        self._before = signal.signal(signal.SIGINT, self._raise)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        signal.signal(signal.SIGINT, self._before)
        sys.unraisablehook = self._hook

    def _blow(self) -> None:
        while not self._over.wait(self._chance.random() * self._gap_s):
            os.kill(os.getpid(), signal.SIGINT)

    def _raise(self, _number: int, _frame: FrameType | None) -> None:
        if self._armed:
            self.raised += 1
            raise KeyboardInterrupt

    def interrupted(self, work: Callable[[], object]) -> bool:
        """Do `work` while signals are raised, also out of the midst of what is done about an earlier one."""
        try:
            try:
                self._armed = True
                work()
            finally:
                self._armed = False
        except KeyboardInterrupt:
            self._armed = False
            return True
        return False


def _interrupted_finalizer(unraisable: sys.UnraisableHookArgs) -> None:
    """A finalizer cannot be left by an exception: Python says so and goes on. Every other one is a finding."""
    if not isinstance(unraisable.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
