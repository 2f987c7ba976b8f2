"""A program that is ended while it works: ``python -m tests.faults.engineprogram KIND PLACE``.

slow: an async handler stops at event 5 until a line comes on standard input, and says when it is there.
deadly: the handler leaves the process by `os._exit` whenever it gets event 5.
slower: a plain handler that is quick, until it says so; then each event takes it PAUSE_S, while nobody has said free.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from penstock import App, Retry
from tests.faults.logwork import ROOT

EVENTS = 12
SPECIAL = 5
ATTEMPTS = 2
MANY = 30_000
QUICK = 20_100
PAUSE_S = 0.5


class Item(msgspec.Struct):
    number: int


def made(place: Path, kind: str = "slow") -> App:
    """The app: items go through one handler into another topic."""
    app = App("items", path=place / "log")
    items = app.topic("items", Item, partitions=1)
    done = app.topic("done", Item, partitions=1)

    if kind == "slow":

        @app.handle(items, into=done, name="work")
        async def slow(item: Item) -> Item:
            if item.number == SPECIAL and not (place / "free").exists():
                print("in hand", flush=True)
                await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
            return item
    elif kind == "slower":

        @app.handle(items, into=done, name="work")
        def slower(item: Item) -> Item:
            if item.number >= QUICK and not (place / "free").exists():
                print("slow now", flush=True)
                time.sleep(PAUSE_S)
            return item
    else:

        @app.handle(items, into=done, name="work", retry=Retry(ATTEMPTS, first_s=0))
        def deadly(item: Item) -> Item:
            if item.number == SPECIAL:
                os._exit(9)
            return item

    return app


def start(kind: str, place: Path) -> subprocess.Popen[str]:
    """Start it on a log that has its events already."""
    command = [sys.executable, "-m", "tests.faults.engineprogram", kind, str(place)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def main(kind: str, place: str) -> None:
    """Run until everything is done, or until told to stop."""
    made(Path(place), kind).run(until_idle=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
