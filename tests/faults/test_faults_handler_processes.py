"""Plain handlers in processes: one that is bad costs its own event, and its neighbours next to nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from penstock import App
from tests.faults import appwork
from tests.faults import processprogram as program
from tests.faults.logwork import ROOT
from tests.faults.report import FaultReport

NEIGHBOURS, EACH = 20, 30


def start(place: Path, *words: str) -> subprocess.Popen[str]:
    """The program, in a process of its own."""
    command = [sys.executable, str(Path(program.__file__)), *words]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PLACE": str(place), "PYTHONPATH": path}, text=True)


def publish(place: Path, bad: tuple[str, ...]) -> None:
    """Neighbours' events with one bad one of each kind among them."""
    app = App("processes", path=place / "log")
    app.topic("items", program.Item, key="key", partitions=2)
    with app.client() as client:
        for number in range(EACH):
            events = [program.Item(f"k{n}", number) for n in range(NEIGHBOURS)]
            if number == EACH // 3:
                events += [program.Item(kind, number) for kind in bad]
            client.publish_many("items", events)


def gaps(place: Path) -> list[float]:
    """Seconds between the end of one event and the end of the next, over all neighbours: what each waits for."""
    ends = sorted(event["ended_s"] for event in appwork.contents(place / "log")["done"])
    return [after - before for before, after in pairwise(ends)]


def p99(values: list[float]) -> float:
    """The value that one in a hundred is above."""
    return sorted(values)[int(len(values) * 0.99)]


def run(place: Path, bad: tuple[str, ...]) -> dict[str, list[int]]:
    """All of it; the neighbours' numbers by key."""
    place.mkdir()
    publish(place, bad)
    with start(place, "--all") as process:
        assert process.wait(120) == 0
    found: dict[str, list[int]] = defaultdict(list)
    for event in appwork.contents(place / "log")["done"]:
        found[event["key"]].append(event["number"])
    return found


def test_bad_handlers_and_their_neighbours(tmp_path: Path, fault_report: FaultReport) -> None:
    """Each bad event is a dead letter after its attempts; the others are done once, in order, and in as good a time."""
    tally = fault_report("B10", "D10")
    alone = run(tmp_path / "alone", ())
    assert sum(map(len, alone.values())) == NEIGHBOURS * EACH
    found = run(tmp_path / "beside", program.BAD)
    for n in range(NEIGHBOURS):
        tally.compare(list(range(EACH)), found.pop(f"k{n}"))
    assert found == {}
    letters = [msgspec.json.decode(body) for body in appwork.bodies(tmp_path / "beside" / "log", "work.dead")]
    tally.compare(sorted(program.BAD), sorted(letter["key"] for letter in letters))
    calls = [line.split() for line in (tmp_path / "beside" / "calls").read_text().splitlines()]
    for kind in program.BAD:
        assert [attempt for key, _, attempt, _ in calls if key == kind] == ["1", "2"], kind
        tally.points += 1
    lone, beside = p99(gaps(tmp_path / "alone")), p99(gaps(tmp_path / "beside"))
    # A process that is started again takes a core for a while, and there may be two: its share is not theirs.
    assert beside <= 3 * max(lone, 0.010), f"p99 between two ends: {beside * 1000:.1f} ms, alone {lone * 1000:.1f} ms"
    assert tally.clean, tally.told


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_running(tmp_path: Path, number: int, fault_report: FaultReport) -> None:
    """Killed or told to end: the processes of the handler end with the program, also one that hangs."""
    tally = fault_report("B8", "B9")
    publish(tmp_path, ("hang",))
    with start(tmp_path) as process:
        deadline = time.monotonic() + 30
        while not (tmp_path / "calls").exists() or "hang" not in (tmp_path / "calls").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        process.wait(60)
    pids = {int(line.split()[3]) for line in (tmp_path / "calls").read_text().splitlines()}
    assert pids
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}/cmdline").exists() and _is_ours(pid) for pid in pids):
        assert time.monotonic() < deadline, "a process of the handler outlives its program"
        time.sleep(0.05)
    with start(tmp_path, "--all") as again:
        assert again.wait(120) == 0
    found: dict[str, list[int]] = defaultdict(list)
    for event in appwork.contents(tmp_path / "log")["done"]:
        found[event["key"]].append(event["number"])
    for n in range(NEIGHBOURS):
        tally.compare(list(range(EACH)), found[f"k{n}"])
    tally.points += 1
    assert tally.clean, tally.told


def _is_ours(pid: int) -> bool:
    try:
        return b"penstock.cli.handling" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
