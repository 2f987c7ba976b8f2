"""One member's intake from the embedded log: ownership, reading ahead, and steps in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from penstock.channel.api import (
    Assigned,
    Committed,
    Delivery,
    FencedOff,
    Idle,
    Owned,
    Step,
    Subscription,
    Taken,
    Unknown,
)
from penstock.channel.drivers.embedded import wire
from penstock.channel.drivers.embedded.port import Tidings
from penstock.errors import Closed, LogRegressed, OutcomeUnknown, Rejected
from penstock.event.batch import Delivered
from penstock.log import placed
from penstock.log.api import Advance, Appended, Claim, Claimed, GroupRow, Overtaken, Refusal, TopicRow
from penstock.system.ports import System

if TYPE_CHECKING:
    from penstock.channel.drivers.embedded.driver import EmbeddedChannel

STANDBY_LOOK_S = 0.2
SAFETY_LOOK_S = 1.0


class _Held(msgspec.Struct):
    """One owned partition: where the next delivery starts, and the delivery read ahead of it."""

    owned: Owned
    pid: int
    position: int
    dead: str = ""


class EmbeddedIntake:
    """See `Intake`. Made by `EmbeddedChannel.join`; used from one task, `commit` may overlap `next`."""

    def __init__(
        self, channel: EmbeddedChannel, subscription: Subscription, *, group: GroupRow, topic: TopicRow, system: System
    ) -> None:
        self._channel = channel
        self._subscription = subscription
        self._group = group
        self._topic = topic
        self._system = system
        self._owner = channel.port.ownership(group.id)
        self._held: list[_Held] = []
        self._assign: deque[Assigned] = deque()
        self._turn = 0
        self._tidings: Tidings | None = None
        self._ahead: asyncio.Task[tuple[_Held, list[Delivered]] | None] | None = None
        self._order = asyncio.Lock()
        self._left = False

    # -- taking ----------------------------------------------------------------------------------------------------

    async def next(self, *, events_max: int, bytes_max: int, wait_s: float) -> Taken:
        """See `Intake`."""
        if self._left:
            msg = f"group {self._group.name}: this member has left; join again"
            raise Closed(msg)
        if not self._held:
            standby = await self._become_owner(wait_s)
            if standby is not None:
                return standby
        if self._assign:
            return self._assign.popleft()
        found = await self._take(events_max, bytes_max)
        if found is None:
            await self._wait(wait_s)
            found = await self._take(events_max, bytes_max)
        if found is None:
            return Idle()
        held, batches = found
        held.position = batches[-1].end
        self._ahead = asyncio.ensure_future(self._read(events_max, bytes_max))
        return Delivery(held.owned, batches)

    async def _become_owner(self, wait_s: float) -> Idle | None:
        waited = 0.0
        label = f"{self._subscription.member}"
        while not self._owner.try_acquire(label):
            if waited >= wait_s:
                return Idle(f"group {self._group.name} is owned by {self._owner.label()}; waiting for it to go")
            pause = min(STANDBY_LOOK_S, wait_s - waited) or STANDBY_LOOK_S
            await self._system.clock.sleep(pause)
            waited += pause
        latest = self._subscription.group.start == "latest"
        result = await (await self._channel.port.queue(Claim(self._group.id, self._topic.pids, latest=latest)))
        assert isinstance(result, Claimed)
        identity = self._channel.port.identity
        tips = self._tips()
        for number, held in enumerate(result.held):
            if held.floor > tips[held.pid]:
                msg = (
                    f"group {self._group.name} is at offset {held.floor} of topic {self._topic.name}/{number}, the log "
                    f"ends at {tips[held.pid]}: the log was restored from an older copy; nothing was skipped. Put the "
                    "newer log back, or give the group a new name to start again"
                )
                raise LogRegressed(msg)
            owned = Owned(self._topic.name, number, held.epoch)
            self._held.append(_Held(owned, held.pid, held.floor))
            self._assign.append(
                Assigned(owned, held.floor, held.holes, held.ledger, identity.log, identity.incarnation)
            )
        self._tidings = self._channel.port.tidings(self._topic.pids)
        return None

    def _tips(self) -> dict[int, int]:
        pids = self._topic.pids
        return self._channel.port.look(lambda db: {pid: placed.next_offset(db, pid) for pid in pids})

    async def _take(self, events_max: int, bytes_max: int) -> tuple[_Held, list[Delivered]] | None:
        if self._ahead is not None:
            ahead, self._ahead = self._ahead, None
            found = await ahead
            if found is not None and not found[0].dead:
                return found
        return await self._read(events_max, bytes_max)

    async def _read(self, events_max: int, bytes_max: int) -> tuple[_Held, list[Delivered]] | None:
        """The next delivery, partitions in turn; None when all are at their end."""
        tips = self._tips()
        for step in range(len(self._held)):
            index = (self._turn + step) % len(self._held)
            held = self._held[index]
            if held.dead or held.position >= tips[held.pid]:
                continue
            self._turn = (index + 1) % len(self._held)
            return held, await self._deliver(held, events_max, bytes_max)
        return None

    async def _deliver(self, held: _Held, events_max: int, bytes_max: int) -> list[Delivered]:
        name = f"topic {held.owned.topic}/{held.owned.partition}"
        stored = await self._channel.port.read(
            held.pid, held.position, events_max=events_max, bytes_max=bytes_max, name=name
        )

        def decode() -> list[Delivered]:
            return self._channel.decode(
                stored, topic=held.owned.topic, partition=held.owned.partition, span=(held.position, events_max)
            )

        if sum(len(block.data) for block in stored) < 65_536:
            return decode()
        return await self._system.offload.run(decode)

    async def _wait(self, wait_s: float) -> None:
        assert self._tidings is not None
        await self._tidings.wait(min(wait_s, SAFETY_LOOK_S))

    # -- settling --------------------------------------------------------------------------------------------------

    async def commit(self, step: Step) -> Committed | FencedOff | Unknown:
        """See `Intake`. The fence is checked inside the transaction.

        Raises:
            Rejected: the step itself cannot be stored (a limit is passed); named.
            LogFull: nothing was stored; free room and commit the same step again.
        """
        held = next((h for h in self._held if h.owned == step.owned), None)
        if held is None:
            return FencedOff(f"{step.owned.topic}/{step.owned.partition} is not owned at epoch {step.owned.epoch}")
        async with self._order:
            if held.dead:
                return FencedOff(held.dead)
            pending = await self._channel.port.queue(await self._advance(held, step))
        try:
            result = await pending
        except OutcomeUnknown as exc:
            held.dead = str(exc)
            return Unknown(str(exc))
        if isinstance(result, Overtaken):
            held.dead = result.reason
            return FencedOff(result.reason)
        if isinstance(result, Refusal):
            raise Rejected(result.reason)
        assert isinstance(result, Appended)
        return Committed(result.first)

    async def _advance(self, held: _Held, step: Step) -> Advance:
        references = [(self._channel.row(t).pids[p], first, end) for t, p, first, end in step.settle.references]
        return Advance(
            group_id=self._group.id,
            pid=held.pid,
            epoch=step.owned.epoch,
            before=step.settle.floor_before,
            after=step.settle.floor_after,
            holes=step.settle.holes,
            references=references,
            blocks=await self._channel.encode(step.outputs),
            ledger=[(w.space, w.key, w.value) for w in step.ledger],
            origin=wire.origin_of(step),
        )

    async def extend(self, owned: Owned, references: Sequence[int], for_s: float) -> None:
        """See `Intake`: the log keeps ownership, there is nothing to extend."""

    async def leave(self) -> None:
        """See `Intake`."""
        if self._left:
            return
        self._left = True
        if self._ahead is not None:
            self._ahead.cancel()
            with suppress(asyncio.CancelledError):
                await self._ahead
        if self._tidings is not None:
            self._tidings.close()
        self._owner.close()
