"""A pytest plugin: what each conformance test showed, merged into build/conformance.json at the session's end.

Import the two hooks into the `conftest.py` beside the tests (or run pytest with `-p` and this module's name).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

REPORT = Path("build") / "conformance.json"


class Finding(msgspec.Struct):
    """One promise of one channel: what was declared, what was seen. `skipped_because` is empty when it ran."""

    channel: str
    promise: str
    declared: str
    observed: str
    passed: bool
    skipped_because: str = ""


_running: dict[str, Finding] = {}
_finished: list[Finding] = []


def begin(test: str, finding: Finding) -> None:
    """A suite announces the finding that the test `test` (its node's name) will confirm or refute."""
    _running[test] = finding


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Close the finding that the test has begun."""
    report = yield
    if call.when != "call":
        return report
    finding = _running.pop(item.nodeid, None)
    if finding is not None:
        finding.passed = report.passed
        if report.skipped:
            finding.observed = "not run"
            finding.skipped_because = str(call.excinfo.value) if call.excinfo else "skipped"
        elif report.failed:
            finding.observed = f"broken: {call.excinfo.exconly().splitlines()[0]}" if call.excinfo else "broken"
        _finished.append(finding)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Replace the findings of this session in the report, keep the others."""
    if _finished:
        write(session.config.rootpath / REPORT, _finished)
        _finished.clear()


def write(path: Path, findings: Iterable[Finding]) -> None:
    """Merge by (channel, promise); an unreadable report is replaced."""
    merged: dict[tuple[str, str], Finding] = {}
    if path.exists():
        try:
            known = msgspec.json.decode(path.read_bytes(), type=list[Finding])
        except msgspec.DecodeError:
            known = []
        merged.update({(f.channel, f.promise): f for f in known})
    merged.update({(f.channel, f.promise): f for f in findings})
    path.parent.mkdir(parents=True, exist_ok=True)
    ordered = [merged[key] for key in sorted(merged)]
    path.write_bytes(msgspec.json.format(msgspec.json.encode(ordered), indent=1) + b"\n")
