"""What a running program shows: events and rates of each part, live on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from penstock.cli import output
from penstock.cli.progress import plain_lines
from penstock.system.ports import RealClock
from penstock.telemetry.emit import clean

if TYPE_CHECKING:
    from penstock.engine.group import GroupState

WINDOW_S = 2.0


class Rates:
    """Events per second of each part over the last seconds."""

    def __init__(self) -> None:
        self._clock = RealClock()
        self._seen: deque[tuple[float, dict[str, int]]] = deque()

    def now(self, states: Sequence[GroupState]) -> dict[str, float]:
        """Take the present counts in; per part its rate."""
        at = self._clock.monotonic_s()
        counts = {f"{state.kind}/{state.name}": state.events for state in states}
        self._seen.append((at, counts))
        while len(self._seen) > 2 and at - self._seen[1][0] >= WINDOW_S:  # noqa: PLR2004  both ends of the window
            self._seen.popleft()
        before, first = self._seen[0]
        passed = at - before
        return {name: (count - first.get(name, 0)) / passed if passed else 0.0 for name, count in counts.items()}


class Waits:
    """Says at once, and once, that a part waits and for what (another owner, a full disk, a file that is held)."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._told: dict[str, str] = {}

    def tell(self, states: Sequence[GroupState]) -> None:
        """Say what is new."""
        for state in states:
            waits = state.reason if state.state == "waiting" else state.gauge.paused
            reason = state.stopped or waits  # it stands still all the while, also when the others are at work
            if reason and self._told.get(state.name) != reason:
                self._write(f"{state.name} waits: {reason}")
            self._told[state.name] = reason


@contextmanager
def shown() -> Generator[Callable[[Sequence[GroupState]], None], None, None]:
    """What to call with every part's state, as often as there is news."""
    rates = Rates()
    if not sys.stderr.isatty():
        write, waits = plain_lines(output.note), Waits(output.note)

        def plain(states: Sequence[GroupState]) -> None:
            waits.tell(states)
            write(_line(states, rates.now(states)))

        yield plain
        return
    from rich.console import Console  # noqa: PLC0415 - only a terminal needs it
    from rich.live import Live  # noqa: PLC0415

    with Live(console=Console(stderr=True), transient=True, auto_refresh=False) as live:
        yield lambda states: live.update(_table(states, rates.now(states)), refresh=True)


def _line(states: Sequence[GroupState], rates: dict[str, float]) -> str:
    parts = [
        f"{state.name} {state.events:,} ({rates[f'{state.kind}/{state.name}']:,.0f}/s)"
        for state in states
        if state.events
    ]
    return ", ".join(parts) or "waiting for events"


def _table(states: Sequence[GroupState], rates: dict[str, float]) -> Any:
    from rich.table import Table  # noqa: PLC0415 - only a terminal needs it
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False)
    for name in ("part", "kind"):
        table.add_column(name)
    for name in ("events", "events/s", "dead"):
        table.add_column(name, justify="right")
    table.add_column("state")
    for state in states:
        rate = rates[f"{state.kind}/{state.name}"]
        reason = state.gauge.paused or state.reason or state.stopped
        told = state.state + (f": {reason}" if reason else "")
        if state.gauge.keys:
            told += f", {state.gauge.keys:,} keys wait"
        cells = (state.name, state.kind, f"{state.events:,}", f"{rate:,.0f}", f"{state.dead:,}", told)
        table.add_row(*(Text(clean(text)) for text in cells))
    return table
