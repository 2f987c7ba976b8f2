"""Runs the parts of a program side by side: sources, handlers, flows and sinks, until they end or are stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from penstock.engine.group import GroupState, Unread
from penstock.errors import PenstockError
from penstock.system.ports import Clock

REPORT_EVERY_S = 0.25


def _circle_from(topic: str, leads: Mapping[str, set[str]], clear: set[str], path: tuple[str, ...] = ()) -> list[str]:
    if topic in path:
        return [*path[path.index(topic) :], topic]
    if topic in clear:
        return []
    for onward in sorted(leads.get(topic, ())):
        found = _circle_from(onward, leads, clear, (*path, topic))
        if found:
            return found
    clear.add(topic)
    return []


class Node(Protocol):
    """Something that runs: a group or a source."""

    state: GroupState

    async def run(self) -> None:
        """Until it ends, or `stop` was called."""
        ...

    def stop(self) -> None:
        """Finish what is in hand, then end."""
        ...


class Part(msgspec.Struct, frozen=True):
    """A node and the topics it writes."""

    node: Node
    writes: frozenset[str]


Progress = Callable[[Sequence[GroupState]], None]


class Supervisor:
    """Starts every part, and stops all of them when one fails before it has done all that it could."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._parts: list[Part] = []
        self._over: set[int] = set()
        self._stopping = False
        self._abandoned = False
        self._tasks: list[asyncio.Task[None]] = []

    def add(self, node: Node, *, writes: frozenset[str]) -> None:
        """Take a part on; before `run`."""
        self._parts.append(Part(node, writes))

    def ended(self, topic: str) -> Callable[[], bool]:
        """Whether no part will write `topic` any more."""

        def none_left() -> bool:
            return all(id(part) in self._over for part in self._parts if topic in part.writes)

        return none_left

    def circle(self) -> list[str]:
        """Topics that feed themselves, in order, through the parts that read and write them; empty when none does."""
        leads = {part.node.state.topic: set[str]() for part in self._parts if part.node.state.kind != "source"}
        for part in self._parts:
            if part.node.state.kind != "source":
                leads[part.node.state.topic] |= part.writes
        clear: set[str] = set()
        for start in leads:
            path = _circle_from(start, leads, clear)
            if path:
                return path
        return []

    @property
    def nodes(self) -> list[Node]:
        """Every part that runs, in the order they were added."""
        return [part.node for part in self._parts]

    @property
    def states(self) -> list[GroupState]:
        """Every part's state, in the order they were added."""
        return [part.node.state for part in self._parts]

    def stop(self) -> None:
        """Drain: every part finishes what is in hand and commits it."""
        self._stopping = True
        for part in self._parts:
            part.node.stop()

    def abandon(self) -> None:
        """End at once: what is in hand is not committed and will be delivered again."""
        self._abandoned = True
        for task in self._tasks:
            task.cancel()

    async def run(self, on_progress: Progress | None = None) -> None:
        """Until every part has ended.

        Raises:
            PenstockError: the first failure of a part; the others were drained.
        """
        tasks = self._tasks = [asyncio.ensure_future(self._one(part)) for part in self._parts]
        reporter = asyncio.ensure_future(self._report(on_progress)) if on_progress is not None else None
        try:
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if reporter is not None:
                reporter.cancel()
        if on_progress is not None:
            on_progress(self.states)
        for part, task in zip(self._parts, tasks, strict=True):
            if task.cancelled() and self._abandoned:
                continue
            if task.cancelled():
                msg = f"{part.node.state.kind} {part.node.state.name} was cancelled from inside; it has not ended"
                raise PenstockError(msg)
            error = task.exception()
            if error is not None:
                raise error

    async def _one(self, part: Part) -> None:
        try:
            await part.node.run()
        except Unread:
            raise
        except BaseException:
            self.stop()
            raise
        finally:
            self._over.add(id(part))

    async def _report(self, on_progress: Progress) -> None:
        while True:
            await self._clock.sleep(REPORT_EVERY_S)
            on_progress(self.states)
