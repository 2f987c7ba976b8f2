"""A small test of this machine's disk for where the project's benchmarks are not at hand; not a benchmark."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from penstock.channel.api import Acked, Publish, TopicSpec
from penstock.channel.drivers.embedded import EmbeddedChannel
from penstock.errors import IOFailed
from penstock.event.batch import NewBatch, Rows
from penstock.system import System, real_system
from penstock.system.files import remove, write_synced

SYNCS, SINGLES, BULKS, BULK_EVENTS = 50, 200, 20, 10_000
BODY = b'{"flight":"UA-1545","origin":"EWR","dest":"IAH","scheduled":"2013-01-01T10:15:00Z","delay_min":2}'


class Measured(msgspec.Struct, frozen=True):
    """One figure, and what was done to get it."""

    name: str
    workload: str
    value: float
    unit: str


def measure(directory: Path) -> list[Measured]:
    """Sync, publish one by one and publish in bulk below `directory`; what was made is removed again."""
    system = real_system()
    try:
        with tempfile.TemporaryDirectory(prefix="penstock-bench-", dir=directory) as scratch:
            return asyncio.run(_measure(Path(scratch), system))
    finally:
        system.offload.close()


async def _measure(directory: Path, system: System) -> list[Measured]:
    clock = system.clock.monotonic_s
    syncs = _timed(clock, lambda: [write_synced(directory / "sync", BODY) for _ in range(SYNCS)])
    remove(directory / "sync")
    channel = EmbeddedChannel(directory / "log", system=system)
    try:
        await channel.open([TopicSpec("bench", partitions=1)])
        started = clock()
        for number in range(SINGLES):
            await _publish(channel, number, 1)
        singles = clock() - started
        started = clock()
        for number in range(SINGLES, SINGLES + BULKS):
            await _publish(channel, number, BULK_EVENTS)
        bulks = clock() - started
    finally:
        await channel.close()
    return [
        Measured("sync", f"{SYNCS} files of {len(BODY)} bytes written and synced", SYNCS / syncs, "syncs/s"),
        Measured(
            "publish one by one", f"{SINGLES} events, each durable before the next", SINGLES / singles, "events/s"
        ),
        Measured(
            "publish in bulk", f"{BULKS} transactions of {BULK_EVENTS} events", BULKS * BULK_EVENTS / bulks, "events/s"
        ),
    ]


def _timed(clock: Callable[[], float], work: Callable[[], object]) -> float:
    started = clock()
    work()
    return clock() - started


async def _publish(channel: EmbeddedChannel, sequence: int, count: int) -> None:
    batch = NewBatch("bench", 0, count, Rows.of([BODY] * count))
    answer = await channel.publish(Publish("bench", 1, sequence, [batch]))
    if not isinstance(answer, Acked):
        msg = f"a publish was answered with {answer}; expected it to be stored"
        raise IOFailed(msg)
