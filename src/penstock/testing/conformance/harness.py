"""What the channel suite's tests stand on: a site with handles on one store, members that take, and findings."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from penstock.channel.api import (
    Acked,
    Assigned,
    Capabilities,
    Channel,
    Delivery,
    GroupSpec,
    Idle,
    Intake,
    LedgerWrite,
    Lost,
    Owned,
    Publish,
    Revoking,
    Settle,
    Step,
    Subscription,
    Taken,
    TopicSpec,
)
from penstock.event.batch import Delivered, NewBatch, Rows
from penstock.system.ports import System, real_system
from penstock.testing.conformance import report

BYTES_MAX = 1 << 24


class ChannelSuite:
    """What a driver's test file gives: a constructor, and how a member dies. See `ChannelConformance`."""

    channel_name: ClassVar[str] = ""
    durable: ClassVar[bool] = False
    wait_s: ClassVar[float] = 0.05
    looks_max: ClassVar[int] = 100
    examples_max: ClassVar[int] = 25
    seed: ClassVar[int] = 0

    def make_channel(self, place: Path, system: System) -> Channel:
        """A new handle, as another process would have, on the store at `place`; equal places share events."""
        raise NotImplementedError

    async def crash(self, channel: Channel, intake: Intake, group: str) -> None:
        """Make the channel believe that the member's process died: it did not leave, its ownership is free."""
        raise NotImplementedError

    async def freeze(self, channel: Channel, intake: Intake, group: str) -> Callable[[], None]:
        """Make the channel believe that the member's process is stopped, for longer than it waits.

        Returns:
            Call it to let the process go on.
        """
        await self.crash(channel, intake, group)
        return lambda: None


class Site:
    """One store and the handles a test has opened on it."""

    def __init__(self, suite: ChannelSuite, place: Path) -> None:
        self.suite = suite
        self.place = place
        self.system = real_system()
        self._handles: list[Channel] = []

    async def channel(self, *specs: TopicSpec) -> Channel:
        """Another handle, opened with these topics."""
        channel = self.suite.make_channel(self.place, self.system)
        self._handles.append(channel)
        await channel.open(specs)
        return channel

    async def close_handles(self) -> None:
        """Close every handle; each for the second time where the test has closed it."""
        for channel in reversed(self._handles):
            await channel.close()
        self._handles.clear()

    async def close(self) -> None:
        """Close every handle, and the threads."""
        await self.close_handles()
        self.system.offload.close()


Needs = Callable[[Capabilities], bool]


def promise(
    text: str, *, power: str = "", needs: Needs | None = None
) -> Callable[[Callable[[Any, Site], Awaitable[None]]], Callable[..., None]]:
    """Make an async test method of one promise a pytest test that records its finding.

    Args:
        text: the promise, as a sentence.
        power: the field of `Capabilities` that declares it; empty for promises every channel makes.
        needs: channels whose capabilities fail this are skipped; there must be a test that they refuse instead.
    """

    def decorate(test: Callable[[Any, Site], Awaitable[None]]) -> Callable[..., None]:
        def run(self: ChannelSuite, tmp_path: Path, request: pytest.FixtureRequest) -> None:
            site = Site(self, tmp_path)
            powers = self.make_channel(tmp_path, site.system).capabilities
            declared = str(getattr(powers, power)) if power else "always"
            finding = report.Finding(self.channel_name, text, declared, "kept", passed=False)
            report.begin(request.node.nodeid, finding)
            if needs is not None and not needs(powers):
                site.system.offload.close()
                pytest.skip(f"the channel declares {power}={declared}")
            with asyncio.Runner() as runner:
                runner.run(_closing(test, self, site))

        run.__name__ = test.__name__
        run.__doc__ = text
        return run

    return decorate


async def _closing(test: Callable[[Any, Site], Awaitable[None]], suite: ChannelSuite, site: Site) -> None:
    try:
        await test(suite, site)
    finally:
        await site.close()


