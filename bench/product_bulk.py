"""A third process for the latency rows: publishes the same bids in bulk at a steady rate until its input ends."""

from __future__ import annotations

import select
import sys
import time

from bench.workload import Bid, bids
from penstock import Acked, App


def main(path: str, events: int, per_s: float) -> None:
    """Publish `events` bids at once, `per_s` times a second; says "ready" when the first are durable.

    At the end it says how many a second it published.
    """
    app = App("bench", path)
    topic = app.topic("bids", Bid, partitions=1)
    block = bids(events)
    with app.client() as client:
        start = time.perf_counter()
        index = 0
        while not select.select([sys.stdin], [], [], max(0.0, start + index / per_s - time.perf_counter()))[0]:
            outcomes = client.publish_many(topic, block)
            assert all(isinstance(outcome, Acked) for outcome in outcomes)
            if index == 0:
                print("ready", flush=True)
            index += 1
        print(index * events / (time.perf_counter() - start), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
