"""Planted bugs: a patch that takes a guard out of the product's code is found within the first 2,000 seeds.

That it is found in 19 of 20 ranges is what ``python -m tests.sim.planted`` measures.
"""

from __future__ import annotations

import pytest

from penstock.testing.simulation.runner import RANGE_SEEDS, save, search
from tests.controls.manifest import HOME
from tests.sim.planted import PLANTED, RANGES, Planted


@pytest.mark.parametrize(
    "planted", PLANTED, ids=lambda planted: f"{planted.patch}-{planted.scenario.rpartition(':')[2]}"
)
def test_a_guard_taken_out_is_found(planted: Planted, seed: int) -> None:
    first = seed * RANGES * RANGE_SEEDS
    result = search(planted.where, range(first, first + RANGE_SEEDS), planted.path)
    result.guard = planted.guard
    save(result)
    (alarm,) = result.first
    assert alarm is not None
    assert alarm.replay.endswith(f" --bug {planted.path}")
    assert any(text.partition(":")[0] in planted.kinds for text in alarm.anomalies), alarm.anomalies


def test_no_planted_bug_is_forgotten() -> None:
    assert {path.name for path in HOME.glob("sim_*.patch")} == {planted.path.name for planted in PLANTED}
    assert len({planted.patch for planted in PLANTED}) >= 8
