"""A log with much to do for its upkeep, and a program that does it and may be cut off at any named point.

``python -m tests.faults.upkeepwork DIRECTORY POINT`` runs one pass and dies at that point (0: never); it prints the
names of the points it has met.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from random import Random

from penstock.channel.api import Publish, TopicSpec
from penstock.channel.bounds import Retention
from penstock.channel.drivers.embedded import EmbeddedChannel
from penstock.channel.drivers.embedded.upkeep import Upkeep
from penstock.event.batch import NewBatch, Rows
from penstock.log import ballast
from penstock.system import real_system
from penstock.system.points import hooked

LARGE, SMALL = 60, 400
TRIMMED = TopicSpec("trimmed", partitions=1, retention=Retention(bytes="200KB"))
BUNDLED = TopicSpec("bundled", partitions=1)


def large(number: int) -> bytes:
    """An event of the topic that is trimmed."""
    return b"%04d" % number + Random(number).randbytes(20_000)


def small(number: int) -> bytes:
    """An event of the topic that is compacted; every hundredth is large, and ends a run."""
    return b"small %04d" % number if number % 100 else Random(number).randbytes(20_000)


async def _opened(directory: Path) -> EmbeddedChannel:
    channel = EmbeddedChannel(directory, system=real_system())
    await channel.open([TRIMMED, BUNDLED])
    return channel


async def _prepared(directory: Path) -> None:
    channel = await _opened(directory)
    for topic, body, count in (("trimmed", large, LARGE), ("bundled", small, SMALL)):
        for number in range(count):
            batch = NewBatch(topic, 0, 1, Rows.of([body(number)]))
            await channel.publish(Publish(topic, 0, number, [batch]))
    await channel.close()
    ballast.release(directory)  # to be made again


def prepared(directory: Path) -> None:
    """Make the log."""
    asyncio.run(_prepared(directory))


async def _upkeep(directory: Path, point: int) -> None:
    met = 0

    def hook(name: str) -> None:
        nonlocal met
        met += 1
        print(name, flush=True)
        if met == point:
            os._exit(9)

    with hooked(hook):
        channel = await _opened(directory)
        await Upkeep(channel, real_system()).once()
        await channel.close()


if __name__ == "__main__":
    asyncio.run(_upkeep(Path(sys.argv[1]), int(sys.argv[2])))
