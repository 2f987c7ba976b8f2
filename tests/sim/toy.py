"""A consumer of thirty lines on the channel contract, right and wrong, to show that the oracles tell them apart."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.channel.api import (
    Acked,
    Assigned,
    Channel,
    Committed,
    Delivery,
    FencedOff,
    GroupSpec,
    Intake,
    LedgerWrite,
    Lost,
    Owned,
    Publish,
    Revoking,
    Settle,
    Step,
    Subscription,
    TopicSpec,
    Unknown,
)
from penstock.errors import TransientError
from penstock.event.batch import NewBatch, Rows
from penstock.system.ports import System
from penstock.testing.simulation.outcome import Event
from penstock.testing.simulation.scenario import Host, Scenario, tried
from penstock.testing.simulation.scenario import bodies as bodies_of

GROUP = GroupSpec("toy", "in")
TOPICS = (TopicSpec("in", partitions=2), TopicSpec("out", partitions=2))
EVENTS_MAX = 3


def effect(bodies: Sequence[bytes], partition: int) -> NewBatch:
    return NewBatch("out", partition, len(bodies), Rows.of([body + b":done" for body in bodies]))


def fold(events: Sequence[Event]) -> dict[tuple[str, bytes], bytes]:
    counts: dict[str, int] = {}
    for event in events:
        counts[event.key] = counts.get(event.key, 0) + event.number + 1
    return {("sum", key.encode()): b"%d" % total for key, total in counts.items()}


class Toy:
    """Counts per key and passes on. `step` and `refused` are what the wrong ones do otherwise."""

    def __init__(self, process: Host, channel: Channel, system: System) -> None:
        self.process, self.channel, self.system = process, channel, system
        self.floors: dict[Owned, int] = {}
        self.sums: dict[int, dict[bytes, int]] = {}
        self.sequence = 0

    async def run(self) -> None:
        while True:
            intake = await self.channel.join(Subscription(GROUP, self.process.name))
            self.floors, self.sums = {}, {}
            while await self.turn(intake):
                pass
            await intake.leave()

    async def turn(self, intake: Intake) -> bool:
        taken = await intake.next(events_max=EVENTS_MAX, bytes_max=1 << 20, wait_s=1.0)
        if isinstance(taken, Assigned):
            self.floors[taken.owned] = taken.floor
            self.sums[taken.owned.partition] = {key: int(value) for _, key, value in taken.ledger}
        elif isinstance(taken, Revoking):
            await intake.leave(taken.owned)
        elif isinstance(taken, Lost):
            return False
        elif isinstance(taken, Delivery):
            return await self.work(intake, taken)
        return True

    async def work(self, intake: Intake, delivery: Delivery) -> bool:
        owned = delivery.owned
        bodies = [body for batch in delivery.batches for body in bodies_of(batch)]
        sums = self.sums[owned.partition]
        for body in bodies:
            key, number, *_ = body.split(b":")
            sums[key] = sums.get(key, 0) + int(number) + 1
        ledger = [LedgerWrite("sum", key, b"%d" % total) for key, total in sorted(sums.items())]
        settle = Settle(self.floors[owned], delivery.batches[-1].end)
        answer = await self.until_room(
            intake, Step(GROUP.name, owned, settle, [effect(bodies, owned.partition)], ledger)
        )
        if isinstance(answer, Committed):
            self.floors[owned] = settle.floor_after
            return True
        return False

    async def until_room(self, intake: Intake, step: Step) -> Committed | FencedOff | Unknown:
        while True:
            try:
                return await self.commit(intake, step)
            except TransientError:
                await self.system.clock.sleep(0.05)

    async def commit(self, intake: Intake, step: Step) -> Committed | FencedOff | Unknown:
        return await intake.commit(step)

    async def aside(self, batches: Sequence[NewBatch]) -> None:
        """Publish outside of any step, as the wrong ones do."""
        name = f"{self.process.name}-{self.process.number}"
        publish = Publish(name, 0, self.sequence, batches)
        self.sequence += 1
        while not isinstance(await tried(self.channel, publish), Acked):
            await self.system.clock.sleep(0.05)


class FloorFirst(Toy):
    """Commits the floor, then publishes the outputs."""

    async def commit(self, intake: Intake, step: Step) -> Committed | FencedOff | Unknown:
        answer = await intake.commit(Step(step.group, step.owned, step.settle, (), step.ledger))
        if isinstance(answer, Committed):
            await self.aside(step.outputs)
        return answer


class IgnoresFence(Toy):
    """Reads `FencedOff` as a passing trouble and brings its outputs out all the same."""

    async def commit(self, intake: Intake, step: Step) -> Committed | FencedOff | Unknown:
        answer = await intake.commit(step)
        if isinstance(answer, FencedOff):
            await self.aside(step.outputs)
        return answer


class ForgetsLedger(Toy):
    """Starts from empty sums at each assignment."""

    async def turn(self, intake: Intake) -> bool:
        taken = await intake.next(events_max=EVENTS_MAX, bytes_max=1 << 20, wait_s=1.0)
        if isinstance(taken, Assigned):
            self.floors[taken.owned] = taken.floor
            self.sums[taken.owned.partition] = {}
        elif isinstance(taken, Revoking):
            await intake.leave(taken.owned)
        elif isinstance(taken, Lost):
            return False
        elif isinstance(taken, Delivery):
            return await self.work(intake, taken)
        return True


async def fresh_sequence(process: Host, channel: Channel, system: System) -> None:
    """A producer that repeats an unknown publish under the next sequence."""
    sequence = 0
    for events in process.load:
        while True:
            batches = process.scenario.batches(events)
            answer = await tried(channel, Publish(f"{process.name}-{process.number}", 0, sequence, batches))
            if isinstance(answer, Acked):
                sequence += 1
                break
            if not isinstance(answer, Unknown):  # nothing was stored under the number before
                sequence -= 1
            else:
                sequence += 1
            await system.clock.sleep(0.05)


def scenario(kind: type[Toy] = Toy, *, backend: str = "embedded") -> Scenario:
    async def member(process: Host, channel: Channel, system: System) -> None:
        await kind(process, channel, system).run()

    return Scenario(
        name=kind.__name__,
        topics=TOPICS,
        groups=(GROUP,),
        member=member,
        outputs=("out",),
        spaces=("sum",),
        fold=fold,
        backend=backend,
    )


RIGHT = scenario()
RIGHT_IN_MEMORY = scenario(backend="memory")
