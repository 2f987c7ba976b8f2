"""From publishing to the handler in another process at 1,000 events a second: alone, from asyncio, beside bulk."""

from __future__ import annotations

import os
import time
from pathlib import Path

from bench.disk import Appender
from bench.pacing import fifo_to, figures_of, latencies_of, paced, spawn
from bench.row import Budget, Figure, Figures, NotBuilt, Row
from bench.workload import POOL, bids, encode, tick
from penstock.event.batch import Rows
from penstock.log.blocks import encode_rows

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
        self.count = WARMUP + (500 if quick else 2000)

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
        msg = "a handler in another process"
        raise NotBuilt(msg)


class LatencyAsync(Latency):
    """Floor: as `Latency`."""

    name = "latency-async"
    workload = "publish from asyncio → handler in another process, 1,000/s, durable, no bulk writer beside"
    figures = _figures(Budget(2), Budget(3))


class LatencyBesideBulk(Latency):
    """Floor: as `Latency`, while a third process appends and syncs blocks of 10,000 bids to a file of its own."""

    name = "latency-beside-bulk"
    workload = "publish → handler in another process, 1,000/s, durable, beside a publisher of 200,000 bids/s in bulk"
    figures = _figures(None, Budget(10, of="value"))

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
            assert bulk.stdout is not None
            if bulk.stdout.readline() != "ready\n":
                msg = "the bulk writer ended before its first block; its standard error says why"
                raise RuntimeError(msg)
            return super().floor()
        finally:
            bulk.communicate()  # closes its input: that ends it
