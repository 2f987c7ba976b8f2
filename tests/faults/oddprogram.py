"""A program whose plain handler runs in processes, and does to its own what the key of its event says.

In the file ``calls`` there is a line per call: key, attempt, process.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec

from penstock import App, Context, Reject, Retry

PLACE = Path(os.environ.get("PLACE", "/nowhere"))
TIMEOUT_S = float(os.environ.get("TIMEOUT_S", "20"))
time.sleep(float(os.environ.get("LOAD_S", "0")))
if (PLACE / "broken").exists():
    raise RuntimeError("half of a new version")


class Item(msgspec.Struct):
    key: str
    number: int


class Longer(Item):
    more: str


class Bare(Exception):
    """Made in an unusual way."""

    def __new__(cls, code: int) -> Bare:
        return super().__new__(cls, code)


app = App("odd", path=PLACE / "log")
items = app.topic("items", Item, key="key", partitions=1)
done = app.topic("done", Item, key="key", partitions=1)


def be_odd(kind: str) -> None:  # noqa: C901 - one word each
    """What a handler hardly ever does."""
    if kind == "surrogate":
        raise ValueError("name \udcff")
    if kind == "rejected":
        raise Reject("name \udcff")
    if kind == "group":
        raise ExceptionGroup("two", [ValueError("a"), KeyError("b")])
    if kind == "bare":
        raise Bare(7)
    if kind == "break":
        (PLACE / "broken").touch()
        os._exit(1)
    if kind == "thread":
        threading.Thread(target=time.sleep, args=(60,)).start()
        sys.exit(3)
    if kind == "fork" and os.fork() == 0:
        return
    if kind == "stuck":
        re.match(r"(a+)+$", "a" * 50 + "b")  # the interpreter lock is held all the time
    if kind == "program":
        subprocess.run(["sleep", "61"], check=False)
    if kind == "dies later":
        threading.Timer(0.2, os._exit, (4,)).start()
    if kind.startswith("some"):
        time.sleep(0.01)
    if kind == "slow":
        time.sleep(1.0)


@app.handle(items, into=done, concurrency=2, retry=Retry(2, first_s=0.01, timeout_s=TIMEOUT_S), name="work")
def work(item: Item, ctx: Context) -> Item | None:
    """Odd, or nothing to speak of."""
    with (PLACE / "calls").open("a") as calls:
        calls.write(f"{item.key},{ctx.attempt},{os.getpid()}\n")
    be_odd(item.key)
    if item.key == "late" and item.number == 0:
        threading.Timer(0.05, ctx.once, ("token",)).start()
    elif item.key == "late":
        time.sleep(0.2)
        return item if ctx.once("token") else None
    if item.key == "longer":
        return Longer(item.key, item.number, "more")
    return item if item.key != "wrong" else Item("wrong", "no number")  # type: ignore[arg-type]


if __name__ == "__main__":
    app.run(until_idle="--all" in sys.argv)
