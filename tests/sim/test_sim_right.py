"""The product's own engine under faults: nothing lost, doubled, reordered or moved back, and state is the fold."""

from __future__ import annotations

import pytest

from penstock.testing.simulation.runner import Ran, run_range, save
from penstock.testing.simulation.runs import Runner
from penstock.testing.simulation.scenarios import load
from tests.sim.planted import SHIPPED

SEEDS = {
    "handlers:handlers": 200,
    "handlers:handlers@memory": 200,
    "handlers:killers": 150,
    "handlers:killers@memory": 150,
    "holes:holes": 150,
    "workers:workers": 120,
    "workers:workers@memory": 120,
    "flows:flow": 60,
    "flows:totals": 80,
    "targets:sink": 120,
    "targets:source": 80,
    "targets:client": 100,
    "flows:totals@memory": 40,
    "targets:sink@memory": 60,
    "targets:source@memory": 40,
    "lake:lake": 60,
    "program:program": 80,
    "parking:outage": 60,
    "parking:crowded": 80,
    "parking:trimmed": 80,
    "parking:blocking": 60,
    "parking:side_by_side": 80,
    "parking:crowded@memory": 60,
    "parking:blocking@memory": 40,
    "runs:runs": 60,
    "once:once": 60,
    "once:once_side_by_side": 60,
    "once:once@memory": 60,
}


@pytest.mark.parametrize("name", SEEDS)
def test_the_product_raises_no_alarm(name: str, seed: int) -> None:
    seeds = SEEDS[name]
    ran: Ran = run_range(SHIPPED + name, range(seed * seeds, (seed + 1) * seeds))
    save(ran)
    assert ran.alarms == []
    assert sum(ran.faults.values()) > seeds / 2, "hardly a fault has struck: this shows nothing"


@pytest.mark.parametrize("name", ["handlers:handlers", "handlers:killers", "targets:sink", "targets:source"])
def test_a_seed_gives_the_same_run_twice(name: str) -> None:
    first, second = (Runner(load(SHIPPED + name)) for _ in range(2))
    for number in range(8):
        assert first.run(number).trace_hash() == second.run(number).trace_hash()


FOUND = [
    ("parking:trimmed", 290),  # a process that stood still asks for what its heir has settled, and retention removed
    ("parking:trimmed", 545),
    ("handlers:killers", 486),  # it goes on beside its heir, and both die of one event
    ("workers:workers", 731),  # an assignment is told after the world has ended
]


@pytest.mark.parametrize(("name", "found"), FOUND)
def test_seeds_that_found_something_once(name: str, found: int) -> None:
    assert run_range(SHIPPED + name, range(found, found + 1)).alarms == []
