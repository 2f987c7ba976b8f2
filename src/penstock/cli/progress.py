"""Progress of long work on stderr: a live display on a terminal, now and then a plain line elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

from penstock.cli import output
from penstock.system.ports import RealClock
from penstock.telemetry.emit import clean

PLAIN_EVERY_S = 5.0


@contextmanager
def counter(what: str) -> Generator[Callable[[str], None], None, None]:
    """Shows `what` and the text that is given, as often as it is given."""
    if sys.stderr.isatty():
        from rich.console import Console  # noqa: PLC0415 - only a terminal needs it
        from rich.text import Text  # noqa: PLC0415

        with Console(stderr=True).status(what) as status:
            yield lambda text: status.update(Text(clean(f"{what}: {text}")))
        return
    yield plain_lines(lambda text: output.note(f"{what}: {text}"))


def plain_lines(write: Callable[[str], None]) -> Callable[[str], None]:
    """Passes a line on every few seconds, and drops the others."""
    clock = RealClock()
    last = clock.monotonic_s()

    def show(text: str) -> None:
        nonlocal last
        now = clock.monotonic_s()
        if now - last >= PLAIN_EVERY_S:
            last = now
            write(text)

    return show
