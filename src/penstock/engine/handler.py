"""A declared handler and one call of it: over many events, or one again; what its failures mean."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import msgspec

from penstock.delivery.deadletter import with_try
from penstock.delivery.lot import Head, Now, OnFailure
from penstock.delivery.once import Marks
from penstock.delivery.retry import Retries, Retry
from penstock.engine.again import Again
from penstock.engine.calling import Calls, NotCalled, OutputRefused, Raised, Shape, call_async, call_sync
from penstock.engine.context import Context, Identity, InHand
from penstock.engine.parts import PartCalls
from penstock.engine.results import Cause, Made, Topics
from penstock.engine.watching import Hand
from penstock.errors import PermanentError, Reject
from penstock.event.batch import Delivered
from penstock.schema.hiding import Hide
from penstock.system.ports import System
from penstock.system.slots import SIDE_BY_SIDE, MemorySlot, Slot

T = TypeVar("T")
RUN_S_MAX = 1.0
"""A run of calls that takes longer ends behind the event at hand: others wait for it, and who wants it to stop."""


class HandlerSpec(msgspec.Struct, frozen=True):
    """A handler as declared: its name is its group.

    concurrency: how many events of different keys are handled at once.
    """

    name: str
    function: Callable[..., Any]
    shape: Shape
    retries: Retries = Retries(Retry())
    on_failure: OnFailure = OnFailure()
    concurrency: int = 1


class Handler:
    """What both kinds of handler work share; no state but the attempts slot, and what the watchdog looks at."""

    def __init__(self, spec: HandlerSpec, topics: Topics, system: System) -> None:
        self._spec = spec
        self._topics = topics
        self._system = system
        self._slot: Slot = MemorySlot()
        self._runs = 0
        self._going: tuple[float, Calls | None] = (0.0, None)  # since when which run of calls goes on
        self._awaited: Coroutine[Any, Any, Raised | None] | None = None
        self.name = spec.name
        self.topic = topics.source.name
        self.warn_s = spec.retries.warn_s

    def in_hand(self) -> Sequence[Hand]:
        """See `Watched`."""
        try:
            words = self._slot.words
            at, offset = words[0], words[1]
        except ValueError:  # the slot is closed
            return ()
        if at == 0 or offset == SIDE_BY_SIDE:
            return ()
        return (Hand((self._runs, offset), at - 1, offset, self._awaited),)

    def hurry(self, now_s: float) -> None:
        """See `Watched`: a run of calls is as long as the last ones were quick, and one call may take seconds now."""
        began_s, calls = self._going
        if calls is not None and now_s - began_s > RUN_S_MAX:
            calls.cut_short()

    async def _call(
        self,
        delivered: Delivered,
        pairs: Iterable[tuple[int, Any]],
        made: Made,
        *,
        start: int,
        attempt: int = 1,
        again: int = 0,
    ) -> Raised | int | None:
        """Call the handler on each; what was raised, or from where on nothing was kept; None when all is."""
        bound = self._bound(delivered, attempt, again, marks=made.marks)
        result = await self._run(bound, pairs, made, start)
        end = result.offset if isinstance(result, Raised) else result
        made.mark(made.marks.land(lambda offset: end is None or offset < end))
        return result

    async def _call_retried(self, again: Again, made: Made, *, start: int) -> Raised | int | None:
        """`_call` for parked events, each with its own number of attempts."""
        function = bound = self._spec.function
        if self._spec.shape.wants_context:
            words, source = self._slot.words, self._topics.source
            marks = InHand(made.marks, words, made.partition)

            def bound(event: Any) -> Any:
                return function(event, Context(again.delivered, words[1], again.attempt, source, marks=marks))

        result = await self._run(self._in_time(bound), again, made, start)
        end = result.offset if isinstance(result, Raised) else result
        made.mark(made.marks.land(lambda offset: end is None or offset < end))
        return result

    async def _run(
        self, handler: Callable[[Any], Any], pairs: Iterable[tuple[int, Any]], made: Made, start: int
    ) -> Raised | int | None:
        words = self._slot.words
        calls = pairs if isinstance(pairs, PartCalls | Again) else None
        self._going = (self._system.clock.monotonic_s(), calls)
        words[1] = start  # before the partition: a death in between is charged to nobody
        words[0] = made.partition + 1
        made.marks.begin(made.gave.rejected)
        self._runs += 1
        if self._spec.shape.is_async:
            self._awaited = call_async(handler, pairs, words, made.gave)
            try:
                raised = await self._awaited
            except NotCalled:
                words[0] = 0
                raise
        else:
            raised = call_sync(handler, pairs, words, made.gave)
        words[0] = 0
        self._going = (0.0, None)
        # What is called by itself, and not in a run, fails by itself: it may have a letter, or attempts, to tell of.
        cut = made.gather(whole=calls is not None and self._spec.on_failure.given_up == "continue")
        if cut is None:
            return raised if raised is not None or calls is None else calls.uncalled(words[1])
        return Raised(cut.offset, OutputRefused(cut.reason)) if cut.reason else cut.offset

    async def _call_one(
        self,
        delivered: Delivered,
        pair: Iterator[tuple[int, Any]],
        made: Made,
        *,
        start: int,
        attempt: int,
        again: int = 0,
    ) -> Raised | int | None:
        """`_call` for one event: a rejection is what was raised."""
        result = await self._call(delivered, pair, made, start=start, attempt=attempt, again=again)
        for offset, rejection in made.take_rejected():
            return Raised(offset, rejection)
        return result

    def _bound(
        self, delivered: Delivered, attempt: int, again: int, *, marks: Marks, words: memoryview | None = None
    ) -> Callable[[Any], Any]:
        """The handler as a function of the event alone; the slot says which event it is."""
        function = bound = self._spec.function
        if self._spec.shape.wants_context:
            said, source = self._slot.words if words is None else words, self._topics.source
            held = InHand(marks, said, delivered.partition)

            def bound(event: Any) -> Any:
                return function(event, Context(delivered, said[1], attempt, source, redriven=again, marks=held))

        return self._in_time(bound)

    def _in_time(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """The function, cancelled when it takes too long."""
        limit_s = self._spec.retries.timeout_s
        return function if limit_s is None else limited(function, limit_s)

    def _mark(self, head: Head, made: Made) -> None:
        """Say of what a redriven event gives that it is out of order, where its key has gone on without it."""
        if head.apart:
            made.redriven.add(head.offset)

    def _pause_s(self, error: BaseException, attempt: int, waited_s: float) -> float | None:
        if isinstance(error, PermanentError):
            return None
        policy = self._spec.retries.for_error(error)
        return policy.pause_s(attempt, since_s=waited_s, chance=self._system.random.random)

    def _failed_once(self, delivered: Delivered, head: Head, error: BaseException, now: Now) -> float | Cause:
        """One more attempt at a new event has failed: how long it waits, or why it is given up."""
        head.tries = with_try(head.tries, error, now.us, self._hide(delivered, head))
        head.transient = self._spec.on_failure.is_transient(error)
        head.attempts += 1
        pause_s = self._pause_s(error, head.attempts, head.waited_s)
        return self._cause(error, head.attempts, head) if pause_s is None else pause_s

    def _hide(self, delivered: Delivered, head: Head) -> Hide:
        """What takes personal values of the event out of what is kept of its failures."""
        return Identity(delivered, self._topics.source).hide(head.offset - delivered.first)

    def _cause(self, error: BaseException, attempts: int, head: Head) -> Cause:
        holds = self._spec.on_failure.given_up == "block" and not isinstance(error, Reject)
        tries = () if isinstance(error, Reject) and len(head.tries) == 1 else head.tries
        return Cause.of(error, attempts, tries, again=head.again, holds=holds)

    def _died(self, deaths: int, head: Head | None = None) -> Cause:
        reason = f"the process died {deaths} times while handling it"
        cause = Cause(reason, "ProcessDied", attempts=deaths, holds=self._spec.on_failure.given_up == "block")
        if head is None:
            return cause
        attempts = deaths + head.attempts
        return msgspec.structs.replace(cause, attempts=attempts, tries=head.tries, again=head.again)


def limited(function: Callable[[T], Awaitable[Any]], limit_s: float) -> Callable[[T], Awaitable[Any]]:
    """The function, cancelled when it takes longer; it raises `TimeoutError` then."""

    async def in_time(event: T) -> Any:
        limit = asyncio.timeout(limit_s)
        try:
            async with limit:
                return await function(event)
        except TimeoutError as exc:
            if not limit.expired():
                raise
            msg = f"the handler took longer than {limit_s:g} s (retry.timeout_s) and was cancelled"
            raise TimeoutError(msg) from exc

    return in_time
