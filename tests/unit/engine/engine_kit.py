"""A memory channel with typed topics, and groups that run on it until they have caught up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from penstock.channel.api import Acked, GroupSpec, Publish, Subscription, TopicSpec
from penstock.channel.drivers.memory import MemoryChannel
from penstock.channel.typed import TypedTopic
from penstock.delivery.deadletter import DeadLetter, dead_letter_topic, from_row
from penstock.delivery.lot import OnFailure
from penstock.delivery.redrive import redrive_topic
from penstock.delivery.retry import Retries, Retry
from penstock.engine.calling import shape_of
from penstock.engine.concurrent import ConcurrentWork
from penstock.engine.group import Group, Slots
from penstock.engine.handler import HandlerSpec
from penstock.engine.handling import HandlerWork
from penstock.engine.results import Topics
from penstock.event.batch import NewBatch, Rows
from penstock.schema import schema_of
from penstock.system.ports import System, real_system


class Order(msgspec.Struct):
    id: int
    customer: str
    amount: int


class Bill(msgspec.Struct):
    id: int
    customer: str
    total: float


class QuickClock:
    """A clock whose pauses take no time: the machine's, with `slept_s` to ask for."""

    def __init__(self) -> None:
        self.slept_s: list[float] = []
        self._now_s = 0.0

    def now_us(self) -> int:
        return int(self._now_s * 1e6)

    def monotonic_s(self) -> float:
        return self._now_s

    def pass_s(self, seconds: float) -> None:
        """Something took so long."""
        self._now_s += seconds

    async def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self._now_s += seconds
        await asyncio.sleep(0)


class Kit:
    """One channel, its topics and producers."""

    def __init__(self) -> None:
        real = real_system()
        self.clock = QuickClock()
        self.system = System(clock=self.clock, random=real.random, offload=real.offload)
        self.channel = MemoryChannel(system=self.system)
        self.topics: dict[str, TypedTopic[Any]] = {}
        self._sequence = 0

    async def topic(self, name: str, kind: type[Any] | None = None, **options: Any) -> TypedTopic[Any]:
        schema = None if kind is None else schema_of(kind)
        spec = TopicSpec(
            name,
            schema=None if schema is None else schema.describe(),
            arrow=None if schema is None else schema.arrow_bytes(),
            **options,
        )
        return await self.declare(spec, schema)

    async def declare(self, spec: TopicSpec, schema: Any) -> TypedTopic[Any]:
        found = await self.channel.open([spec])
        self.topics[spec.name] = TypedTopic(found[spec.name], schema)
        return self.topics[spec.name]

    async def publish(self, topic: TypedTopic[Any], events: list[Any]) -> None:
        await self.publish_batches(topic.pack([topic.encode(event) for event in events]).batches)

    async def publish_batches(self, batches: list[NewBatch]) -> None:
        answer = await self.channel.publish(Publish("kit", 0, self._sequence, batches))
        assert isinstance(answer, Acked), answer
        self._sequence += 1

    async def events(self, topic: TypedTopic[Any]) -> list[Any]:
        """Every event of the topic, partition by partition."""
        found: list[Any] = []
        for partition in range(topic.spec.partitions):
            for batch in await self.channel.read(topic.name, partition, 0, events_max=10_000):
                found += topic.events(batch)
        return found

    async def letters(self, group: str) -> list[DeadLetter]:
        found: list[DeadLetter] = []
        topic = self.topics[f"{group}.dead"]
        for partition in range(topic.spec.partitions):
            for batch in await self.channel.read(topic.name, partition, 0, events_max=10_000):
                assert isinstance(batch.payload, Rows)
                headers = batch.payload.attributes["headers"]
                found += [from_row(body, h) for body, h in zip(batch.payload.bodies(), headers, strict=True)]
        return found

    async def handler(
        self,
        function: Callable[..., Any],
        source: TypedTopic[Any],
        into: TypedTopic[Any] | None = None,
        *,
        retry: Retry | None = None,
        slots: Slots | None = None,
        ended: Callable[[], bool] | None = lambda: True,
        **options: Any,
    ) -> Group:
        """A group that runs `function`; it ends when it has caught up."""
        name = function.__name__
        dead = await self.declare(dead_letter_topic(name, partitions=source.spec.partitions), None)
        commands = await self.declare(redrive_topic(name, partitions=source.spec.partitions), None)
        given = {name: options.pop(name) for name in ("given_up", "order") if name in options}
        policy = msgspec.structs.replace(options.pop("on_failure", OnFailure()), **given)
        spec = HandlerSpec(name, function, shape_of(function, name=name), Retries.of(retry), policy, **options)
        subscription = Subscription(GroupSpec(name, source.name), "test")
        topics = Topics(source, into, dead, commands)
        kind = HandlerWork if spec.concurrency == 1 else ConcurrentWork
        work = kind(spec, subscription, topics, system=self.system, read=self.channel.read)
        return Group(self.channel, work, system=self.system, slots=slots, ended=ended)

    async def close(self) -> None:
        await self.channel.close()
        self.system.offload.close()
