"""The steps of a membership that are under way: sent in order, answered in order, sent again when there was no room."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import msgspec

from penstock.channel.api import Committed, FencedOff, Intake, Step, Unknown
from penstock.engine.pausing import waited
from penstock.engine.work import Draft, Stopping
from penstock.errors import PenstockError, TransientError
from penstock.system.ports import Clock
from penstock.telemetry import emit

IN_FLIGHT_MAX = 2
PAUSE_FIRST_S = 0.05
PAUSE_MAX_S = 2.0

Outcome = Committed | FencedOff | Unknown
Refused = tuple[Step, FencedOff | Unknown]
"""A step that was not stored, as far as anybody knows; nor will those of its partition be that were sent after it."""


class _Sent(msgspec.Struct):
    draft: Draft | None
    step: Step
    answer: asyncio.Task[Outcome]


class Flight:
    """At most IN_FLIGHT_MAX steps, so that the work goes on while the disk syncs.

    Args:
        intake: takes the steps.
        clock: for pauses.
        stopping: whether a pause should end early.
        settled: called with each draft that became permanent (None: a step that only remembered something).
        waiting: called with the reason while steps find no room.
    """

    def __init__(
        self,
        intake: Intake,
        clock: Clock,
        *,
        stopping: Stopping,
        settled: Callable[[Draft | None], None],
        waiting: Callable[[str], None],
    ) -> None:
        self._intake = intake
        self._clock = clock
        self._stopping = stopping
        self._settled = settled
        self._waiting = waiting
        self._sent: deque[_Sent] = deque()
        self._pause_s = PAUSE_FIRST_S

    def __bool__(self) -> bool:
        return bool(self._sent)

    async def room(self) -> list[Refused]:
        """Wait until there is room for a step; the steps that turned out to be refused meanwhile."""
        refused: list[Refused] = []
        while len(self._sent) >= IN_FLIGHT_MAX:
            refused += await self._land()
        return refused

    async def send(self, draft: Draft | None, step: Step) -> list[Refused]:
        """Send a step once there is room for it; see `room`."""
        refused = await self.room()
        self._sent.append(_Sent(draft, step, self._commit(step)))
        await asyncio.sleep(0)
        return refused

    async def land(self) -> list[Refused]:
        """Wait for every step; those that were not stored."""
        refused: list[Refused] = []
        while self._sent:
            refused += await self._land()
        return refused

    async def drop(self) -> None:
        """Wait for what was sent, whatever becomes of it: the next membership reads the truth.

        What became permanent all the same is settled here: the next membership begins behind it.
        """
        while self._sent:
            sent = self._sent.popleft()
            with suppress(PenstockError, asyncio.CancelledError):
                if isinstance(await sent.answer, Committed):
                    self._settled(sent.draft)

    def _commit(self, step: Step) -> asyncio.Task[Outcome]:
        """As a task at once, so that steps reach the channel in the order of the calls."""
        return asyncio.ensure_future(self._intake.commit(step))

    async def _land(self) -> list[Refused]:
        first = self._sent[0]
        try:
            outcome = await asyncio.shield(first.answer)
        except TransientError as exc:
            await self._send_again(exc)
            return []
        self._sent.popleft()
        if not isinstance(outcome, Committed):
            return [(first.step, outcome)]
        self._pause_s = PAUSE_FIRST_S
        self._settled(first.draft)
        return []

    async def _send_again(self, error: TransientError) -> None:
        """Nothing of the first step was stored, nor of those behind it: the same steps again, after a pause.

        Raises:
            TransientError: told to stop meanwhile.
        """
        await asyncio.wait([sent.answer for sent in self._sent])
        self._waiting(str(error))
        emit.log(logging.WARNING, "a step waits for room", group=self._sent[0].step.group, reason=str(error))
        pause_s, self._pause_s = self._pause_s, min(PAUSE_MAX_S, self._pause_s * 2)
        if not await waited(self._clock, pause_s, self._stopping):
            raise error
        for sent in self._sent:
            if sent.answer.cancelled() or sent.answer.exception() is not None:
                sent.answer = self._commit(sent.step)
