"""Memory and open files over time: a program that publishes, handles and sinks for long must not grow."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from tests.faults.logwork import ROOT
from tests.faults.report import Row
from tests.long.plan import Limits, Say

WARM_SHARE = 0.25
GROWTH_MAX = 1.10
GROWTH_FREE_MB = 24
FILES_FREE = 4


class Sample(msgspec.Struct, frozen=True):
    """What the program held at one moment."""

    seconds: float
    events: int
    resident_mb: float
    files: int


def run(scratch: Path, limits: Limits, say: Say) -> list[Row]:
    """Let the program run; flat means: after warming up, the later half holds no more than the earlier one."""
    command = [sys.executable, "-m", "tests.long.soak", str(scratch / "soak"), str(limits.minutes * 60)]
    samples: list[Sample] = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        for line in program.stdout:
            samples.append(msgspec.json.decode(line, type=Sample))
            if len(samples) % 20 == 0:
                say(f"  {samples[-1].seconds:.0f} s: {samples[-1].events} events, {samples[-1].resident_mb:.0f} MB")
    row = Row("memory", "tests/long/soak.py", points=len(samples), passed=program.returncode == 0 and flat(samples))
    say(f"memory over {limits.minutes} minutes: {'flat' if row.passed else 'NOT flat'}")
    return [row]


def flat(samples: list[Sample]) -> bool:
    """Whether the median of the last quarter is about that of the quarter after warming up, and as much is open."""
    warm = samples[int(len(samples) * WARM_SHARE) :]
    if len(warm) < 4:
        return False
    quarter = len(warm) // 4 or 1
    early, late = (sorted(s.resident_mb for s in part)[quarter // 2] for part in (warm[:quarter], warm[-quarter:]))
    return late <= max(early * GROWTH_MAX, early + GROWTH_FREE_MB) and warm[-1].files <= warm[0].files + FILES_FREE


def main(place: str, seconds: str) -> None:
    """Publish, handle, sink, round after round, printing a sample every few seconds."""
    from tests.faults import appwork  # noqa: PLC0415 - what is measured is loaded in the measured process only

    directory = Path(place)
    directory.mkdir(parents=True)
    app = appwork.made(directory)
    started = told = time.monotonic()
    number = 0
    while time.monotonic() - started < float(seconds):
        with app.client() as client:
            for _ in range(20):
                outcomes = client.publish_many("orders", [appwork.order(number + i) for i in range(500)])
                assert all(isinstance(outcome, appwork.Acked) for outcome in outcomes)
                number += 500
        app.run(until_idle=True)
        now = time.monotonic()
        if now - told > min(5.0, float(seconds) / 40):
            told = now
            sample = Sample(now - started, number, resident_mb(), len(os.listdir("/proc/self/fd")))
            print(msgspec.json.encode(sample).decode(), flush=True)


def resident_mb() -> float:
    """The resident set of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main(*sys.argv[1:])
