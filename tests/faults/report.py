"""Rows of build/faults.json: what each fault test showed, merged over runs and with what its planted control showed.

A test takes the fixture `fault_report` and names the faults of FAULTS.md that it shows:

    def test_x(fault_report: FaultReport) -> None:
        tally = fault_report("A1", "B9")
        tally.points += 1
        tally.compare(published, found)
        assert tally.clean, tally.told
"""

from __future__ import annotations

import fcntl
import itertools
import os
from collections import Counter
from collections.abc import Callable, Generator, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.controls.manifest import ROOT, controls

REPORT = Path("build") / "faults.json"
TOLD_MAX = 20


class Row(msgspec.Struct):
    """One fault in one test. `control_failed`: whether the test was red without the guard; None: not tried yet."""

    fault: str
    test: str
    points: int = 0
    lost: int = 0
    doubled: int = 0
    reordered: int = 0
    passed: bool = False
    control: str = ""
    control_failed: bool | None = None


class Tally:
    """What one test counts: points visited, and events lost, doubled and reordered over all of them."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        self.points = 0
        self.lost = 0
        self.doubled = 0
        self.reordered = 0
        self.contradictions = 0
        self.told: list[str] = []

    @property
    def clean(self) -> bool:
        """Whether nothing was lost, doubled, reordered or contradictory so far."""
        return not (self.lost or self.doubled or self.reordered or self.contradictions)

    def compare(self, expected: Iterable[Hashable], found: Iterable[Hashable], *, where: str = "") -> None:
        """Count what is missing, what is there twice, and what comes before something that was published earlier.

        Items found that were not expected are doubles too: somebody made them twice or out of nothing.
        """
        expected, found = list(expected), list(found)
        counted = Counter(found)
        place = {item: index for index, item in enumerate(expected)}
        lost = [item for item in expected if item not in counted]
        doubled = [item for item, count in counted.items() if count > 1 or item not in place]
        order = [place[item] for item in dict.fromkeys(found) if item in place]
        moved = sum(a > b for a, b in itertools.pairwise(order))
        self.note(where, lost=len(lost), doubled=len(doubled), reordered=moved, example=str((lost + doubled)[:3]))

    def contradicts(self, where: str, wrong: Sequence[str]) -> None:
        """What was found does not fit together; nothing is added when nothing is wrong."""
        self.contradictions += len(wrong)
        if wrong and len(self.told) < TOLD_MAX:
            self.told.append(f"{where}: {'; '.join(wrong)}")

    def note(self, where: str, *, lost: int = 0, doubled: int = 0, reordered: int = 0, example: str = "") -> None:
        """Add counts that were made elsewhere."""
        self.lost += lost
        self.doubled += doubled
        self.reordered += reordered
        if (lost or doubled or reordered) and len(self.told) < TOLD_MAX:
            self.told.append(f"{where}: {lost} lost, {doubled} doubled, {reordered} reordered {example}")


FaultReport = Callable[..., Tally]


class FaultPlugin:
    """The pytest plugin: gathers the tallies of a session and merges them into the report at its end."""

    def __init__(self) -> None:
        self._open: dict[str, list[Tally]] = {}
        self._rows: dict[tuple[str, str], Row] = {}

    @pytest.fixture
    def fault_report(self, request: pytest.FixtureRequest) -> FaultReport:
        """Call it with the faults that the test shows; returns the tally to count in."""

        def begin(*faults: str) -> Tally:
            assert faults
            tally = Tally(faults)
            self._open.setdefault(request.node.nodeid, []).append(tally)
            return tally

        return begin

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
        """Close the tallies that the test has opened."""
        report = yield
        if call.when == "call" and not report.skipped:
            for tally in self._open.pop(item.nodeid, []):
                self._add(tally, item.nodeid.partition("[")[0], passed=report.passed)
        return report

    def _add(self, tally: Tally, test: str, *, passed: bool) -> None:
        for fault in tally.faults:
            row = self._rows.setdefault((fault, test), Row(fault, test, passed=True))
            row.points += tally.points
            row.lost += tally.lost
            row.doubled += tally.doubled
            row.reordered += tally.reordered
            row.passed = row.passed and passed

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Replace the rows of this session in the report, keep the others and what the controls showed."""
        watched = {(fault, c.test.partition("[")[0]): c.patch for c in controls() for fault in c.faults}
        for key, row in self._rows.items():
            row.control = watched.get(key, "")
        if self._rows:
            merge(session.config.rootpath / REPORT, self._rows.values())


def merge(path: Path, rows: Iterable[Row]) -> None:
    """Merge rows by (fault, test); a row without a control's result keeps the one that is recorded.

    Rows of tests that are gone or were renamed are dropped.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        merged = {(row.fault, row.test): row for row in read(path) if _stands(row.test)}
        for row in rows:
            known = merged.get((row.fault, row.test))
            if known is not None and row.control_failed is None:
                row.control = row.control or known.control
                row.control_failed = known.control_failed if row.control == known.control else None
            merged[row.fault, row.test] = row
        ordered = [merged[key] for key in sorted(merged, key=_in_order)]
        new = path.with_suffix(".new")
        new.write_bytes(msgspec.json.format(msgspec.json.encode(ordered), indent=1) + b"\n")
        new.replace(path)
    finally:
        os.close(lock)


def _stands(test: str) -> bool:
    """Whether the test is still there; what a long run did has no function of that name."""
    file, _, name = test.partition("::")
    source = ROOT / file
    return not source.name.startswith("test_") or (source.is_file() and f"def {name}(" in source.read_text())


def read(path: Path) -> list[Row]:
    """The rows recorded so far; an unreadable report is as good as none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Row])
    except (FileNotFoundError, msgspec.DecodeError):
        return []


def _in_order(key: tuple[str, str]) -> tuple[str, int, str]:
    """A2 before A10."""
    fault, test = key
    return fault[:1], int(fault[1:]) if fault[1:].isdigit() else 0, test
