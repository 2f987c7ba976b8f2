"""Planted bugs: a patch that takes a guard out of the product's code is found by the seeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.testing.simulation.runner import save, search

CONTROLS = Path("tests/controls")
RANGES, RANGE = 20, 2000


@pytest.mark.parametrize(
    ("patch", "name", "kind"),
    [
        ("sim_fence_memory.patch", "RIGHT_IN_MEMORY", "fenced_output"),
        ("sim_fence.patch", "RIGHT", "fenced_output"),
        ("sim_sequence.patch", "RIGHT", "duplicated"),
    ],
)
def test_a_guard_taken_out_is_found_in_nearly_every_range(patch: str, name: str, kind: str, seed: int) -> None:
    seeds = range(seed * RANGES * RANGE, (seed + 1) * RANGES * RANGE)
    result = search(f"tests/sim/toy.py:{name}", seeds, CONTROLS / patch, range_seeds=RANGE)
    save(result)
    found = [alarm for alarm in result.first if alarm is not None]
    assert len(found) >= RANGES * 19 / 20
    assert any(text.startswith(kind) for alarm in found for text in alarm.anomalies)
    assert all("--bug tests/controls/" in alarm.replay for alarm in found)
