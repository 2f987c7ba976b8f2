"""A program whose handler guards its results with ``ctx.once``, and dies in the middle of some events.

``python -m tests.faults.onceprogram DIRECTORY`` runs it until it is idle. It leaves by ``os._exit`` the first time that
it is given one of every DIES_EVERY events, right after it has taken the event's token.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import msgspec

from penstock import App, Context, Retry

EVENTS = 400
TOKENS = 90
DIES_EVERY = 29
KEYS = 6


class Wish(msgspec.Struct):
    """One event; several wish for the same."""

    key: str
    number: int
    token: int


class Done(msgspec.Struct):
    """The effect of a token."""

    key: str
    token: int


def made(directory: Path) -> App:
    """The program over the log in `directory`."""
    app = App("once", directory / "log")
    wishes = app.topic("wishes", Wish, key="key", partitions=2)
    done = app.topic("done", Done, key="key", partitions=2)

    @app.handle(wishes, into=done, retry=Retry(4, first_s=0.01), name="work")
    def work(wish: Wish, ctx: Context) -> Done | None:  # pyright: ignore[reportUnusedFunction]
        new = ctx.once(str(wish.token))
        if wish.number % DIES_EVERY == 0:
            _die_once(directory / "died" / str(wish.number))
        time.sleep(0.0005)  # time enough to be killed in
        if wish.number % 11 == 0 and ctx.attempt == 1:
            raise ValueError("not yet")
        return Done(wish.key, wish.token) if new else None

    return app


def _die_once(died: Path) -> None:
    died.parent.mkdir(exist_ok=True)
    if not died.exists():
        died.touch()
        os._exit(3)


def wishes() -> list[Wish]:
    """All events: those of one token have one key."""
    return [Wish(f"k{number % TOKENS % KEYS}", number, number % TOKENS) for number in range(EVENTS)]


if __name__ == "__main__":
    made(Path(sys.argv[1])).run(until_idle=True)
