"""A third process for the latency floor: appends and syncs the same block at a steady rate until its input ends."""

from __future__ import annotations

import select
import sys
import time
from pathlib import Path

from bench.disk import Appender


def main(block: Path, path: Path, per_s: float) -> None:
    """Append `block` to `path` `per_s` times a second; says "ready" when the first is durable.

    At the end it says how often a second it did.
    """
    data = block.read_bytes()
    with Appender(path) as file:
        start = time.perf_counter()
        index = 0
        while not select.select([sys.stdin], [], [], max(0.0, start + index / per_s - time.perf_counter()))[0]:
            file.append(data)
            file.sync()
            if index == 0:
                print("ready", flush=True)
            index += 1
        print(index / (time.perf_counter() - start), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
