"""Ids of events, of topics that record each one once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from penstock.channel.api import Duplicate, Topic
from penstock.channel.ids import ids_of
from penstock.event.batch import NewBatch
from penstock.log.ids import HALF, not_ahead

Place = tuple[str, int]


class _Known(msgspec.Struct):
    """Where an event with an id lies, its content, and its time."""

    place: Place
    offset: int
    rest: bytes
    time_us: int | None


class EventIds:
    """What is remembered, for good: what lies behind the horizon is only not looked at."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, bytes], _Known] = {}
        self._newest_us: dict[Place, int] = {}

    def duplicates(
        self, batches: Sequence[NewBatch], topics: Mapping[str, Topic], tips: Mapping[Place, int]
    ) -> list[Duplicate]:
        """The events whose ids are remembered."""
        found: list[Duplicate] = []
        for number, batch in enumerate(batches):
            mine = ids_of(batch, topics[batch.topic].spec.dedupe)
            if mine is None:
                continue
            for index, half, rest in mine.marks:
                known = self._known.get((half, rest[:HALF]))
                if known is None:
                    continue
                newest_us = self._newest_us.get(known.place)
                behind = tips[known.place] - known.offset
                if mine.horizon.holds(behind=behind, time_us=known.time_us, newest_us=newest_us):
                    same = known.rest == rest
                    found.append(Duplicate(number, index, known.place[1], known.offset, same))
        return found

    def remember(
        self, batches: Sequence[NewBatch], topics: Mapping[str, Topic], first: Sequence[int], *, now_us: int
    ) -> None:
        """Note the ids of what was recorded from these offsets on."""
        for batch, offset in zip(batches, first, strict=True):
            mine = ids_of(batch, topics[batch.topic].spec.dedupe)
            if mine is None:
                continue
            place, time_us = (batch.topic, batch.partition), batch.time_max_us
            if time_us is not None:
                time_us = not_ahead(time_us, newest_us=self._newest_us.get(place), now_us=now_us)
            for index, half, rest in mine.marks:
                self._known[half, rest[:HALF]] = _Known(place, offset + index, rest, time_us)
            if time_us is not None:
                self._newest_us[place] = max(self._newest_us.get(place, time_us), time_us)
