"""One kit per test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.unit.engine.engine_kit import Kit


@pytest.fixture
async def kit() -> AsyncIterator[Kit]:
    made = Kit()
    yield made
    await made.close()
