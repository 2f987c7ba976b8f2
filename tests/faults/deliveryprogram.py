"""A program whose handler fails in every way: it raises, dies, hangs, and goes on when it is mended.

``python -m tests.faults.deliveryprogram DIRECTORY`` runs it until it is idle; what MODE says decides what fails.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from pathlib import Path

import msgspec

from penstock import App, Context, OnFailure, Retry

EVENTS = 400
KEYS = 6
FAILS_EVERY = 37


class Item(msgspec.Struct):
    """One event of a key; `number` counts over all keys."""

    key: str
    number: int


def made(directory: Path, mode: str = "healthy") -> App:
    """The program over the log in `directory`."""
    app = App("delivery", directory / "log")
    items = app.topic("items", Item, key="key", partitions=2)
    done = app.topic("done", Item, key="key", partitions=2)

    @app.handle(items, into=done, retry=Retry(2, first_s=0.01), on_failure=OnFailure(given_up="block"), name="work")
    def work(item: Item, ctx: Context) -> Item:  # pyright: ignore[reportUnusedFunction]
        bad(mode, item, ctx)
        return item

    return app


def bad(mode: str, item: Item, ctx: Context) -> None:
    """What the mode does to some events."""
    if mode == "healthy" or item.number % FAILS_EVERY:
        return
    if mode == "raise" and not ctx.redriven:
        raise ValueError(f"item {item.number}")
    if mode == "raise":
        time.sleep(0.15)  # time enough to be killed in
    if mode == "exit":
        os._exit(3)
    if mode == "segfault":
        ctypes.string_at(0)
    if mode == "allocate":
        grown = [bytearray(1 << 24) for _ in range(1 << 20)]
        raise MemoryError(len(grown))


def items() -> list[Item]:
    """All events."""
    return [Item(f"k{number % KEYS}", number) for number in range(EVENTS)]


def main(arguments: list[str]) -> int:
    """See the module."""
    app = made(Path(arguments[0]), os.environ.get("MODE", "healthy"))
    asyncio.run(app.serve(until_idle=True))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
