"""From publishing to the handler in another process at 1,000 events a second: alone, from asyncio, beside bulk."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench.disk import Appender
from bench.pacing import fifo_to, figures_of, latencies_of, paced, paced_async, said, spawn
from bench.product import fresh_app
from bench.row import Budget, Figure, Figures, Row
from bench.workload import POOL, Tick, bids, encode, new_tick, tick
from penstock import Acked
from penstock.event.batch import Rows
from penstock.log.blocks import encode_rows

if TYPE_CHECKING:
    from penstock import App, Client
    from penstock.app.declared import TopicHandle

WARMUP = 100
BULK_BLOCK_EVENTS = 10_000
BULK_EVENTS_PER_S = 200_000


def _figures(p50: Budget | None, p99: Budget) -> tuple[Figure, ...]:
    last = Figure("p99", "ms", "lower", p99, label="p99")
    return (last,) if p50 is None else (Figure("p50", "ms", "lower", p50, label="p50"), last)


class Latency(Row):
    """Floor: append a tick to a file, fdatasync, a byte into a FIFO; a reader in another process decodes it.

    The time is taken just before the append (for the product: before the publish call), so a slow sync delays the
    next tick's sending, not its measured latency: the same rule for both sides.
    """

    name = "latency"
    workload = "publish → handler in another process, 1,000/s, durable, each ack awaited, no bulk writer beside"
    figures = _figures(Budget(1.5), Budget(3))

    def setup(self, directory: Path, *, quick: bool) -> None:
        """See `Row`."""
        self.directory = directory
        self.count = WARMUP + (100 if quick else 2000)

    def floor(self) -> Figures:
        """See `Row`."""
        fifo, path = self.directory / "fifo", self.directory / "floor"
        os.mkfifo(fifo)
        with Appender(path) as file:
            reader = spawn("bench.floor_reader", fifo, path, self.count)
            woken = fifo_to(reader, fifo)

            def send() -> None:
                file.append(tick(time.perf_counter_ns()))
                file.sync()
                os.write(woken, b"!")

            try:
                paced(send, self.count)
            finally:
                os.close(woken)
                latencies = latencies_of(reader)
                fifo.unlink()
        return figures_of(latencies, WARMUP)

    def measure(self) -> Figures:
        """See `Row`."""
        with fresh_app(self.directory) as app:
            topic = app.topic("ticks", Tick, partitions=1)
            reader = spawn("bench.product_reader", app.directory, self.count)
            try:
                with self.beside(app):
                    self.publish(app, topic, reader)
            finally:
                latencies = latencies_of(reader)
        return figures_of(latencies, WARMUP)

    @contextmanager
    def beside(self, app: App) -> Generator[None]:
        """What else goes on meanwhile."""
        yield

    def publish(self, app: App, topic: TopicHandle[Tick], reader: subprocess.Popen[str]) -> None:
        """Send the ticks, the first one before the clock starts: the reader is there when it has been handled."""
        with app.client() as client:

            def send() -> None:
                outcome = client.publish(topic, new_tick(time.perf_counter_ns()))
                assert isinstance(outcome, Acked)

            send()
            said(reader, "ready")
            paced(send, self.count - 1)


class LatencyAsync(Latency):
    """Floor: as `Latency`."""

    name = "latency-async"
    workload = "publish from asyncio → handler in another process, 1,000/s, durable, no bulk writer beside"
    figures = _figures(Budget(2), Budget(3))

    def publish(self, app: App, topic: TopicHandle[Tick], reader: subprocess.Popen[str]) -> None:
        """See `Latency`."""

        async def publish() -> None:
            async with app.client() as client:

                async def send() -> None:
                    outcome = await client.publish(topic, new_tick(time.perf_counter_ns()))
                    assert isinstance(outcome, Acked)

                await send()
                await asyncio.to_thread(said, reader, "ready")
                await paced_async(send, self.count - 1)

        asyncio.run(publish())


class LatencyBesideBulk(Latency):
    """Floor: as `Latency`, while a third process appends and syncs blocks of 10,000 bids to a file of its own."""

    name = "latency-beside-bulk"
    workload = "publish → handler in another process, 1,000/s, durable, beside a publisher of 200,000 bids/s in bulk"
    figures = (
        *_figures(None, Budget(10, of="value")),
        Figure("bulk", "bids/s", "higher", Budget(0.9), label="bulk"),
    )

    def setup(self, directory: Path, *, quick: bool) -> None:
        """See `Row`."""
        super().setup(directory, quick=quick)
        bodies = [encode(event) for event in bids(min(POOL, BULK_BLOCK_EVENTS))]
        self.block = directory / "block"
        self.block.write_bytes(encode_rows(Rows.of(bodies))[0])

    def floor(self) -> Figures:
        """See `Row`."""
        bulk = spawn("bench.floor_bulk", self.block, self.directory / "bulk", BULK_EVENTS_PER_S / BULK_BLOCK_EVENTS)
        try:
            said(bulk, "ready")
            figures = super().floor()
        finally:
            out, _ = bulk.communicate()  # closes its input: that ends it
        return {**figures, "bulk": float(out) * BULK_BLOCK_EVENTS}

    def measure(self) -> Figures:
        """See `Row`."""
        figures = super().measure()
        return {**figures, "bulk": self.bulk_events_s}

    @contextmanager
    def beside(self, app: App) -> Generator[None]:
        """The publisher of bids."""
        per_s = BULK_EVENTS_PER_S / BULK_BLOCK_EVENTS
        bulk = spawn("bench.product_bulk", app.directory, BULK_BLOCK_EVENTS, per_s)
        try:
            said(bulk, "ready")
            yield
        finally:
            out, _ = bulk.communicate()  # closes its input: that ends it
        self.bulk_events_s = float(out)


class TwoPublishers(LatencyBesideBulk):
    """Floor: the same publisher alone, on a log of its own."""

    name = "two-publishers"
    workload = "a publisher at 1,000/s, each ack awaited, beside one of 200,000 bids/s in bulk and a consumer; its rate"
    figures = (Figure("rate", "events/s", "higher", Budget(0.8)),)

    def setup(self, directory: Path, *, quick: bool) -> None:
        """See `Row`."""
        Latency.setup(self, directory, quick=quick)

    def floor(self) -> Figures:
        """See `Row`."""
        with fresh_app(self.directory) as app:
            topic = app.topic("ticks", Tick, partitions=1)
            with app.client() as client:
                client.publish(topic, new_tick(0))
                return {"rate": self._rate(client, topic)}

    def measure(self) -> Figures:
        """See `Row`."""
        super().measure()
        return {"rate": self.events_s}

    def publish(self, app: App, topic: TopicHandle[Tick], reader: subprocess.Popen[str]) -> None:
        """See `Latency`."""
        with app.client() as client:
            client.publish(topic, new_tick(time.perf_counter_ns()))
            said(reader, "ready")
            self.events_s = self._rate(client, topic)

    def _rate(self, client: Client, topic: TopicHandle[Tick]) -> float:
        def send() -> None:
            outcome = client.publish(topic, new_tick(time.perf_counter_ns()))
            assert isinstance(outcome, Acked)

        started = time.perf_counter()
        paced(send, self.count - 1)
        return (self.count - 1) / (time.perf_counter() - started)
