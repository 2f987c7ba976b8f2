"""`penstock demo flights` as a person runs it: the report, the second run, and what it proposes to try next."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from penstock.cli import exits

PENSTOCK = [sys.executable, "-m", "penstock.cli"]


def _run(folder: Path, *arguments: str) -> str:
    done = subprocess.run([*PENSTOCK, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_stopped_before_the_end(tmp_path: Path) -> None:
    """SIGTERM: what is in hand is committed, it says how to go on, and writes no report."""
    with subprocess.Popen(
        [*PENSTOCK, "demo", "flights", "--out", "out/demo"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as running:
        deadline = time.monotonic() + 30
        while not list(tmp_path.glob("out/demo/log/groups/*/*")) and time.monotonic() < deadline:
            assert running.poll() is None
        running.send_signal(signal.SIGTERM)
        _, said = running.communicate(timeout=60)
    assert running.returncode == exits.INTERRUPTED, said
    assert "run it again to go on" in said
    assert not (tmp_path / "out" / "demo.json").exists()


def test_the_demo_and_what_it_proposes(tmp_path: Path) -> None:
    """Counts are those of the data; run again, nothing is new and the results are the same, also published again."""
    said = _run(tmp_path, "demo", "flights", "--out", "out/demo")
    assert "1,000,898 events published" in said
    assert "Rejected by check: 8,255 (never departed)" in said
    first = json.loads((tmp_path / "out" / "demo.json").read_text())
    assert first["results"]["departures"]["rows"] == 328_521
    assert first["rejected"] == [{"group": "check", "reason": "never departed", "count": 8_255}]
    assert first["worked_on"]["source flight_arrived"] == 327_346
    proposed = [line.strip() for line in said.partition("Try next:\n")[2].splitlines() if line.startswith("  ")]
    assert len(proposed) == 3
    for command in proposed:
        program, *arguments = shlex.split(command)
        assert program == "penstock"
        assert _run(tmp_path, *arguments) != ""
    again = json.loads(_run(tmp_path, "demo", "flights", "--out", "out/demo", "--json"))
    assert set(again["worked_on"].values()) == {0}
    assert again["hash"] == first["hash"]
    republished = json.loads(_run(tmp_path, "demo", "flights", "--out", "out/demo", "--republish", "--json"))
    assert republished["worked_on"]["source flight_scheduled"] == 336_776
    assert (republished["hash"], republished["events"]) == (first["hash"], first["events"])
