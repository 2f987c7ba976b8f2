"""Kill -9 inside trimming, compaction, vacuum and the making of the ballast: the old form or the new, and all of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from random import Random

from penstock.log import catalogue, placed
from penstock.log.log import Log
from penstock.log.verify import verify
from tests.faults import logwork, upkeepwork
from tests.faults.report import FaultReport

POINTS = 14
NAMED = {"log.trim", "log.compact", "log.compacted", "log.vacuum", "log.ballast.hold", "log.commit", "log.committed"}


def ran(directory: Path, point: int) -> list[str]:
    command = [sys.executable, "-m", "tests.faults.upkeepwork", str(directory), str(point)]
    run = subprocess.run(command, check=False, capture_output=True, text=True, cwd=logwork.ROOT)
    assert run.returncode == (9 if point else 0), run.stderr
    return run.stdout.split()


def wrong(log: Log) -> list[str]:
    """What of the log is neither the old form nor the new."""
    rows = {row.name: row.pids[0] for row in log.look(catalogue.topics)}
    told = [damage.what for damage in verify(log.look).damages]
    if logwork.contents(log, rows["bundled"]) != [upkeepwork.small(n) for n in range(upkeepwork.SMALL)]:
        told.append("what was to be bundled is not what it was")
    begin = log.look(lambda db: placed.known(db, rows["trimmed"]).begin)
    found = logwork.bodies_of(log.read(rows["trimmed"], begin, events_max=10**6, bytes_max=1 << 40))
    if found != [upkeepwork.large(n) for n in range(begin, upkeepwork.LARGE)]:
        told.append(f"from {begin} on there are {len(found)} events, or others")
    return told


def test_killed_anywhere_in_upkeep(tmp_path: Path, seed: int, fault_report: FaultReport) -> None:
    tally = fault_report("A13")
    whole = tmp_path / "whole"
    upkeepwork.prepared(whole)
    names = ran(Path(shutil.copytree(whole, tmp_path / "counted")), 0)
    assert set(names) >= NAMED
    first = {names.index(name) + 1 for name in NAMED}
    others = Random(seed).sample(range(1, len(names) + 1), POINTS - len(NAMED))
    for point in sorted(first | set(others)):
        directory = Path(shutil.copytree(whole, tmp_path / f"at-{point}"))
        ran(directory, point)
        with logwork.opened(directory) as log:
            tally.contradicts(f"killed at {names[point - 1]}", wrong(log))
        ran(directory, 0)
        with logwork.opened(directory) as log:
            tally.contradicts(f"run again after {names[point - 1]}", wrong(log))
        tally.points += 1
        shutil.rmtree(directory)
    assert tally.clean, tally.told
