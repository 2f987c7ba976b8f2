"""The embedded log keeps the channel contract."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock.channel.api import Channel, Intake
from penstock.system import System
from penstock.testing.conformance.channel import ChannelConformance

embedded = pytest.importorskip("penstock.channel.drivers.embedded")


class TestEmbedded(ChannelConformance):
    """Every handle opens the log directory anew, as another program would."""

    channel_name = "embedded"
    durable = True
    examples_max = 10
    seed = int(os.environ.get("SEED", "0"))

    def make_channel(self, place: Path, system: System) -> Channel:
        return embedded.EmbeddedChannel(place / "log", system=system)

    async def crash(self, channel: Channel, intake: Intake, group: str) -> None:
        intake._company.room.own.let_go()  # what the kernel does to a dead process's lock  # pyright: ignore[reportAttributeAccessIssue]

    async def freeze(self, channel: Channel, intake: Intake, group: str) -> Callable[[], None]:
        company: Any = intake._company  # pyright: ignore[reportAttributeAccessIssue]
        company._heart.remove(company.room)
        return lambda: company._heart.add(company.room, lambda: None)
