"""The channel suite: every driver of the channel contract runs it and thereby says what it keeps.

A driver's test file holds a class with a constructor and one way to die:

    class TestMemory(ChannelConformance):
        channel_name = "memory"
        def make_channel(self, place, system): ...
        async def crash(self, channel, intake, group): ...
"""

from __future__ import annotations

from penstock.testing.conformance.channel_groups import GroupPromises
from penstock.testing.conformance.channel_ids import IdPromises
from penstock.testing.conformance.channel_machine import MachinePromise
from penstock.testing.conformance.channel_powers import PowerPromises
from penstock.testing.conformance.channel_publish import PublishPromises
from penstock.testing.conformance.channel_sharing import SharingPromises


class ChannelConformance(PublishPromises, IdPromises, GroupPromises, SharingPromises, PowerPromises, MachinePromise):
    """All promises of `penstock.channel.api`; see `ChannelSuite` for what a driver gives."""


__all__ = ["ChannelConformance"]
