"""The flights pipeline killed again and again, wherever it happens to be: the results are the same."""

from __future__ import annotations

import time
from pathlib import Path

from penstock.cli.demo.data import data_directory
from penstock.system.chance import seeded
from tests.integration import flights_kit
from tests.integration.test_flights_demo import assert_results
from tests.oracle import flights as oracle

KILLS = 4


def test_killed_anywhere_and_run_again_the_results_are_the_same(tmp_path: Path, seed: int) -> None:
    chance = seeded(seed, "flights killed")
    out = tmp_path / "out"
    for _ in range(KILLS):
        with flights_kit.flights_process(out) as process:
            while not (out / "log" / "log.db").exists() and process.poll() is None:
                time.sleep(0.01)
            deadline = time.monotonic() + 0.5 + chance.random() * 3
            while time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.02)
    report = flights_kit.flights_app(out).run(until_idle=True)
    assert all(part.state == "done" for part in report.parts)
    (tmp_path / "csv").mkdir()
    with oracle.opened(data_directory(), tmp_path / "csv") as truth:
        assert_results(out, truth)
