"""Any channel, with faults from a tape at its port: crash, freeze, unknown outcomes, delay, repetition.

A request that was sent is executed whatever becomes of its sender, so every publish and commit runs outside the
process that asked; what the channel answered is noted there, exactly once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from penstock.channel.api import (
    Acked,
    Assigned,
    Channel,
    Columnar,
    Committed,
    FencedOff,
    Intake,
    Lost,
    Owned,
    Producers,
    ProducerState,
    Publish,
    Refused,
    Scan,
    Step,
    Subscription,
    Taken,
    Topic,
    TopicSpec,
    Unknown,
)
from penstock.channel.rules import order_of
from penstock.errors import LogFull
from penstock.event.batch import Delivered
from penstock.system.ports import Offload
from penstock.testing.simulation.history import Left, Sent, Stored, Took, TurnedAway
from penstock.testing.simulation.network import Network
from penstock.testing.simulation.tape import Fault, Operation

T = TypeVar("T")

NO_ROOM = "simulated: no room"


class Sufferer(Protocol):
    """A process as the faults see it."""

    name: str

    async def suffer(self, fault: Fault, *, before: bool) -> None:
        """Let the fault strike before the request or after the answer; returns when (and if) the process goes on."""
        ...


class Whole(Channel, Producers, Columnar, Protocol):
    """A channel with the powers that the in-process ones have."""


class FaultyChannel:
    """See the module and `Channel`. One per process; its members are `FaultyIntake`s."""

    def __init__(self, inner: Whole, process: Sufferer, network: Network) -> None:
        self.inner = inner
        self._opened: dict[str, Topic] = {}
        self.capabilities = inner.capabilities
        self._process = process
        self._network = network

    async def open(self, topics: Sequence[TopicSpec]) -> Mapping[str, Topic]:
        """See `Channel`; no faults. What this process has declared before is not declared again."""
        if any(spec.name not in self._opened for spec in topics):
            self._opened.update(await self.inner.open(topics))
        return {spec.name: self._opened[spec.name] for spec in topics}

    async def publish(self, publish: Publish) -> Acked | Refused | Unknown:
        """See `Channel`."""
        fault = self._network.strike("publish", self._process.name)
        await self._process.suffer(fault, before=True)
        answer: Acked | Refused | Unknown
        match fault.kind:
            case "unknown_lost":
                answer = Unknown("simulated: the request was lost")
            case "unknown_late":
                self._network.later(fault.seconds, self._publish(publish))
                answer = Unknown("simulated: no answer in time")
            case "unknown_stored":
                await self._network.send(self._publish(publish))
                answer = Unknown("simulated: the answer was lost")
            case "full":
                raise LogFull(NO_ROOM)
            case "duplicate":
                await self._network.send(self._publish(publish))
                answer = await self._network.send(self._publish(publish))
            case _:
                answer = await self._network.send(self._publish(publish))
        await self._process.suffer(fault, before=False)
        if isinstance(answer, Acked):
            self._network.history.acknowledge(self._process.name, publish.batches, publish.producer, answer)
        return answer

    async def _publish(self, publish: Publish) -> Acked | Refused | Unknown:
        answer = await self.inner.publish(publish)
        if isinstance(answer, Acked):
            self._network.note(
                Sent(self._process.name, publish.producer, publish.batches, answer.first, answer.repeated)
            )
        return answer

    async def join(self, subscription: Subscription) -> Intake:
        """See `Channel`; no faults of its own."""
        return FaultyIntake(await self.inner.join(subscription), subscription, self._process, network=self._network)

    async def read(self, topic: str, partition: int, offset: int, *, events_max: int) -> Sequence[Delivered]:
        """See `Channel`; no faults."""
        return await self.inner.read(topic, partition, offset, events_max=events_max)

    async def scan(self, scan: Scan, *, events_max: int) -> Sequence[Delivered]:
        """See `Columnar`; no faults."""
        return await self.inner.scan(scan, events_max=events_max)

    async def tips(self, topic: str) -> Sequence[int]:
        """See `Columnar`; no faults."""
        return await self.inner.tips(topic)

    async def passed(self, topic: str, partition: int, offset: int) -> int:
        """Nothing is quarantined in a simulated world."""
        del topic, partition
        return offset

    async def new_epoch(self, name: str, *, after: int | None = None) -> int:
        """See `Producers`; no faults."""
        return await self.inner.new_epoch(name, after=after)

    async def producer(self, name: str) -> ProducerState | None:
        """See `Producers`; no faults."""
        return await self.inner.producer(name)

    async def notes(self, name: str, epoch: int, *, start: int, count: int) -> Sequence[tuple[int, bytes]]:
        """See `Producers`; no faults."""
        return await self.inner.notes(name, epoch, start=start, count=count)

    async def close(self) -> None:
        """See `Channel`."""
        await self.inner.close()


class FaultyIntake:
    """See `FaultyChannel`. After a simulated unknown outcome the assignment is over, and `next` tells, as promised."""

    def __init__(self, inner: Intake, subscription: Subscription, process: Sufferer, *, network: Network) -> None:
        self._inner = inner
        self._group = subscription.group.name
        self._process = process
        self._network = network
        self._order = asyncio.Lock()
        self._dead: set[Owned] = set()
        self._unsure: list[Lost] = []
        self._refused: dict[Owned, tuple[int, int]] = {}

    async def next(self, *, events_max: int, bytes_max: int, wait_s: float) -> Taken:
        """See `Intake`."""
        fault = self._network.strike("next", self._process.name)
        await self._process.suffer(fault, before=True)
        if self._unsure:
            lost = self._unsure.pop(0)
            await self.leave(lost.owned)
            return lost
        taken = await self._inner.next(events_max=events_max, bytes_max=bytes_max, wait_s=wait_s)
        if isinstance(taken, Assigned):
            self._network.note(Took(self._process.name, self._group, taken))
        await self._process.suffer(fault, before=False)
        return taken

    async def commit(self, step: Step) -> Committed | FencedOff | Unknown:
        """See `Intake`."""
        answer: Committed | FencedOff | Unknown
        async with self._order:  # steps are applied in the order they were called, whatever is delayed
            if step.owned in self._dead:
                return FencedOff("simulated: the outcome of an earlier step is unknown; join again")
            fault = self._network.strike("commit", self._process.name)
            await self._process.suffer(fault, before=True)
            self._check_room(step, fault)
            match fault.kind:
                case "unknown_lost":
                    answer = Unknown("simulated: the request was lost")
                case "unknown_late":
                    self._network.later(fault.seconds, self._commit(step))
                    answer = Unknown("simulated: no answer in time")
                case "unknown_stored":
                    await self._network.send(self._commit(step))
                    answer = Unknown("simulated: the answer was lost")
                case "duplicate":
                    answer = await self._network.send(self._commit(step))
                    await self._network.send(self._commit(step))
                case _:
                    answer = await self._network.send(self._commit(step))
            if not isinstance(answer, Committed):
                self._dead.add(step.owned)
            if isinstance(answer, Unknown):
                self._unsure.append(Lost(step.owned, answer.reason))
        await self._process.suffer(fault, before=False)
        return answer

    def _check_room(self, step: Step, fault: Fault) -> None:
        """A step that finds no room, and those behind it that were called before it was known."""
        place = order_of(step)
        if fault.kind == "full":
            self._refused[step.owned] = place
        if self._refused.get(step.owned, place) != place or fault.kind == "full":
            raise LogFull(NO_ROOM)
        self._refused.pop(step.owned, None)

    async def _commit(self, step: Step) -> Committed | FencedOff | Unknown:
        answer = await self._inner.commit(step)
        if isinstance(answer, Committed):
            self._network.note(Stored(self._process.name, step, answer.first))
        elif isinstance(answer, FencedOff):
            self._network.note(TurnedAway(self._process.name, step, answer.reason))
        return answer

    async def extend(self, owned: Owned, references: Sequence[int], for_s: float) -> None:
        """See `Intake`; no faults."""
        await self._inner.extend(owned, references, for_s)

    def pause(self, owned: Owned, *, on: bool) -> None:
        """See `Intake`; no faults."""
        self._inner.pause(owned, on=on)

    def asked(self) -> Sequence[Owned]:
        """See `Intake`; no faults."""
        return self._inner.asked()

    async def leave(self, owned: Owned | None = None) -> None:
        """See `Intake`; no faults."""
        self._network.note(Left(self._process.name, self._group, owned))
        await self._inner.leave(owned)


class FaultyOffload:
    """Blocking work of one process, with faults before it and after it."""

    def __init__(self, inner: Offload, process: Sufferer, network: Network) -> None:
        self._inner = inner
        self._process = process
        self._network = network

    async def run(self, work: Callable[[], T]) -> T:
        """See `Offload`."""
        fault = self._network.strike("offload", self._process.name)
        await self._process.suffer(fault, before=True)
        result = await self._inner.run(work)
        await self._process.suffer(fault, before=False)
        return result

    def close(self) -> None:
        """See `Offload`."""
        self._inner.close()


__all__ = ["FaultyChannel", "FaultyIntake", "FaultyOffload", "Operation", "Sufferer", "Whole"]
