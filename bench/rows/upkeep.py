"""Publishing beside retention and compaction that have more than enough to do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench.pacing import paced, said, spawn
from bench.product import fresh_app
from bench.row import Budget, Figure, Figures, Row
from bench.stats import percentile
from bench.workload import Tick, new_tick
from penstock import Acked
from penstock.channel.api import Publish, TopicSpec
from penstock.channel.bounds import Retention
from penstock.channel.drivers.embedded import EmbeddedChannel
from penstock.event.batch import NewBatch, Rows
from penstock.system import real_system

if TYPE_CHECKING:
    from penstock import App
    from penstock.app.declared import TopicHandle

WARMUP = 100
PUBLISHERS = 500


class Upkeep(Row):
    """Floor: the same publishing to the same log, with as much in it, and nobody looks after it."""

    name = "upkeep"
    workload = "publish one by one, 1,000/s, each ack awaited, while another process trims and compacts without a pause"
    figures = (Figure("p99", "ms", "lower", Budget(5), label="p99"),)

    def setup(self, directory: Path, *, quick: bool) -> None:
        """See `Row`."""
        self.directory = directory
        self.count = WARMUP + (200 if quick else 2000)
        self.small = 2_000 if quick else 20_000

    def floor(self) -> Figures:
        """See `Row`."""
        with self.filled() as (app, topic):
            return {"p99": self.publish(app, topic)}

    def measure(self) -> Figures:
        """See `Row`."""
        with self.filled() as (app, topic):
            upkeep = spawn("bench.product_upkeep", app.directory)
            try:
                said(upkeep, "ready")
                p99 = self.publish(app, topic)
            finally:
                out, _ = upkeep.communicate()  # closes its input: that ends it
        assert int(out) > 0, "nothing was trimmed or compacted meanwhile"
        return {"p99": p99}

    @contextmanager
    def filled(self) -> Generator[tuple[App, TopicHandle[Tick]]]:
        """A log with a topic of small blocks, and one of which nearly everything is to go."""
        with fresh_app(self.directory) as app:
            ticks = app.topic("ticks", Tick, partitions=1)
            app.retain(ticks, bytes="100KB")
            asyncio.run(self.fill(app))
            yield app, ticks

    async def fill(self, app: App) -> None:
        """One event a block: many publishers at once share the syncs."""
        system = real_system()
        channel = EmbeddedChannel(app.directory, system=system)
        old = TopicSpec("old", partitions=1, retention=Retention(bytes="100KB"))
        await channel.open([TopicSpec("small", partitions=1), old])
        body = system.random.randbytes(2000)
        for sequence in range(self.small // PUBLISHERS):
            for topic, size in (("small", 100), ("old", 2000)):
                batch = NewBatch(topic, 0, 1, Rows.of([body[:size]]))
                wanted = [Publish(f"{topic}-{n}", 0, sequence, [batch]) for n in range(PUBLISHERS)]
                await asyncio.gather(*map(channel.publish, wanted))
        await channel.close()
        system.offload.close()

    def publish(self, app: App, topic: TopicHandle[Tick]) -> float:
        """Send the ticks; the 99th percentile of the time from the call to its ack, in milliseconds."""
        taken: list[float] = []
        with app.client() as client:

            def send() -> None:
                started = time.perf_counter()
                outcome = client.publish(topic, new_tick(time.perf_counter_ns()))
                taken.append(time.perf_counter() - started)
                assert isinstance(outcome, Acked)

            paced(send, self.count)
        return percentile(taken[WARMUP:], 99) * 1000
