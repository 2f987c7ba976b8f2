"""What every test shares: the seed of the session, printed at its end, and Hypothesis bound to it."""

from __future__ import annotations

import os

import hypothesis
import pytest

from tests.faults.report import FaultPlugin

# Examples take what they take: with a time limit the verdict would depend on what else the machine does.
hypothesis.settings.register_profile("penstock", deadline=None, print_blob=True)
hypothesis.settings.load_profile("penstock")


def session_seed() -> int:
    """The number in SEED, 0 by default.

    Raises:
        pytest.UsageError: SEED is not a whole number.
    """
    text = os.environ.get("SEED", "").strip() or "0"
    try:
        return int(text)
    except ValueError:
        msg = f"SEED is {text!r}; expected a whole number, such as SEED=7"
        raise pytest.UsageError(msg) from None


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Hypothesis takes the session's seed unless it was given its own."""
    seed = session_seed()
    if config.getoption("--hypothesis-seed") is None:
        config.option.hypothesis_seed = seed
    config.pluginmanager.register(FaultPlugin(), "penstock-faults")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which seed ran, above pytest's closing line, also under -q."""
    terminalreporter.write_line(f"SEED={session_seed()} (run again with the same SEED to repeat what was random)")


@pytest.fixture(scope="session")
def seed() -> int:
    """The session's seed: SEED from the environment, or 0."""
    return session_seed()
