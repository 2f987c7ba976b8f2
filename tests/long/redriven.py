"""Letters that are redriven while the program is killed again and again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.faults.logwork import ROOT
from tests.faults.report import Row
from tests.long.plan import Limits, Say

TEST = "tests/faults/test_faults_delivery.py::test_killed_while_letters_are_redriven"


def run(_scratch: Path, limits: Limits, say: Say) -> list[Row]:
    """The test of the ordinary suite with `limits.kills` kills, which writes its own rows."""
    command = [sys.executable, "-m", "pytest", "-q", TEST]
    env = {**os.environ, "KILLS": str(limits.kills), "SEED": str(limits.seed)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        say(done.stdout[-4000:])
    return [Row("D10", "tests/long redriven", points=limits.kills, passed=done.returncode == 0)]
