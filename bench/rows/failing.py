"""Handlers that fail: one event in a hundred once, one key for good; and async handlers side by side."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import ExitStack
from itertools import chain, repeat
from pathlib import Path
from typing import Any
from zlib import crc32

from bench.floor_parking import handle_all, parts_of
from bench.product import fresh_app, run_group
from bench.row import Budget, Figure, Figures, Row
from bench.workload import Bid, bids, converted
from penstock import App, Context, OnFailure, Retry
from penstock.app.declared import TopicHandle

EVENTS, EVENTS_QUICK = 500_000, 5_000
KEYS = 10_000
FAILS_EVERY = 100
PAUSE_S = 0.1
LOOK_EVERY = 20_000
RUNS = 3


class _Failing(Row):
    """A topic keyed by auction, filled once; floor: the same handler, all of it healthy, in the same run."""

    events = EVENTS

    def __init__(self) -> None:
        self._owned = ExitStack()

    def setup(self, directory: Path, *, quick: bool) -> None:
        """See `Row`."""
        self.count = EVENTS_QUICK if quick else self.events
        pool = bids(min(self.count, EVENTS))
        for number, bid in enumerate(pool):
            bid.auction = self.key_of(number)
            bid.bidder = number
        self.prepare(pool)
        self.app = self._owned.enter_context(fresh_app(directory))
        topic = self.topic(self.app)
        with self.app.client() as client:
            for start in range(0, self.count, 5_000):
                at = start % len(pool)
                client.publish_many(topic, pool[at : at + 5_000])
        self.runs = 0

    @staticmethod
    def topic(app: App) -> TopicHandle[Bid]:
        """The input."""
        return app.topic("bids", Bid, partitions=1, key="auction")

    def key_of(self, number: int) -> int:
        """The key of the event of this number."""
        return number % KEYS

    def prepare(self, pool: list[Bid]) -> None:
        """Keep of the events what the floor needs."""

    def fresh(self) -> tuple[App, TopicHandle[Bid], str]:
        """The app with a consumer group that has read nothing yet."""
        self.runs += 1
        app = App(self.app.name, self.app.directory)
        return app, self.topic(app), f"handler-{self.runs}"

    def close(self) -> None:
        """See `Row`."""
        self._owned.close()


class OnePercentOnce(_Failing):
    """Floor: the same handler, and nothing fails."""

    name = "fail-once"
    workload = "a sync handler of keyed events of which 1 % fail once and are tried again; all handled in the end"
    figures = (Figure("events", "events/s", "higher", Budget(0.7)),)
    events = 6 * EVENTS
    """A run of seconds: the pause before the last attempt is not to be what is measured."""

    def floor(self) -> Figures:
        """See `Row`."""
        return {"events": self._run(failing=False)}

    def measure(self) -> Figures:
        """See `Row`."""
        return {"events": self._run(failing=True)}

    def _run(self, *, failing: bool) -> float:
        app, topic, name = self.fresh()

        @app.handle(topic, retry=Retry(3, first_s=PAUSE_S), on_failure=OnFailure(keys_max=KEYS), name=name)
        def handler(bid: Bid, ctx: Context) -> None:  # which ones is drawn on both sides
            if crc32(b"%d" % bid.bidder) % FAILS_EVERY == 0 and failing and ctx.attempt == 1:
                raise ValueError("once")

        return run_group(app, name, events=self.count)


class OnePercentKept(OnePercentOnce):
    """Floor: a bare loop, all in memory: what it keeps of its own healthy rate when the same events fail."""

    name = "fail-once-kept"
    workload = "the share of the healthy rate that is left when 1 % fail once, beside that of a bare loop in memory"
    figures = (Figure("kept", "of healthy", "higher", Budget(0.9)),)

    def prepare(self, pool: list[Bid]) -> None:
        """See `_Failing`."""
        self.parts = parts_of(pool)
        self.times = max(1, self.count // len(pool))

    def floor(self) -> Figures:
        """See `Row`."""
        return {"kept": self._bare(failing=False) / self._bare(failing=True)}

    def _bare(self, *, failing: bool) -> float:
        def handler(bid: Bid, attempt: int) -> None:
            if crc32(b"%d" % bid.bidder) % FAILS_EVERY == 0 and failing and attempt == 1:
                raise ValueError("once")

        return handle_all(chain.from_iterable(repeat(self.parts, self.times)), handler, pause_s=PAUSE_S)

    def measure(self) -> Figures:
        """See `Row`."""
        healthy = self._run(failing=False)
        return {"kept": self._run(failing=True) / healthy}


class BlockedKey(_Failing):
    """Floor: the same topic and handler, and no key waits; the events of the one key are not counted on either side."""

    name = "blocked-key"
    workload = "one key of 10,000 waits with a fifth of all events behind it; the rate of the other keys, and memory"
    figures = (
        Figure("others", "events/s", "higher", Budget(0.9)),
        Figure("grown", "MB", "lower", Budget(50, of="value"), label="memory"),
    )

    def key_of(self, number: int) -> int:
        """See `_Failing`: a fifth of all are of key 0."""
        return 0 if number % 5 == 0 else number % KEYS

    def floor(self) -> Figures:
        """See `Row`."""
        return self._measured(blocked=False)

    def measure(self) -> Figures:
        """See `Row`."""
        return self._measured(blocked=True)

    def _measured(self, *, blocked: bool) -> Figures:
        """The rate of the other keys over some runs of half a second, and by how much the process grew at most."""
        found = [self._run(blocked=blocked) for _ in range(RUNS)]
        others = self.count - self.count // 5
        return {"others": RUNS * others / sum(s for s, _ in found), "grown": max(grown for _, grown in found)}

    def _run(self, *, blocked: bool) -> tuple[float, float]:
        """Seconds, and by how many MB the process grew, looked at every so many events."""
        app, topic, name = self.fresh()
        policy = OnFailure(given_up="block")
        before = most = _mb()

        @app.handle(topic, retry=Retry(1), on_failure=policy, name=name)
        def handler(bid: Bid) -> None:
            nonlocal most
            if bid.bidder % LOOK_EVERY == 1:
                most = max(most, _mb())
            if blocked and bid.auction == 0:
                raise ValueError("wait for people")

        report = app.run(until_idle=True)
        state = report.part(name)
        waiting = self.count // 5 - 1 if blocked else 0
        assert (state.gauge.events, state.events) == (waiting, self.count - waiting), state
        return report.seconds, max(0.1, most - before)


class SideBySide(Row):
    """Floor: as many workers of a bare asyncio loop, each awaiting 10 ms an event, without any log."""

    name = "side-by-side"
    workload = "an async handler that waits 10 ms and returns an event, concurrency 100, keyed, committed durably"
    figures = (Figure("events", "events/s", "higher", Budget(0.9)),)
    concurrency, seconds = 100, 0.01

    def __init__(self) -> None:
        self._owned = ExitStack()

    def setup(self, directory: Path, *, quick: bool) -> None:
        """See `Row`."""
        self.count = 1_000 if quick else 30_000
        self.app = self._owned.enter_context(fresh_app(directory))
        pool = bids(self.count)
        for number, bid in enumerate(pool):
            bid.auction = number % KEYS
        topic = self._topic(self.app)
        with self.app.client() as client:
            client.publish_many(topic, pool)
        self.runs = 0

    @staticmethod
    def _topic(app: App) -> TopicHandle[Bid]:
        return app.topic("bids", Bid, partitions=4, key="auction")

    def floor(self) -> Figures:
        """See `Row`."""
        return {"events": asyncio.run(self._bare())}

    async def _bare(self) -> float:
        numbers = iter(range(self.count))

        async def worker() -> None:
            for _ in numbers:
                await asyncio.sleep(self.seconds)

        start = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(self.concurrency)))
        return self.count / (time.perf_counter() - start)

    def measure(self) -> Figures:
        """See `Row`."""
        self.runs += 1
        app = App(self.app.name, self.app.directory)
        into: TopicHandle[Any] = app.topic(f"converted-{self.runs}", type(converted(bids(1)[0])), partitions=4)
        name = f"handler-{self.runs}"

        @app.handle(self._topic(app), into=into, concurrency=self.concurrency, name=name)
        async def handler(bid: Bid) -> Any:
            await asyncio.sleep(self.seconds)
            return converted(bid)

        return {"events": run_group(app, name, events=self.count)}

    def close(self) -> None:
        """See `Row`."""
        self._owned.close()


def _mb() -> float:
    """The memory of this process now, in MB; 0 where the system has no such file."""
    told = Path("/proc/self/statm")
    return int(told.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6 if told.exists() else 0.0
