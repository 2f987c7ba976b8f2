"""The simulation at full length: 20,000 seeds of the right program, and every planted bug in 20 ranges."""

from __future__ import annotations

from pathlib import Path

from penstock.testing.simulation.runner import run_range, save
from tests.faults.report import Row
from tests.long.plan import Limits, Say
from tests.sim.planted import PLANTED, RANGES, SHIPPED, measure
from tests.sim.test_sim_right import SEEDS


def right(_scratch: Path, limits: Limits, say: Say) -> list[Row]:
    """`limits.seeds` seeds over all scenarios, in the proportions of the short run; no alarm may be raised."""
    whole = sum(SEEDS.values())
    passed = True
    for name, share in SEEDS.items():
        count = -(-limits.seeds * share // whole)
        ran = run_range(SHIPPED + name, range(limits.seed * count, (limits.seed + 1) * count))
        save(ran)
        say(f"{name}: {ran.seeds} seeds, {ran.seeds_per_s:.0f} seeds/s, {ran.false_alarms} alarms")
        passed = passed and not ran.alarms
    return [Row("simulation", "tests/long right program", points=limits.seeds, passed=passed)]


def planted(_scratch: Path, limits: Limits, say: Say) -> list[Row]:
    """Each planted bug is found in 19 of 20 ranges at least."""
    rows: list[Row] = []
    for bug in PLANTED:
        found = measure(bug, seed=limits.seed)
        say(f"{bug.patch} in {bug.scenario}: found in {found} of {RANGES}")
        rows.append(
            Row(
                "simulation",
                f"tests/long planted {bug.patch} {bug.scenario}",
                points=RANGES,
                passed=found >= RANGES - 1,
            )
        )
    return rows
