"""Kill -9 at every write-type system call: a run under strace finds them, then each is made the last one of a run."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import msgspec

from penstock.system.chance import seeded
from tests.faults import children
from tests.faults.explore import Job
from tests.faults.found import Found
from tests.faults.report import Row
from tests.long import strace
from tests.long.plan import Limits, Say

MODULES = {"log": "tests.faults.logwork", "app": "tests.faults.appwork"}
KILLED = -9


def run(name: str, job: Job, scratch: Path, limits: Limits, say: Say) -> list[Row]:
    """Visit every point of the job, or `limits.points` of them by chance; the row that says what was found."""
    encoded, module = msgspec.json.encode(job), MODULES[name]
    points = _points(module, encoded, scratch)
    chosen = points
    if limits.points and limits.points < len(points):
        chosen = sorted(seeded(limits.seed, "points").sample(points, limits.points), key=points.index)
    say(f"kill -9 in the {name} job: {len(chosen)} of {len(points)} write-type system calls")
    row = Row("A1", f"tests/long/kill.py::{name}", passed=True)
    for done, point in enumerate(chosen, 1):
        place = scratch / "place"
        place.mkdir()
        killed, acked = _killed(module, encoded, place, point, scratch)
        found = children.in_child(partial(_after, job, place, acked), Found)
        assert found is not None
        shutil.rmtree(place)
        row.points += killed
        row.lost += found.lost
        if found.wrong or found.lost or not found.complete:
            row.passed = False
            say(f"  {point}: lost {found.lost}, complete {found.complete}, {found.wrong}")
        if done % 50 == 0:
            say(f"  {done} of {len(chosen)}")
    row.passed = row.passed and row.points >= len(chosen) * 0.8
    return [row, *(msgspec.structs.replace(row, fault=fault) for fault in ("B9", "A13" if name == "log" else "G1"))]


def _points(module: str, job: bytes, scratch: Path) -> list[strace.Point]:
    """Seen in two runs: what depends on the threads' timing differs a little between them."""
    found: dict[strace.Point, None] = {}
    for number in range(2):
        place = scratch / "place"
        place.mkdir()
        trace = scratch / f"count{number}"
        done = strace.run(module, place, job, "-y", "-xx", "-s", "512", "-e", f"trace={strace.WRITES}", trace=trace)
        assert done.returncode == 0, done.stderr
        found.update(dict.fromkeys(strace.points(trace, place)))
        shutil.rmtree(place)
    return list(found)


def _killed(module: str, job: bytes, place: Path, point: strace.Point, scratch: Path) -> tuple[bool, list[str]]:
    options = ["-e", f"trace={point.call}", "-e", f"inject={point.call}:signal=SIGKILL:when={point.number}"]
    if point.path:
        options += ["-P", point.path]
    done = strace.run(module, place, job, *options, trace=scratch / "trace")
    return done.returncode == KILLED, done.stdout.splitlines()


def _after(job: Job, place: Path, acked: list[str]) -> Found:
    first = job.look(place, acked)
    job.run(place, lambda _: None)
    second = job.look(place, acked)
    return Found([*first.wrong, *second.wrong], first.lost + second.lost, complete=second.complete)
