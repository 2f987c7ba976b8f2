"""Workers that are killed, stopped beyond the lease and replaced, many times over."""

from __future__ import annotations

from pathlib import Path

from tests.faults import workers
from tests.faults.report import Row, Tally
from tests.long.plan import Limits, Say


def run(scratch: Path, limits: Limits, say: Say) -> list[Row]:
    """`limits.cycles` random cycles over three workers; a row for each fault that they are."""
    faults = ("B1", "B6", "B7")
    tally = Tally(faults)
    feed, cycles = workers.cycled(scratch, limits.cycles, seed=limits.seed, say=say)
    workers.counted(scratch, feed, tally)
    say(f"{cycles.kills} kills, {cycles.stops} stops, {cycles.joins} joins; {sum(feed.numbers.values())} events")
    for text in [*tally.told, *(f"a worker ended with {code}" for code in cycles.deaths)]:
        say(f"  WRONG {text}")
    passed = tally.clean and not cycles.deaths
    return [
        Row(fault, "tests/long cycles over workers", points=limits.cycles, lost=tally.lost, doubled=tally.doubled,
            reordered=tally.reordered, passed=passed)
        for fault in faults
    ]  # fmt: skip
