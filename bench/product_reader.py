"""The other process of the latency rows: a program whose handler notes how old each tick is when it gets it."""

from __future__ import annotations

import asyncio
import json
import sys
import time

from bench.workload import Tick
from penstock import App


async def run(path: str, count: int) -> list[int]:
    """Handle `count` ticks as they come; nanoseconds from sending to having each in the handler."""
    app = App("bench", path)
    ticks = app.topic("ticks", Tick, partitions=1)
    latencies: list[int] = []
    stop = asyncio.Event()

    @app.handle(ticks)
    def note(tick: Tick) -> None:
        latencies.append(time.perf_counter_ns() - tick.sent_ns)
        if len(latencies) == count:
            stop.set()
        elif len(latencies) == 1:
            print("ready", flush=True)

    await app.serve(stop)
    return latencies


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(sys.argv[1], int(sys.argv[2])))))