class Member:
    """A member of a group that remembers what it was told."""

    def __init__(self, intake: Intake, suite: ChannelSuite) -> None:
        self.intake = intake
        self.assigned: dict[int, Assigned] = {}
        self.lost: list[Owned] = []
        self.revoking: list[Owned] = []
        self.seen: dict[int, list[tuple[int, bytes]]] = {}
        self.deliveries: list[Delivery] = []
        self._suite = suite

    async def next(self, *, events_max: int = 1000, wait_s: float = 0.0) -> Taken:
        """One thing, remembered; checks what every delivery must be."""
        taken = await self.intake.next(events_max=events_max, bytes_max=BYTES_MAX, wait_s=wait_s)
        if isinstance(taken, Assigned):
            self.assigned[taken.owned.partition] = taken
            self.seen[taken.owned.partition] = []
        elif isinstance(taken, Lost):
            self.lost.append(taken.owned)
            if self.assigned.get(taken.owned.partition, taken).owned == taken.owned:
                self.assigned.pop(taken.owned.partition, None)
        elif isinstance(taken, Revoking):
            assert self.assigned[taken.owned.partition].owned == taken.owned
            self.revoking.append(taken.owned)
        elif isinstance(taken, Delivery):
            self._check(taken, events_max)
        return taken

    def _check(self, delivery: Delivery, events_max: int) -> None:
        self.deliveries.append(delivery)
        owned = delivery.owned
        assert owned.partition in self.assigned, "a delivery came before its assignment"
        assert owned == self.assigned[owned.partition].owned
        assert 1 <= sum(batch.count for batch in delivery.batches) <= events_max
        seen = self.seen[owned.partition]
        position = seen[-1][0] + 1 if seen else self.assigned[owned.partition].floor
        for batch in delivery.batches:
            assert (batch.topic, batch.partition) == (owned.topic, owned.partition)
            assert batch.first == position, f"expected offset {position}, got {batch.first}: a gap or a repetition"
            position = batch.end
            seen.extend(numbered(batch))

    async def become_owner(self, partitions: int = 1) -> None:
        """Take until so many partitions are assigned."""
        for _ in range(self._suite.looks_max):
            if len(self.assigned) == partitions:
                return
            taken = await self.next(wait_s=self._suite.wait_s)
            assert isinstance(taken, Assigned | Idle | Lost), taken
        pytest.fail(f"only {len(self.assigned)} of {partitions} partitions were assigned")

    async def asked_back(self, count: int) -> list[Owned]:
        """Take until so many partitions are asked back; those, still owned."""
        for _ in range(self._suite.looks_max):
            if len(self.revoking) >= count:
                return self.revoking
            await self.next(wait_s=self._suite.wait_s)
        pytest.fail(f"only {len(self.revoking)} of {count} partitions were asked back")

    async def hand_over(self, owned: Owned) -> None:
        """Give one partition up."""
        await self.intake.leave(owned)
        self.revoking.remove(owned)
        del self.assigned[owned.partition]

    async def take(self, count: int, *, events_max: int = 1000) -> list[tuple[int, bytes]]:
        """Take until `count` events came in this assignment; all of partition order, partitions in turn.

        Returns:
            (offset, body), partition by partition.
        """
        for _ in range(self._suite.looks_max):
            if sum(map(len, self.seen.values())) >= count:
                break
            await self.next(events_max=events_max, wait_s=self._suite.wait_s)
        found = [event for _, events in sorted(self.seen.items()) for event in events]
        assert len(found) == count, f"expected {count} events, got {len(found)}"
        return found

    async def quiet(self) -> Idle:
        """Assert that there is nothing (more) to hand out."""
        taken = await self.next(wait_s=0.0)
        assert isinstance(taken, Idle), taken
        return taken

    def step(  # noqa: PLR0913 - what a step says, by name
        self,
        after: int,
        *,
        before: int | None = None,
        holes: Sequence[int] = (),
        outputs: Sequence[NewBatch] = (),
        ledger: Sequence[LedgerWrite] = (),
        number: int | None = None,
        oldest: int | None = None,
    ) -> Step:
        """A step of partition 0 from its assignment's floor (or `before`) to `after`."""
        mine = self.assigned[0]
        start = mine.floor if before is None else before
        settle = Settle(start, after, holes, number=number, oldest=oldest)
        return Step("g", mine.owned, settle, outputs, ledger)

    def step_of(self, partition: int, after: int, *outputs: NewBatch) -> Step:
        """A step of a partition from its assignment's floor to `after`."""
        mine = self.assigned[partition]
        return Step("g", mine.owned, Settle(mine.floor, after), outputs)


async def member(channel: Channel, suite: ChannelSuite, group: GroupSpec | None = None, *, name: str = "") -> Member:
    """Join group `g` of topic `t` (or another)."""
    return Member(await channel.join(Subscription(group or GroupSpec("g", "t"), name)), suite)


def rows(*bodies: bytes, topic: str = "t", partition: int = 0) -> NewBatch:
    """A batch of raw events."""
    return NewBatch(topic, partition, len(bodies), Rows.of(bodies))


def numbered(batch: Delivered) -> list[tuple[int, bytes]]:
    """(offset, body) of each event of a batch of rows."""
    assert isinstance(batch.payload, Rows)
    return list(enumerate(batch.payload.bodies(), batch.first))


async def put(channel: Channel, sequence: int, *batches: NewBatch, producer: str = "p", epoch: int = 0) -> Acked:
    """Publish and expect the ack."""
    answer = await channel.publish(Publish(producer, epoch, sequence, batches))
    assert isinstance(answer, Acked), answer
    return answer


async def stored(channel: Channel, topic: str = "t", partition: int = 0) -> list[tuple[int, bytes]]:
    """Every recorded event of a partition; checks that there is no gap."""
    out: list[tuple[int, bytes]] = []
    while True:
        batches = await channel.read(topic, partition, len(out), events_max=1000)
        if not batches:
            return out
        for batch in batches:
            assert batch.first == len(out), f"expected offset {len(out)}, got {batch.first}"
            out.extend(numbered(batch))


__all__ = ["ChannelSuite", "Member", "Site", "member", "numbered", "promise", "put", "rows", "stored"]
