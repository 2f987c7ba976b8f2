"""`make test-long` (Linux): every kill point, power-loss states, bit flips, memory; rows go to build/faults.json.

SEED seeds what is random; MINUTES (30) is the length of the soak; POINTS, STATES, FLIPS, CYCLES, KILLS and SEEDS
shorten the rest.
``python -m tests.long kill power`` runs only those parts.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults import appwork, flips, logwork
from tests.faults.logwork import ROOT
from tests.faults.report import REPORT, Row, merge
from tests.long import cycles, kill, power, redriven, simulated, soak, strace
from tests.long.plan import Limits, Say

Part = Callable[[Path, Limits, Say], list[Row]]


def _kill(scratch: Path, limits: Limits, say: Say) -> list[Row]:
    rows = kill.run("log", logwork.Job(batches=6, checkpoint_pages=8), scratch, limits, say)
    return rows + kill.run("app", appwork.Job(), scratch, limits, say)


def _flips(_scratch: Path, limits: Limits, say: Say) -> list[Row]:
    rows: list[Row] = []
    for file, fault in (("log", "A5"), ("wal", "A4"), ("witness", "A19")):
        outcome = flips.flipped(flips.Plan(file, limits.flips, limits.seed))
        say(f"bit flips in {file}: {outcome.flips}, named {outcome.named}, harmless {outcome.harmless}")
        for text in outcome.wrong:
            say(f"  WRONG {text}")
        rows.append(Row(fault, f"tests/long flips in {file}", points=outcome.flips, passed=not outcome.wrong))
    return rows


PARTS: dict[str, Part] = {
    "kill": _kill,
    "power": power.run,
    "flips": _flips,
    "workers": cycles.run,
    "redriven": redriven.run,
    "simulation": simulated.right,
    "planted": simulated.planted,
    "soak": soak.run,
}
NEED_STRACE = ("kill", "power")


def main(arguments: list[str]) -> int:
    """Run the parts named, all by default; 1 when one did not pass, 2 when one could not run."""
    unknown = [name for name in arguments if name not in PARTS]
    if unknown:
        print(f"no part {', '.join(unknown)}; expected some of {', '.join(PARTS)}")
        return 2
    limits = Limits(
        seed=int(os.environ.get("SEED") or 0),
        points=int(os.environ.get("POINTS") or 0),
        states=int(os.environ.get("STATES") or Limits().states),
        flips=int(os.environ.get("FLIPS") or Limits().flips),
        cycles=int(os.environ.get("CYCLES") or Limits().cycles),
        kills=int(os.environ.get("KILLS") or Limits().kills),
        seeds=int(os.environ.get("SEEDS") or Limits().seeds),
        minutes=float(os.environ.get("MINUTES") or Limits().minutes),
    )
    started = time.monotonic()
    code = 0
    for name in arguments or PARTS:
        if name in NEED_STRACE and not strace.usable():
            print(f"{name}: NOT RUN. {strace.MISSING}")
            code = 2
            continue
        with tempfile.TemporaryDirectory(prefix=f"penstock-{name}-") as scratch:
            rows = PARTS[name](Path(scratch), limits, lambda text: _say(text, started))
        merge(ROOT / REPORT, rows)
        for row in rows:
            verdict = "passed" if row.passed else "FAILED"
            _say(f"{verdict} {row.fault} {row.test}: {row.points} points, {row.lost} lost", started)
        code = max(code, 0 if all(row.passed for row in rows) else 1)
    print(f"SEED={limits.seed}; results in {REPORT}")
    return code


def _say(text: str, started: float) -> None:
    print(f"[{time.monotonic() - started:6.0f} s] {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
