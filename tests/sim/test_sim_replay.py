"""A seed is a run: the same under other hash seeds and addresses, and from its printed tape."""

from __future__ import annotations

import subprocess
import sys

import pytest

from penstock.errors import ConfigError
from penstock.system.chance import seeded
from penstock.testing.simulation import tape
from penstock.testing.simulation.runner import main

PROGRAM = """
import sys
sys.path[:0] = ["src", "."]
from tests.sim import toy
from penstock.testing.simulation.runs import Runner
for name in ("memory", "embedded"):
    runner = Runner(toy.scenario(toy.IgnoresFence, backend=name))
    print(name, [runner.run(seed).trace_hash() for seed in range(40)])
from penstock.testing.simulation.scenarios import load
for name in ("handlers:handlers", "flows:totals", "targets:sink", "targets:source"):
    runner = Runner(load("penstock.testing.simulation.scenarios_" + name))
    print(name, [runner.run(seed).trace_hash() for seed in range(8)])
"""


def test_the_trace_of_a_seed_is_the_same_under_another_hash_seed() -> None:
    children = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        for hash_seed in ("1", "22", "333")
    ]
    first, *others = (child.stdout for child in children)
    assert len(set(first.split())) > 60, "the seeds hardly differ: the hash says nothing"
    assert others == [first, first]


def test_a_tape_reads_back_as_it_was_printed() -> None:
    for seed in range(200):
        drawn = tape.draw(seeded(seed), calls=10)
        assert tape.parse(tape.text(drawn)) == drawn


@pytest.mark.parametrize("line", ["commit", "commit#1:fly(0)", "eat#1:delay_before(1)", "commit#x:clock(1)"])
def test_a_tape_that_makes_no_sense_is_refused_by_name(line: str) -> None:
    with pytest.raises(ConfigError, match=r"tape: .*expected OPERATION"):
        tape.parse(line)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--scenario", "toy"], "expected MODULE:NAME"),
        (["--scenario", "tests/sim/none.py:RIGHT"], "is no file"),
        (["--scenario", "tests/sim/toy.py:TOPICS"], "expected a Scenario"),
        (["--scenario", "tests/sim/toy.py:RIGHT", "--seeds", "a:b"], "expected FIRST:END"),
        (["--scenario", "tests/sim/toy.py:RIGHT", "--bug", "none.patch"], "expected a patch"),
    ],
)
def test_misuse_is_named(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert text in capsys.readouterr().err
