"""A thread that looks now and then, whatever the event loop does; and where in the code a thread or a coroutine is."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple


class Place(NamedTuple):
    """A line that is being executed: its module, and for people the file, the line and the function."""

    module: str
    text: str


def this_thread() -> int:
    """The number of the calling thread."""
    return threading.get_ident()


def thread_places(thread: int) -> list[Place]:
    """Where a thread of this process is, the outermost call first; empty when it has ended. No values, only places."""
    frame = sys._current_frames().get(thread)  # pyright: ignore[reportPrivateUsage]
    out: list[Place] = []
    while frame is not None:
        out.append(_place(frame))
        frame = frame.f_back
    return out[::-1]


def coroutine_places(coroutine: Any) -> list[Place]:
    """Where a suspended coroutine waits, the outermost await first; nothing of what runs just now."""
    out: list[Place] = []
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is not None:
            out.append(_place(frame))
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return out


def _place(frame: FrameType) -> Place:
    code = frame.f_code
    return Place(frame.f_globals.get("__name__", ""), f"{code.co_filename}:{frame.f_lineno} in {code.co_qualname}")


class Looker:
    """Calls `look` every `every_s` seconds in a thread of its own, between `start` and `close`.

    The thread does not keep the process alive. `look` must not raise.
    """

    def __init__(self, look: Callable[[], None], *, every_s: float) -> None:
        self._look = look
        self._every_s = every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="penstock-looker", daemon=True)

    def start(self) -> None:
        """Begin to look, after the first `every_s`."""
        self._thread.start()

    def close(self) -> None:
        """Look no more; may be called twice, and without `start`. A look that is under way may still end."""
        self._over.set()

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            self._look()
