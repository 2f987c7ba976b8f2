"""How long a person waits for the command line to say anything."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from bench.row import Budget, Figure, Figures, Row

STARTS = 3


def start_s(*arguments: str) -> float:
    """Seconds that `python arguments…` takes from start to end; the median of a few."""
    taken: list[float] = []
    for _ in range(STARTS):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - start)
    return median(taken)


class ColdStart(Row):
    """No floor is asked for; `python -c pass` stands there for orientation."""

    name = "cli-cold-start"
    workload = "penstock --help, from start to end"
    figures = (Figure("start", "s", "lower", Budget(0.25, of="value")),)

    def setup(self, directory: Path, *, quick: bool) -> None:
        """See `Row`."""

    def floor(self) -> Figures:
        """See `Row`."""
        return {"start": start_s("-c", "pass")}

    def measure(self) -> Figures:
        """See `Row`."""
        return {"start": start_s(str(Path(sys.executable).with_name("penstock")), "--help")}
