"""Parked events that are handled again, each with the events that wait behind it, in one run of calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from penstock.channel.typed import TypedTopic
from penstock.delivery.lot import Head, Now
from penstock.engine.parts import Picker
from penstock.errors import DecodeError
from penstock.event.batch import Delivered


class Line(msgspec.Struct, eq=False):
    """A head and what waits behind it, as offsets in order.

    From `stop` on nothing is called: that event has failed (then `failed`), or cannot be decoded.
    """

    head: Head
    offsets: Sequence[int]
    stop: int | None = None
    failed: bool = False

    def called(self, end: int | None) -> int:
        """Where the events end that were called, when nothing from `end` on was."""
        return min([self.offsets[-1] + 1, *(at for at in (self.stop, end) if at is not None)])


class Again:
    """The events of these lines, in offset order, decoded when they are called; see `Calls`.

    Anew: a handler may have changed what it was given before. Of the event that is being called, `delivered` is the
    batch that holds it and `attempt` which attempt at it this is.
    """

    delivered: Delivered
    attempt: int

    def __init__(self, lines: Sequence[Line], pickers: Mapping[int, Picker], topic: TypedTopic[Any], now: Now) -> None:
        self.now = now
        self.calls = 0
        self.cut = False
        self._uncalled: int | None = None
        self.inputs: Iterable[Delivered] = {id(picker): picker.delivered for picker in pickers.values()}.values()
        self._lines = {offset: line for line in lines for offset in line.offsets}
        self._pickers = pickers
        self._left = self._events(topic)

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """See `Calls`: those that were not called yet."""
        return self._left

    def cut_short(self) -> None:
        """See `Calls`."""
        self.cut = True

    def uncalled(self, last: int) -> int | None:
        """See `Calls`."""
        return self._uncalled

    def _events(self, topic: TypedTopic[Any]) -> Iterator[tuple[int, Any]]:
        lines = self._lines
        for offset, picker in self._pickers.items():
            line = lines[offset]
            if self.cut and self.calls:
                self._uncalled = offset
                return
            if line.stop is not None:
                continue
            try:
                event = picker.event(offset, topic)
            except DecodeError:
                line.stop = offset
                continue
            self.calls += 1
            head, self.delivered = line.head, picker.delivered
            self.attempt = head.attempts + 1 if head.offset == offset else 1
            yield offset, event

    def line(self, offset: int) -> Line:
        """The line the event is in."""
        return self._lines[offset]

    def batch(self, offset: int) -> Delivered:
        """The batch that holds the event."""
        return self._pickers[offset].delivered


__all__ = ["Again", "Line"]
