"""The memory driver keeps the channel contract."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penstock.channel.api import Channel, Intake
from penstock.channel.drivers.memory import MemoryChannel
from penstock.system import System
from penstock.testing.conformance.channel import ChannelConformance


class TestMemory(ChannelConformance):
    """Handles on one place share one memory."""

    channel_name = "memory"
    examples_max = 60
    seed = int(os.environ.get("SEED", "0"))

    @pytest.fixture(autouse=True)
    def _memories(self) -> None:
        self._made: dict[Path, MemoryChannel] = {}

    def make_channel(self, place: Path, system: System) -> Channel:
        if place not in self._made:
            self._made[place] = MemoryChannel(system=system)
        return self._made[place].another(system=system)

    async def crash(self, channel: Channel, intake: Intake, group: str) -> None:
        assert isinstance(channel, MemoryChannel)
        channel.seize(group)
