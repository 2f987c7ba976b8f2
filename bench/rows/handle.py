"""Per-event handlers: nothing returned, from columns and from rows, sync and async; and one event out per event in."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.product import fill_columns, fill_rows, fresh_app, run_group
from bench.row import Budget, Figure, Figures, Row
from bench.workload import (
    POOL,
    POOL_QUICK,
    Bid,
    Converted,
    bids,
    converted,
    decode_bid,
    encode,
    record_batch,
    rejected,
    repeated,
)
from penstock import App, Reject

if TYPE_CHECKING:
    from penstock.app.declared import TopicHandle

EVENTS = 2_000_000
BLOCK_EVENTS = 10_000


class Handle(Row):
    """What the handler rows share: a topic of bids that is filled once, a new consumer group for every measurement.

    Floor: a bare loop that decodes the same events, encoded and in memory, one by one. The product's figure is that of
    a whole run: opening the log, taking the group over, reading, handling, committing every step, coming to rest.
    """

    figures: tuple[Figure, ...]

    def __init__(self) -> None:
        self._owned = ExitStack()

    def setup(self, directory: Path, *, quick: bool) -> None:
        """See `Row`."""
        pool = bids(POOL_QUICK if quick else POOL)
        self.count = 2 * len(pool) if quick else EVENTS
        self.bodies = [encode(event) for event in pool] * (self.count // len(pool))
        self.app = self._owned.enter_context(fresh_app(directory))
        self.topic = self.app.topic("bids", Bid, partitions=1)
        self.fill(pool)
        self.runs = 0

    def fill(self, pool: list[Bid]) -> None:
        """Publish `count` bids."""
        fill_rows(self.app, self.topic, repeated(pool, self.count))

    def floor(self) -> Figures:
        """See `Row`."""
        start = time.perf_counter()
        for body in self.bodies:
            decode_bid(body)
        return {"events": len(self.bodies) / (time.perf_counter() - start)}

    def measure(self) -> Figures:
        """See `Row`."""
        return {"events": self.handled(_nothing)}

    def handled(self, handler: Callable[[Bid], Any]) -> float:
        """Events a second of a run in which a group that has read nothing yet calls `handler`."""
        self.runs += 1
        app = App(self.app.name, self.app.directory)
        topic = app.topic("bids", Bid, partitions=1)
        name = f"handler-{self.runs}"
        app.handle(topic, into=self.into(app), name=name)(handler)
        return run_group(app, name, events=self.count, dead=self.dead())

    def into(self, app: App) -> TopicHandle[Any] | None:
        """The topic that gets what the handler returns."""
        return None

    def dead(self) -> int:
        """How many events the handler rejects."""
        return 0

    def close(self) -> None:
        """See `Row`."""
        self._owned.close()


class HandleColumns(Handle):
    """Floor: bare msgspec decode loop."""

    name = "handle-columns"
    workload = "a sync handler that returns nothing, on bids stored as columns; offsets and attempts kept"
    figures = (Figure("events", "events/s", "higher", Budget(0.5)),)

    def fill(self, pool: list[Bid]) -> None:
        """See `Handle`."""
        batches = [record_batch(pool[i : i + BLOCK_EVENTS]) for i in range(0, len(pool), BLOCK_EVENTS)]
        fill_columns(self.app, self.topic, batches * (self.count // len(pool)))


class HandleRows(Handle):
    """Floor: bare msgspec decode loop."""

    name = "handle-rows"
    workload = "a sync handler that returns nothing, on bids stored as JSON rows"
    figures = (Figure("events", "events/s", "higher", Budget(0.4)),)


class HandleAsync(Handle):
    """Floor: bare msgspec decode loop."""

    name = "handle-async"
    workload = "an async handler that returns nothing, on bids stored as JSON rows"
    figures = (Figure("events", "events/s", "higher", Budget(0.2)),)

    def measure(self) -> Figures:
        """See `Row`."""
        return {"events": self.handled(_nothing_async)}


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
        return {"events": self.handled(_converted)}

    def into(self, app: App) -> TopicHandle[Any]:
        """See `Handle`."""
        return app.topic("converted", Converted, partitions=1)

    def dead(self) -> int:
        """See `Handle`."""
        return self.count // 100


def _nothing(bid: Bid) -> None:
    pass


async def _nothing_async(bid: Bid) -> None:
    pass


def _converted(bid: Bid) -> Converted:
    if rejected(bid):
        raise Reject("divisible by 100")
    return converted(bid)
