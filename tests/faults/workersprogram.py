"""A worker that is killed and stopped while others share its groups: ``python -m tests.faults.workersprogram PLACE``.

`idle` as a second argument: it ends when nothing is left to do.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import msgspec

from penstock import App, Retry
from tests.faults.logwork import ROOT

PARTITIONS = 6
WORK_S = 0.007
"""Workers are busy for half of the time: one that is stopped has something in hand."""


class Item(msgspec.Struct):
    key: str
    number: int


def made(place: Path) -> App:
    """The app: items go through two handlers, one behind the other."""
    app = App("items", path=place / "log")
    items = app.topic("items", Item, key="key", partitions=PARTITIONS)
    half = app.topic("half", Item, key="key", partitions=PARTITIONS)
    done = app.topic("done", Item, key="key", partitions=PARTITIONS)

    @app.handle(items, into=half, retry=Retry(50, first_s=0))
    def begin(item: Item) -> Item:
        time.sleep(WORK_S)
        return item

    @app.handle(half, into=done, retry=Retry(50, first_s=0))
    def end(item: Item) -> Item:
        return item

    return app


def start(place: Path, *, idle: bool = False) -> subprocess.Popen[str]:
    """One more worker."""
    command = [sys.executable, "-m", "tests.faults.workersprogram", str(place), *(["idle"] if idle else [])]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL)  # type: ignore[return-value]


if __name__ == "__main__":
    made(Path(sys.argv[1])).run(until_idle=len(sys.argv) > 2)
