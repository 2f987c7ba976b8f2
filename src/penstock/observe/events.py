"""Recorded events of a topic in the order they were recorded: the last ones, those from somewhere on, and new ones."""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, Protocol

from penstock.channel.api import Columnar, Scan
from penstock.channel.typed import TypedTopic
from penstock.engine.context import Identity
from penstock.event.batch import Delivered
from penstock.event.envelope import RecordedEvent

SCAN_EVENTS = 2_000
_ORDER = attrgetter("recorded_time", "partition", "offset")


class Tidings(Protocol):
    """Waits for new events."""

    async def wait(self, seconds: float) -> None:
        """Return when there may be something new, or after `seconds`."""
        ...


class TopicEvents:
    """Reads one topic of an open channel, some or all of its partitions."""

    def __init__(self, channel: Columnar, topic: TypedTopic[Any], *, partitions: Sequence[int]) -> None:
        self._channel = channel
        self._topic = topic
        self._partitions = partitions

    async def tips(self) -> dict[int, int]:
        """Per partition, the offset that the next event gets."""
        tips = await self._channel.tips(self._topic.name)
        return {partition: tips[partition] for partition in self._partitions}

    async def last(self, count: int) -> list[RecordedEvent]:
        """The `count` events recorded last, in the order they were recorded."""
        tips = await self.tips()
        found = [
            event
            for partition, tip in tips.items()
            async for event in self._partition(partition, max(0, tip - count), tip)
        ]
        return heapq.nlargest(count, found, key=_ORDER)[::-1]

    async def between(self, starts: Mapping[int, int], ends: Mapping[int, int]) -> AsyncIterator[RecordedEvent]:
        """Events from `starts` to before `ends`, merged from the partitions in the order they were recorded."""
        streams = [self._partition(partition, starts[partition], ends[partition]) for partition in self._partitions]
        heads: list[tuple[Any, int, RecordedEvent]] = []
        for number, stream in enumerate(streams):
            head = await anext(stream, None)
            if head is not None:
                heapq.heappush(heads, (_ORDER(head), number, head))
        while heads:
            _, number, event = heapq.heappop(heads)
            yield event
            following = await anext(streams[number], None)
            if following is not None:
                heapq.heappush(heads, (_ORDER(following), number, following))

    async def follow(self, starts: Mapping[int, int], tidings: Tidings) -> AsyncIterator[RecordedEvent]:
        """Events from `starts` on, and new ones as they come; ends when it is closed or cancelled."""
        position = dict(starts)
        while True:
            tips = await self.tips()
            async for event in self.between(position, tips):
                yield event
            quiet = all(position[partition] >= tip for partition, tip in tips.items())
            position = tips
            if quiet:
                await tidings.wait(1.0)

    async def recorded_from(self, moment_us: int) -> dict[int, int]:
        """Per partition, the first offset recorded at `moment_us` or later (where the clock never went back)."""
        tips = await self.tips()
        return {partition: await self._first(partition, tip, moment_us) for partition, tip in tips.items()}

    async def _first(self, partition: int, tip: int, moment_us: int) -> int:
        low, high = 0, tip  # everything before `low` is older
        while low < high:
            middle = (low + high) // 2
            scan = Scan(self._topic.name, partition, middle, middle + 1)
            found = await self._channel.scan(scan, events_max=1)
            if not found or found[0].recorded_us < moment_us:  # what is not kept any more is older than what is
                low = middle + 1
            else:
                high = middle
        return low

    async def _partition(self, partition: int, start: int, end: int) -> AsyncIterator[RecordedEvent]:
        while start < end:
            found = await self._channel.scan(Scan(self._topic.name, partition, start, end), events_max=SCAN_EVENTS)
            if not found:
                return
            for delivered in found:
                for event in _events(delivered, self._topic):
                    yield event
            start = found[-1].end


def _events(delivered: Delivered, topic: TypedTopic[Any]) -> Iterator[RecordedEvent]:
    identity = Identity(delivered, topic)
    return (identity.event(index) for index in range(delivered.count))
