"""Tests that hold pages to what other tests have shown run after those, and see what this session has shown."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from penstock.testing.conformance import report
from penstock.testing.conformance.report import Finding
from tests.docs import guarantees
from tests.faults.report import FaultPlugin, Row


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark."""
    config.addinivalue_line("markers", "last: runs at the end of the session")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put them at the end of the session."""
    items.sort(key=lambda item: item.get_closest_marker("last") is not None)


@pytest.fixture
def fault_rows(pytestconfig: pytest.Config) -> Iterable[Row]:
    """What is recorded, and instead of it what this session has shown by now."""
    plugin = pytestconfig.pluginmanager.get_plugin("penstock-faults")
    assert isinstance(plugin, FaultPlugin)
    rows = {(row.fault, row.test): row for row in guarantees.fault_rows()} | plugin._rows
    if not rows:
        pytest.skip("nothing is recorded: run tests/faults")
    return rows.values()


@pytest.fixture
def findings() -> Iterable[Finding]:
    """What is recorded, and instead of it what this session has shown by now."""
    known = [*guarantees.conformance_findings(), *report._finished]
    if not known:
        pytest.skip("nothing is recorded: make conformance")
    return {(f.channel, f.promise): f for f in known}.values()
