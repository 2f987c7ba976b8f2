"""The memory driver: handles on a shared `Memory`, who owns which group, and waiting.

Delivery guarantee: atomic steps, idempotent and fenced; durability D0 (gone with the process); order per key.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress

from penstock.channel import rules, sharing
from penstock.channel.api import (
    Acked,
    Assigned,
    Capabilities,
    Committed,
    Delivery,
    FencedOff,
    Idle,
    Lost,
    Owned,
    ProducerState,
    Publish,
    Refused,
    Revoking,
    Scan,
    Step,
    Subscription,
    Taken,
    Topic,
    TopicSpec,
)
from penstock.channel.drivers.memory.model import Memory
from penstock.errors import Closed, Fenced
from penstock.event.batch import Delivered
from penstock.log import decide
from penstock.system.ports import System


class Shared:
    """What handles on one memory share besides it: the members of each group, and who waits for news."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.tables: dict[str, sharing.Table] = {}
        self._waiting: set[asyncio.Future[None]] = set()

    def wake(self) -> None:
        """Something changed: everybody who waits looks again."""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    async def wait(self, system: System, wait_s: float) -> None:
        """Return at the next `wake`, or after `wait_s`."""
        news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(news)
        limit = asyncio.ensure_future(system.clock.sleep(wait_s))
        try:
            await asyncio.wait({news, limit}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._waiting.discard(news)
            limit.cancel()
            with suppress(asyncio.CancelledError):
                await limit


class MemoryChannel:
    """A channel in this process's memory. Used from one event loop; `another` is what a second process would have."""

    capabilities = Capabilities(
        order="key",
        replayable=True,
        holds="none",
        counts_deliveries=False,
        step="atomic",
        exclusive_partitions=True,
        ledger="channel",
        idempotent_publish=True,
        fenced=True,
        durability="D0",
        remembers_producers=True,
        columnar=True,
        deduplicates=True,
    )

    def __init__(self, *, system: System, memory: Memory | None = None, shared: Shared | None = None) -> None:
        self._system = system
        self._shared = shared or Shared(memory or Memory())
        self._intakes: list[MemoryIntake] = []
        self._closed = False

    @property
    def memory(self) -> Memory:
        """What is stored, for inspection."""
        return self._shared.memory

    def another(self, *, system: System | None = None) -> MemoryChannel:
        """Another handle on the same memory."""
        return MemoryChannel(system=system or self._system, shared=self._shared)

    async def open(self, topics: Sequence[TopicSpec]) -> Mapping[str, Topic]:
        """See `Channel`; a refused declaration leaves the others of the call undeclared too."""
        self._check_open()
        return self.memory.declare(topics)

    async def publish(self, publish: Publish) -> Acked | Refused:
        """See `Channel`; never unknown."""
        self._check_open()
        answer = self.memory.publish(publish, now_us=self._system.clock.now_us())
        self._shared.wake()
        return answer

    async def join(self, subscription: Subscription) -> MemoryIntake:
        """See `Channel`."""
        self._check_open()
        self.memory.declare_group(subscription.group)
        intake = MemoryIntake(self._shared, subscription, self._system)
        self._intakes = [*(known for known in self._intakes if not known.left), intake]
        self._shared.wake()
        return intake

    async def read(self, topic: str, partition: int, offset: int, *, events_max: int) -> Sequence[Delivered]:
        """See `Channel`."""
        self._check_place(topic, partition, offset)
        return self.memory.read((topic, partition), offset, events_max=events_max)

    async def scan(self, scan: Scan, *, events_max: int) -> Sequence[Delivered]:
        """See `Columnar`."""
        self._check_place(scan.topic, scan.partition, scan.start)
        return self.memory.scan(scan, events_max=events_max)

    async def tips(self, topic: str) -> Sequence[int]:
        """See `Columnar`."""
        known = self._check_place(topic, 0, 0)
        return [self.memory.tips.get((topic, partition), 0) for partition in range(known.spec.partitions)]

    async def new_epoch(self, name: str, *, after: int | None = None) -> int:
        """See `Producers`."""
        self._check_open()
        rules.check_producer(name)
        epoch = self.memory.new_epoch(name, after=after, now_us=self._system.clock.now_us())
        if isinstance(epoch, decide.Refused):
            raise Fenced(epoch.reason)
        return epoch

    async def producer(self, name: str) -> ProducerState | None:
        """See `Producers`."""
        self._check_open()
        return self.memory.producer(name)

    async def notes(self, name: str, epoch: int, *, start: int, count: int) -> Sequence[tuple[int, bytes]]:
        """See `Producers`."""
        self._check_open()
        return self.memory.notes(name, epoch, start=start, count=count)

    def _check_place(self, topic: str, partition: int, offset: int) -> Topic:
        self._check_open()
        return rules.check_place(self.memory.topics, topic, partition, offset)

    def seize(self, group: str = "") -> None:
        """Give this handle's members of the group (of every group, without) up, as after a death or the end of a lease.

        They are told `Lost`, and their commits are refused from now on. One that lives becomes a member again when it
        asks for its next event.
        """
        for intake in self._intakes:
            if group in ("", intake.group):
                intake.lose("another member took the partition over")
        self._shared.wake()

    async def close(self) -> None:
        """See `Channel`: its members leave, its waiting calls end with `Closed`."""
        self._closed = True
        for intake in self._intakes:
            await intake.leave()

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("this memory channel was closed; make another")


class MemoryIntake:
    """See `Intake`. Made by `MemoryChannel.join`."""

    def __init__(self, shared: Shared, subscription: Subscription, system: System) -> None:
        self._shared = shared
        self._subscription = subscription
        self._system = system
        self._told: deque[Assigned | Revoking | Lost] = deque()
        self._held: dict[int, Owned] = {}
        self._position: dict[int, int] = {}
        self._revoked: set[Owned] = set()
        self._paused: set[Owned] = set()
        self._dead: dict[Owned, str] = {}
        self._chair = shared.tables.setdefault(self.group, sharing.Table()).sit(subscription.member)
        self.left = False

    @property
    def group(self) -> str:
        """The group's name."""
        return self._subscription.group.name

    async def next(self, *, events_max: int, bytes_max: int, wait_s: float) -> Taken:
        """See `Intake`."""
        deadline_s = self._system.clock.monotonic_s() + wait_s
        while True:
            if self.left:
                raise Closed(f"group {self.group}: this member has left; join again")
            taken = self._take(events_max, bytes_max)
            left_s = deadline_s - self._system.clock.monotonic_s()
            if not isinstance(taken, Idle) or left_s <= 0:
                return taken
            await self._shared.wait(self._system, left_s)

    def _take(self, events_max: int, bytes_max: int) -> Taken:
        self._chair.live = True
        if not self._told:
            self._share()
        if self._told:
            return self._told.popleft()
        return self._deliver(events_max, bytes_max) or self._idle()

    def _share(self) -> None:
        """Give up what another member should have, and claim what this one should and nobody has."""
        claim = self._give_up()
        if claim and not self._told:
            spaces = self._subscription.ledger_spaces
            for assigned in self._shared.memory.claim(self.group, spaces, partitions=claim):
                owned = assigned.owned
                self._held[owned.partition] = owned
                self._position[owned.partition] = assigned.floor
                self._chair.mark(owned.partition, owned.epoch)
                self._told.append(assigned)
            self._shared.wake()

    def _give_up(self) -> Sequence[int]:
        """Have the member asked for what another should have; the partitions that this one may claim."""
        count = len(self._shared.memory.partitions(self.group))
        together = self._subscription.group.together
        todo = sharing.moves(self._chair.name, self._chair.seats(), count, together=together)
        asked = [self._held[number] for number in todo.give if self._held[number] not in self._revoked]
        for owned in asked:
            self._revoked.add(owned)
            self._told.append(Revoking(owned))
        return todo.claim

    def _idle(self) -> Idle:
        """Why there is nothing, when others have something: all partitions, or events they have not settled."""
        seats = self._chair.seats()
        reason = "" if self._held else sharing.told(self.group, self._chair.name, seats)
        topic, tips = self._subscription.group.topic, self._shared.memory.tips
        for number, at in self._shared.memory.progress(self.group).items():
            mine = self._held.get(number)
            if (mine is None or mine in self._revoked) and at.floor + len(at.holes) < tips.get((topic, number), 0):
                return Idle(reason, f"partition {number} of group {self.group} is not settled")
        return Idle(reason)

    def _deliver(self, events_max: int, bytes_max: int) -> Delivery | None:
        """From the partition that was served longest ago and has something."""
        topic = self._subscription.group.topic
        for partition, owned in list(self._held.items()):
            if owned in self._revoked or owned in self._paused:
                continue
            offset = self._position[partition]
            batches = self._shared.memory.read((topic, partition), offset, events_max=events_max)
            batches = rules.within(batches, bytes_max)
            if batches:
                self._position[partition] = batches[-1].end
                self._held[partition] = self._held.pop(partition)  # to the end of the line
                return Delivery(owned, batches)
        return None

    async def commit(self, step: Step) -> Committed | FencedOff:
        """See `Intake`; never unknown."""
        reason = self._dead.get(step.owned)
        if self.left:
            reason = f"group {self.group}: this member has left"
        if reason is not None:
            return FencedOff(reason)
        answer = self._shared.memory.commit(step, now_us=self._system.clock.now_us())
        if isinstance(answer, FencedOff):
            self._dead[step.owned] = answer.reason
            if self._held.get(step.owned.partition) == step.owned:
                self._lost(step.owned, answer.reason)
        elif step.outputs:
            self._shared.wake()
        return answer

    async def extend(self, owned: Owned, references: Sequence[int], for_s: float) -> None:
        """See `Intake`: the memory keeps ownership, there is nothing to extend."""

    def pause(self, owned: Owned, *, on: bool) -> None:
        """See `Intake`."""
        if on and self._held.get(owned.partition) == owned:
            self._paused.add(owned)
        elif owned in self._paused:
            self._paused.discard(owned)
            self._shared.wake()

    def asked(self) -> Sequence[Owned]:
        """See `Intake`."""
        if not self.left:
            self._give_up()
        lost = [told.owned for told in self._told if isinstance(told, Lost)]
        return [*lost, *(owned for owned in self._held.values() if owned in self._revoked)]

    async def leave(self, owned: Owned | None = None) -> None:
        """See `Intake`."""
        if owned is None:
            self.left = True
            self._chair.close()
        elif self._held.get(owned.partition) == owned:
            self._drop(owned)
            self._dead[owned] = f"group {self.group}: this member has left partition {owned.partition}"
        self._shared.wake()

    def _drop(self, owned: Owned) -> None:
        del self._held[owned.partition]
        del self._position[owned.partition]
        self._revoked.discard(owned)
        self._paused.discard(owned)
        self._chair.mark(owned.partition, None)

    def _lost(self, owned: Owned, reason: str) -> None:
        """The partition is not this member's any more; it is told."""
        self._drop(owned)
        self._told.append(Lost(owned, reason))

    def lose(self, reason: str) -> None:
        """Told by `seize`: all that was held is fenced off; what else was to be told is not true any more."""
        self._told = deque(told for told in self._told if isinstance(told, Lost))
        self._shared.memory.claim(self.group, (), partitions=sorted(self._held))
        for _, owned in sorted(self._held.items()):
            self._lost(owned, reason)
        self._chair.live = False
