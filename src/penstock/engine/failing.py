"""New events that fail while a run of calls goes on behind them, until the run has ended and says which calls count."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from penstock.delivery.lot import Head, Now
from penstock.engine.parts import Part, PartCalls
from penstock.engine.place import Place
from penstock.engine.results import Cause
from penstock.event.batch import Delivered

FailedOnce = Callable[[Delivered, Head, BaseException, Now], float | Cause]
"""Writes one more failed attempt down, and says how long the event waits, or why it is given up."""


class Failed(msgspec.Struct, frozen=True):
    """A new event that has failed, as the head of its key: how long it waits, or why it is given up.

    The error itself is let go: it holds the frames of the call, and with them the events.
    """

    head: Head
    then: float | Cause
    at: Now


class Failures:
    """Takes what fails in one run of calls over a part, where nothing that comes behind it in the run hangs on it.

    The run ends instead, as it does for whatever fails alone, when the target may be what fails (the breaker counts
    those), when the lot has no more room, when the partition waits and not the key, and when it is late.

    Args:
        failed_once: counts an attempt.
        place: where the key will wait.
        part: the events; those behind a failed one of its key are taken out of the run.
        calls: the run.
        now: the two clocks.
        late_s: from then on (monotonic) the run ends with a failure.
    """

    def __init__(
        self,
        failed_once: FailedOnce,
        place: Place,
        part: Part,
        calls: PartCalls,
        *,
        now: Callable[[], Now],
        late_s: float,
    ) -> None:
        self._failed_once = failed_once
        self._place = place
        self._part = part
        self._calls = calls
        self._now = now
        self._late_s = late_s
        self._room = 0 if place.policy.order == "partition" else place.policy.keys_max - len(place.lot.heads) - 1
        self._failed: list[Failed] = []

    def goes_on(self, offset: int, error: BaseException) -> bool:
        """Take the failure, unless the run is to end with it."""
        place, part, now = self._place, self._part, self._now()
        if len(self._failed) >= self._room or place.policy.is_transient(error) or now.s > self._late_s:
            return False
        head = place.new_head(part, offset)
        then = self._failed_once(part.delivered, head, error, now)
        if not isinstance(then, Cause) or then.holds:
            if not self._calls.masked and part.has_behind(offset):
                return False  # nobody looks at who waits
            part.hold_behind(offset)
        place.marks.drop(offset)  # those that come later may take its tokens
        self._failed.append(Failed(head, then, now))
        return True

    def take(self, end: int) -> list[Failed]:
        """Those before `end`. What failed behind it was not kept: it is called again, and its key goes on."""
        taken = [failed for failed in self._failed if failed.head.offset < end]
        if len(taken) < len(self._failed):
            self._place.hold(self._part, end)
        self._failed = []
        return taken


__all__ = ["Failed", "Failures"]
