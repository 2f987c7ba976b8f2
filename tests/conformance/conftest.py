"""Findings of the conformance suites go to build/conformance.json."""

from penstock.testing.conformance.report import pytest_runtest_makereport, pytest_sessionfinish

__all__ = ["pytest_runtest_makereport", "pytest_sessionfinish"]
