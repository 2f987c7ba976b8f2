"""A second process for the upkeep row: looks after the log without a pause until its input ends."""

from __future__ import annotations

import asyncio
import select
import sys
from pathlib import Path

from penstock.channel.drivers.embedded import EmbeddedChannel
from penstock.channel.drivers.embedded.upkeep import Upkeep
from penstock.system import real_system


async def main(path: str) -> None:
    """Say "ready", then trim and compact for as long as the input is open; at the end, how many events were touched."""
    system = real_system()
    channel = EmbeddedChannel(Path(path), system=system)
    await channel.open([])
    upkeep = Upkeep(channel, system)
    done = 0
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], 0.001)[0]:
        report = await upkeep.once()
        if report is not None:
            done += report.bundled + sum(topic.events for topic in report.topics)
    await channel.close()
    system.offload.close()
    print(done, flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
