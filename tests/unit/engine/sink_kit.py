"""A target in memory whose sink can be watched, and the groups and topics that the tests of sinks run on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from penstock.channel.api import GroupSpec, Owned, Subscription
from penstock.channel.typed import TypedTopic
from penstock.engine.group import Group
from penstock.engine.sinking import SinkWork
from penstock.errors import Fenced, RefusedByTarget, TransientError
from penstock.event.batch import Delivered
from penstock.sink.api import Claim, Roll, Staged
from tests.unit.engine.engine_kit import Kit, Order

ROLL = Roll(events_max=10_000, seconds=1e9)


class Table:
    """A target in memory that keeps its position, as a database would: rows and position change together."""

    def __init__(self) -> None:
        self.rows: dict[int, list[int]] = {}
        self.position: dict[int, tuple[int, int]] = {}
        self.commits = 0

    def sink(self, roll: Roll) -> TableSink:
        return TableSink(self, roll)


class TableSink:
    """See `Sink`."""

    def __init__(self, table: Table, roll: Roll) -> None:
        self.name = "table"
        self.roll = roll
        self.together = False
        self.table = table
        self.staged: dict[int, list[int]] = {}
        self.end: dict[int, int] = {}
        self.busy = 0
        self.refuses: set[int] = set()
        self.seen: Callable[[str, int], None] = lambda act, partition: None

    def claim(self, claim: Claim) -> int:
        self.seen("claim", claim.owned.partition)
        epoch, position = self.table.position.get(claim.owned.partition, (0, claim.floor))
        if epoch > claim.owned.epoch:
            raise Fenced("newer")
        self.table.position[claim.owned.partition] = (claim.owned.epoch, position)
        self.staged[claim.owned.partition] = []
        self.end[claim.owned.partition] = position
        return position

    def write(self, staged: Staged) -> None:
        partition = staged.owned.partition
        assert staged.first == self.end[partition], "calls come in offset order, without a gap"
        ids = staged.table.column("id").to_pylist()
        if self.refuses & set(ids):
            raise RefusedByTarget("no")
        self.seen("write", partition)
        self.staged[partition] += ids
        self.end[partition] = staged.end

    def commit(self, owned: Owned) -> int:
        if self.busy:
            self.busy -= 1
            raise TransientError("held by process 7")
        self.seen("commit", owned.partition)
        epoch, _ = self.table.position[owned.partition]
        if epoch != owned.epoch:
            raise Fenced("newer")
        self.table.rows.setdefault(owned.partition, []).extend(self.staged[owned.partition])
        self.staged[owned.partition] = []
        self.table.position[owned.partition] = (epoch, self.end[owned.partition])
        self.table.commits += 1
        return self.end[owned.partition]

    def close(self) -> None:
        self.seen("close", -1)
        self.staged.clear()


class Past:
    """See `penstock.engine.sinking.Past`. `quarantined`: what lies below it cannot be read, and need not be."""

    quarantined = 0

    def __init__(self, kit: Kit, topic: TypedTopic) -> None:  # type: ignore[type-arg]
        self.kit = kit
        self.topic = topic

    async def tip(self, partition: int) -> int:
        return (await self.kit.channel.tips(self.topic.name))[partition]

    async def passed(self, partition: int, offset: int) -> int:
        return self.quarantined if offset < self.quarantined else offset

    async def read(self, partition: int, offset: int) -> Sequence[Delivered]:
        return await self.kit.channel.read(self.topic.name, partition, offset, events_max=100)


def group_of(kit: Kit, topic: TypedTopic, sink: TableSink, *, ended: bool = True) -> Group:  # type: ignore[type-arg]
    subscription = Subscription(GroupSpec("to_table", topic.name, "sink"), "test")
    work = SinkWork(sink, subscription, topic, past=Past(kit, topic), system=kit.system)
    return Group(kit.channel, work, system=kit.system, ended=(lambda: True) if ended else None)


async def spread(kit: Kit, topic: TypedTopic, partition: int, start: int, stop: int) -> None:  # type: ignore[type-arg]
    """Each order as a batch of its own, in one partition."""
    for order in orders(start, stop):
        batch = topic.pack([topic.encode(order)]).batches[0]
        await kit.publish_batches([msgspec.structs.replace(batch, partition=partition)])


def orders(start: int, stop: int) -> list[Order]:
    return [Order(n, f"c{n}", n) for n in range(start, stop)]


def ids(table: Table) -> list[int]:
    return sorted(n for rows in table.rows.values() for n in rows)
