"""Per-event handlers: nothing returned, from columns and from rows, sync and async; and one event out per event in."""

from __future__ import annotations

import time
from pathlib import Path

from bench.row import Budget, Figure, Figures, NotBuilt, Row
from bench.workload import POOL, bids, converted, decode_bid, encode, rejected

EVENTS = 500_000


class Handle(Row):
    """What the handler rows share: the encoded bids, and as floor the bare loop that decodes them one by one."""

    def setup(self, directory: Path, *, quick: bool) -> None:
        """See `Row`."""
        self.directory = directory
        self.count = EVENTS // 10 if quick else EVENTS
        self.pool = bids(min(POOL, self.count))
        self.bodies = [encode(event) for event in self.pool] * (self.count // len(self.pool))

    def floor(self) -> Figures:
        """See `Row`."""
        start = time.perf_counter()
        for body in self.bodies:
            decode_bid(body)
        return {"events": len(self.bodies) / (time.perf_counter() - start)}


class HandleColumns(Handle):
    """Floor: bare msgspec decode loop."""

    name = "handle-columns"
    workload = "a sync handler that returns nothing, on bids stored as columns; offsets and attempts kept"
    figures = (Figure("events", "events/s", "higher", Budget(0.5)),)

    def measure(self) -> Figures:
        """See `Row`."""
        msg = "handlers"
        raise NotBuilt(msg)


class HandleRows(Handle):
    """Floor: bare msgspec decode loop."""

    name = "handle-rows"
    workload = "a sync handler that returns nothing, on bids stored as JSON rows"
    figures = (Figure("events", "events/s", "higher", Budget(0.4)),)

    def measure(self) -> Figures:
        """See `Row`."""
        msg = "handlers"
        raise NotBuilt(msg)


class HandleAsync(Handle):
    """Floor: bare msgspec decode loop."""

    name = "handle-async"
    workload = "an async handler that returns nothing, on bids stored as JSON rows"
    figures = (Figure("events", "events/s", "higher", Budget(0.2)),)

    def measure(self) -> Figures:
        """See `Row`."""
        msg = "async handlers"
        raise NotBuilt(msg)


class HandleInto(Handle):
    """Floor: decode, build the output struct, encode it; nothing stored."""

    name = "handle-into"
    workload = (
        "a sync handler that returns one typed event per event and rejects 1 %, all committed durably in the step"
    )
    figures = (Figure("events", "events/s", "higher", Budget(0.4)),)

    def floor(self) -> Figures:
        """See `Row`."""
        start = time.perf_counter()
        for body in self.bodies:
            bid = decode_bid(body)
            if rejected(bid):
                continue
            encode(converted(bid))
        return {"events": len(self.bodies) / (time.perf_counter() - start)}

    def measure(self) -> Figures:
        """See `Row`."""
        msg = "handlers with into="
        raise NotBuilt(msg)
