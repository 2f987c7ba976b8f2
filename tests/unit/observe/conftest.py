"""One filled log per test that asks for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.observe.observe_kit import Kit, fill


@pytest.fixture
async def kit(tmp_path: Path) -> AsyncIterator[Kit]:
    """An empty log."""
    made = Kit(tmp_path / "log")
    yield made
    await made.close()


@pytest.fixture
async def filled(kit: Kit) -> Kit:
    """A log with every kind of topic."""
    await fill(kit)
    return kit
