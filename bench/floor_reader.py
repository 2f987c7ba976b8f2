"""The other process of the latency floor: waits on a FIFO, reads the new ticks of a file, prints their latencies."""

from __future__ import annotations

import json
import os
import sys
import time

from bench.workload import BID_BYTES, decode_tick


def main(fifo: str, path: str, count: int) -> None:
    """Read `count` ticks as they come; print a JSON list of nanoseconds from sending to having them decoded."""
    latencies: list[int] = []
    pending = b""
    woken = os.open(fifo, os.O_RDONLY | os.O_CLOEXEC)
    data = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    while len(latencies) < count:
        if not os.read(woken, 4096):
            sys.exit(f"the sender closed {fifo} after {len(latencies)} of {count} ticks")
        while chunk := os.read(data, 1 << 16):
            pending += chunk
        whole = len(pending) // BID_BYTES * BID_BYTES
        for start in range(0, whole, BID_BYTES):
            tick = decode_tick(pending[start : start + BID_BYTES])
            latencies.append(time.perf_counter_ns() - tick.sent_ns)
        pending = pending[whole:]
    print(json.dumps(latencies))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
