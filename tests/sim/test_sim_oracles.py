"""The oracles: silent about a right consumer, loud about each wrong one, by the right name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from penstock.testing.simulation.runner import REPORT, Ran, run_range, save
from penstock.testing.simulation.runs import Runner, replay_line
from penstock.testing.simulation.scenario import Scenario
from penstock.testing.simulation.tape import KINDS, OPERATIONS
from tests.sim import toy

RANGES, RANGE = 20, 2000


def wrong_producer() -> Scenario:
    return replace(toy.scenario(backend="memory"), produce=toy.fresh_sequence)


WRONG = [
    pytest.param(toy.scenario(toy.FloorFirst, backend="memory"), "lost", id="commits the floor before the outputs"),
    pytest.param(toy.scenario(toy.IgnoresFence, backend="memory"), "duplicated", id="ignores the fence"),
    pytest.param(toy.scenario(toy.ForgetsLedger, backend="memory"), "state", id="forgets its ledger"),
    pytest.param(wrong_producer(), "duplicated", id="publishes again under another sequence"),
]


@pytest.mark.parametrize(("scenario", "kind"), WRONG)
def test_a_wrong_one_is_found_in_nearly_every_range(scenario: Scenario, kind: str, seed: int) -> None:
    runner = Runner(scenario)
    found = 0
    base = seed * RANGES * RANGE
    for start in range(base, base + RANGES * RANGE, RANGE):
        for number in range(start, start + RANGE):
            if any(anomaly.kind == kind for anomaly in runner.run(number).anomalies):
                found += 1
                break
    assert found >= RANGES * 19 / 20


@pytest.mark.parametrize(("name", "seeds"), [("RIGHT_IN_MEMORY", 600), ("RIGHT", 400)])
def test_the_right_one_raises_no_alarm(name: str, seeds: int, seed: int) -> None:
    ran: Ran = run_range(f"tests/sim/toy.py:{name}", range(seed * seeds, (seed + 1) * seeds))
    save(ran)
    assert ran.alarms == []
    assert REPORT.exists()
    drawable = {f"{operation} {kind}" for operation in OPERATIONS for kind in KINDS[operation]}
    assert drawable == ran.faults.keys(), "a fault that never strikes tests nothing"


def test_a_failing_run_prints_one_line_and_shrinks_to_what_matters() -> None:
    runner = Runner(toy.scenario(toy.IgnoresFence, backend="memory"))
    failing = next(run for run in map(runner.run, range(2000)) if run.anomalies and len(run.tape) > 2)
    shorter = runner.shrink(failing)
    assert 1 <= len(shorter.tape) < len(failing.tape)
    assert shorter.anomalies[0].kind == failing.anomalies[0].kind
    again = runner.run(failing.seed, failing.tape)
    assert again.trace_hash() == failing.trace_hash()
    line = replay_line(failing)
    assert "\n" not in line
    assert f"--seeds {failing.seed}:{failing.seed + 1}" in line
