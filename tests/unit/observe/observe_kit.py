"""A small log with every kind of topic: typed rows, typed columns, a flow's columns, raw bytes, dead letters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from penstock.channel.api import Acked, GroupSpec, Publish, Settle, Step, Subscription, TopicSpec
from penstock.channel.drivers.embedded import EmbeddedChannel
from penstock.channel.typed import TypedTopic
from penstock.delivery.deadletter import DeadLetter, dead_letter_topic, to_batch
from penstock.event.batch import NewBatch, Rows
from penstock.schema import ColumnsSchema, schema_of
from penstock.system import System, real_system

DAY = datetime(2013, 1, 1, tzinfo=UTC)
DELAYS: pa.Schema = pa.schema(
    [
        pa.field("carrier", pa.string(), nullable=False),
        pa.field("flights", pa.int64(), nullable=False),
        pa.field("hour", pa.timestamp("us", "UTC")),
        pa.field("mean_min", pa.float64()),
    ]
)


class Flight(msgspec.Struct):
    """What typed topics hold."""

    id: int
    carrier: str
    due: datetime
    delay_min: float | None = None


def flights(count: int, *, start: int = 0) -> list[Flight]:
    """One a minute; every fifth without a delay."""
    return [
        Flight(n, f"C{n % 7}", DAY + timedelta(minutes=n), None if n % 5 == 0 else n / 4)
        for n in range(start, start + count)
    ]


def flight_topic(name: str = "flights", *, partitions: int = 2) -> TopicSpec:
    """A topic of `Flight`, keyed by its carrier, in the order of `due`."""
    schema = schema_of(Flight)
    return TopicSpec(
        name, partitions=partitions, schema=schema.describe(), arrow=schema.arrow_bytes(), key="carrier", time="due"
    )


class Kit:
    """An open embedded log in a directory, and one producer."""

    def __init__(self, directory: Path, system: System | None = None) -> None:
        self.directory = directory
        self.system = system or real_system()
        self.channel = EmbeddedChannel(directory, system=self.system)
        self._sequence = 0

    async def open(self, *topics: TopicSpec) -> None:
        """Declare topics."""
        await self.channel.open(topics)

    async def close(self) -> None:
        """Let the log go."""
        await self.channel.close()
        self.system.offload.close()

    async def publish(self, batches: Sequence[NewBatch]) -> None:
        """One transaction."""
        answer = await self.channel.publish(Publish("kit", 1, self._sequence, batches))
        assert isinstance(answer, Acked), answer
        self._sequence += 1

    def flights(self, name: str = "flights") -> TypedTopic[Flight]:
        """The open topic with its Python type."""
        return TypedTopic(self.channel.topic(name), schema_of(Flight))

    async def rows(self, events: Iterable[Flight], name: str = "flights") -> None:
        """Publish as JSON."""
        topic = self.flights(name)
        await self.publish(topic.pack([topic.encode(event) for event in events]).batches)

    async def columns(self, events: Sequence[Flight], name: str = "flights") -> None:
        """Publish as columns."""
        topic = self.flights(name)
        await self.publish(topic.pack_columns(schema_of(Flight).to_columns(events)))

    async def raw(self, bodies: Sequence[bytes], *, topic: str = "raw", **attributes: Sequence[Any]) -> None:
        """Publish bytes."""
        await self.publish([NewBatch(topic, 0, len(bodies), Rows.of(bodies, attributes))])

    async def letters(self, letters: Sequence[DeadLetter], *, partition: int = 0) -> None:
        """Publish dead letters of group `check`."""
        await self.publish([to_batch(letters, topic="check.dead", partition=partition)])

    async def settle(self, group: str, topic: str, *, partition: int, floor: int) -> None:
        """Be the group for one step."""
        intake = await self.channel.join(Subscription(GroupSpec(group, topic), "process 1"))
        while True:
            taken: Any = await intake.next(events_max=10, bytes_max=1 << 20, wait_s=1)
            if getattr(taken, "floor", None) is not None and taken.owned.partition == partition:
                break
        await intake.commit(Step(group, taken.owned, Settle(taken.floor, floor)))
        await intake.leave()


def delays_topic() -> TopicSpec:
    """A topic as a flow makes it: columns without a Python type."""
    schema = ColumnsSchema("delays", DELAYS)
    return TopicSpec(
        "delays", partitions=1, schema=schema.describe(), arrow=schema.arrow_bytes(), key="carrier", time="hour"
    )


def letter(offset: int, reason: str = "never departed", *, error: str = "Reject", **more: Any) -> DeadLetter:
    """A dead letter of group `check`."""
    made = DeadLetter("check", "flights", 1, offset, b'{"id":%d}' % offset, reason, error, id=f"event-{offset}")
    return msgspec.structs.replace(made, **more)


async def fill(kit: Kit) -> None:
    """Every kind of topic, with a little in each."""
    await kit.open(
        flight_topic(),
        delays_topic(),
        TopicSpec("raw", partitions=1),
        dead_letter_topic("check", partitions=2),
    )
    await kit.rows(flights(40))
    await kit.columns(flights(60, start=40))
    table = pa.record_batch([["AA", "UA"], [3, 4], [DAY, None], [1.5, None]], schema=DELAYS)
    await kit.publish(TypedTopic(kit.channel.topic("delays"), ColumnsSchema("delays", DELAYS)).pack_columns(table))
    await kit.raw([b"plain", b"\xff\x1b[31mred"], headers=[{"from": "a"}, None], id=["r-1", None])
    await kit.letters(
        [letter(0), letter(1, "bad value 17", error="ValueError"), letter(2, "bad value 18", error="ValueError")]
    )
    await kit.letters([letter(9, stack="Traceback\n  boom", attempts=3, key=b"C2")], partition=1)
