"""Runs planted controls, each in its own copy of the project, and says which tests noticed."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from tests.controls.manifest import HOME, ROOT, Control, apply, controls, copied
from tests.faults.report import REPORT, merge, read

TIMEOUT_S = 300
_RED = 1  # pytest's exit code for failed tests; others mean that nothing was shown
_ENDLESS = -1  # it never ended


class Shown(msgspec.Struct, frozen=True):
    """How one control came out. `red`: the test failed, as it must; `why`: its first complaint, or what went wrong."""

    control: Control
    red: bool
    why: str


def main(arguments: Sequence[str]) -> int:
    """Run all controls, or those whose patch, fault or test contains one of the words given."""
    parser = argparse.ArgumentParser(prog="make controls", description=main.__doc__)
    parser.add_argument("words", nargs="*", help="part of a patch's, fault's or test's name")
    words: list[str] = parser.parse_args(arguments).words
    chosen = [c for c in controls() if not words or any(w in " ".join((c.patch, c.test, *c.faults)) for w in words)]
    if not chosen:
        print(f"no control matches {' '.join(words)}")
        return 2
    green = _baseline(sorted({c.test for c in chosen}))
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        shown = list(pool.map(lambda control: _show(control, green), chosen))
    _record(shown)
    for line in _table(shown):
        print(line)
    return 0 if all(s.red for s in shown) else 1


def _baseline(tests: list[str]) -> set[str]:
    """The tests that pass on an unpatched copy; their rows go to the report."""
    with tempfile.TemporaryDirectory(prefix="penstock-controls-") as scratch:
        root = Path(scratch)
        copied(root)
        code, said = _pytest(root, tests)
        merge(ROOT / REPORT, read(root / REPORT))
    if code == 0:
        return set(tests)
    failed = {line.split()[1] for line in said.splitlines() if line.startswith(("FAILED ", "ERROR "))}
    print(said[-4000:])
    bad = {test for test in tests if any(name.startswith((test, test.partition("::")[0] + " ")) for name in failed)}
    return set(tests) - bad if failed else set()


def _show(control: Control, green: set[str]) -> Shown:
    if control.test not in green:
        return Shown(control, red=False, why="the test is not green with the guard in place")
    with tempfile.TemporaryDirectory(prefix="penstock-control-") as scratch:
        root = Path(scratch)
        copied(root)
        complaint = apply(HOME / control.patch, root)
        if complaint:
            return Shown(control, red=False, why=f"the patch does not apply: {complaint}")
        code, said = _pytest(root, [control.test])
    if code in (_RED, _ENDLESS):  # without a guard against deadlocks nothing ends, nor does the test
        return Shown(control, red=True, why=said if code == _ENDLESS else _first_complaint(said))
    tail = said.strip().splitlines()[-1:]
    return Shown(control, red=False, why="stayed green" if code == 0 else f"pytest ended with {code}: {tail}")


def _pytest(root: Path, tests: list[str]) -> tuple[int, str]:
    """Run tests in the copy, on the copy's code; exit code and all that was said."""
    path = os.pathsep.join([str(root / "src"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    where = "import penstock, sys; sys.exit(not penstock.__file__.startswith(sys.argv[1]))"
    env = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-c", where, str(root / "src")], cwd=root, env=env, check=True)
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(
            command, cwd=root, env=env, capture_output=True, text=True, timeout=TIMEOUT_S * len(tests), check=False
        )
    except subprocess.TimeoutExpired:
        return _ENDLESS, f"no end within {TIMEOUT_S} s"
    return done.returncode, done.stdout + done.stderr


def _first_complaint(said: str) -> str:
    found = re.search(r"^E +(.+)$", said, re.MULTILINE)
    return found.group(1)[:160] if found else "failed"


def _record(shown: list[Shown]) -> None:
    """What the controls showed, into the rows of their tests."""
    rows = read(ROOT / REPORT)
    for result in shown:
        for row in rows:
            if row.test == result.control.test.partition("[")[0] and row.fault in result.control.faults:
                row.control, row.control_failed = result.control.patch, result.red
    merge(ROOT / REPORT, rows)


def _table(shown: list[Shown]) -> list[str]:
    lines = [
        f"{'red' if s.red else 'GREEN':<6}{','.join(s.control.faults):<10}{s.control.patch:<34}{s.why}" for s in shown
    ]
    red = sum(s.red for s in shown)
    return [*lines, f"{red} of {len(shown)} guards are watched: without the guard the test is red"]
