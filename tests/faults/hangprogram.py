"""A program whose handler hangs at one event: ``python -m tests.faults.hangprogram KIND DIRECTORY``.

sync: a plain function sleeps. blocking: an async one does, and holds the event loop. awaiting: an async one waits for
what never comes. aside: the same beside others that go on. Whoever started it ends it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from penstock import App, Retry

EVENTS = 6
HANGS = 3
WARN_S = 1.0
SECRET = "a value that no log may show"


class Item(msgspec.Struct):
    number: int
    secret: str


def made(directory: Path, kind: str = "sync") -> App:
    """The program over the log in `directory`."""
    app = App("hang", directory / "log")
    items = app.topic("items", Item, partitions=1)
    handler, concurrency = HANDLERS[kind]
    app.handle(items, retry=Retry(warn_s=WARN_S), concurrency=concurrency, name="work")(handler)
    return app


def hang_here() -> None:
    """Holds its thread."""
    time.sleep(600)


async def wait_here() -> None:
    """Holds nobody but its caller."""
    await asyncio.Event().wait()


def _sync(item: Item) -> None:
    if item.number == HANGS:
        hang_here()


async def _blocking(item: Item) -> None:
    if item.number == HANGS:
        hang_here()


async def _awaiting(item: Item) -> None:
    if item.number == HANGS:
        await wait_here()


HANDLERS: dict[str, tuple[Any, int]] = {
    "sync": (_sync, 1),
    "blocking": (_blocking, 1),
    "awaiting": (_awaiting, 1),
    "aside": (_awaiting, 4),
}


if __name__ == "__main__":
    made(Path(sys.argv[2]), sys.argv[1]).run()
