"""Several workers on one log that are killed, stopped, and come and go: nothing is lost, doubled or reordered."""

from __future__ import annotations

from pathlib import Path

from tests.faults import workers
from tests.faults.report import FaultReport


def test_workers_that_are_killed_and_stopped(tmp_path: Path, seed: int, fault_report: FaultReport) -> None:
    tally = fault_report("B1", "B6", "B7")
    feed, cycles = workers.cycled(tmp_path, 4, seed=seed)
    workers.counted(tmp_path, feed, tally)
    tally.points += cycles.kills + cycles.stops + cycles.joins
    assert cycles.deaths == []
    assert tally.clean, tally.told
