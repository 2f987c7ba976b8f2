"""A program whose plain handler runs in processes: ``python -m tests.faults.processprogram PLACE``.

Some keys are those of bad events, each of which does to its process what its name says, every time; the others are
neighbours, which note how long they took. In the file ``calls`` there is a line per call.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import time
from pathlib import Path

import msgspec

from penstock import App, Context, Retry

PLACE = Path(os.environ.get("PLACE", "/nowhere"))
BAD = ("raise", "hang", "segfault", "exit", "allocate", "fork")
LIMIT_BYTES = 1_000_000_000
TIMEOUT_S = 1.0


class Item(msgspec.Struct):
    key: str
    number: int


class Done(msgspec.Struct):
    key: str
    number: int
    began_s: float
    ended_s: float
    process: int


app = App("processes", path=PLACE / "log")
items = app.topic("items", Item, key="key", partitions=2)
done = app.topic("done", Done, key="key", partitions=2)


def be_bad(kind: str) -> None:
    """What a handler should not do."""
    if kind == "raise":
        raise ValueError("again and again")
    if kind == "hang":
        time.sleep(1_000)
    if kind == "segfault":
        ctypes.string_at(0)
    if kind == "exit":
        os._exit(7)
    if kind == "allocate":
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
        held = []
        while True:
            held.append(bytearray(50_000_000))
    if kind == "fork":
        if os.fork() == 0:
            time.sleep(20)  # outlives its parent, and keeps its files open
            os._exit(0)
        os._exit(9)


@app.handle(items, into=done, concurrency=3, retry=Retry(2, first_s=0.01, timeout_s=TIMEOUT_S), name="work")
def work(item: Item, ctx: Context) -> Done:
    """Bad, or a few milliseconds of work."""
    began = time.monotonic()
    with (PLACE / "calls").open("a") as calls:
        calls.write(f"{item.key} {item.number} {ctx.attempt} {os.getpid()}\n")
    if item.key in BAD:
        be_bad(item.key)
    time.sleep(0.005)
    return Done(item.key, item.number, began, time.monotonic(), os.getpid())


if __name__ == "__main__":
    app.run(until_idle="--all" in sys.argv)
