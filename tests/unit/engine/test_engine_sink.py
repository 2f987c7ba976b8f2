"""Sinks on the memory channel: the target's position decides, the log's floor follows."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from penstock.channel.api import GroupSpec, Owned, Subscription
from penstock.channel.typed import TypedTopic
from penstock.engine.group import Group
from penstock.engine.sinking import SinkWork
from penstock.errors import Fenced, RefusedByTarget, TransientError
from penstock.event.batch import Delivered
from penstock.sink.api import Claim, Roll, Staged
from tests.unit.engine.engine_kit import Kit, Order


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
        self.table = table
        self.staged: dict[int, list[int]] = {}
        self.end: dict[int, int] = {}
        self.busy = 0
        self.refuses: set[int] = set()

    def claim(self, claim: Claim) -> int:
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
        self.staged[partition] += ids
        self.end[partition] = staged.end

    def commit(self, owned: Owned) -> int:
        if self.busy:
            self.busy -= 1
            raise TransientError("held by process 7")
        epoch, _ = self.table.position[owned.partition]
        if epoch != owned.epoch:
            raise Fenced("newer")
        self.table.rows.setdefault(owned.partition, []).extend(self.staged[owned.partition])
        self.staged[owned.partition] = []
        self.table.position[owned.partition] = (epoch, self.end[owned.partition])
        self.table.commits += 1
        return self.end[owned.partition]

    def close(self) -> None:
        self.staged.clear()


class Past:
    """See `penstock.engine.sinking.Past`."""

    def __init__(self, kit: Kit, topic: TypedTopic) -> None:  # type: ignore[type-arg]
        self.kit = kit
        self.topic = topic

    async def tip(self, partition: int) -> int:
        return (await self.kit.channel.tips(self.topic.name))[partition]

    async def read(self, partition: int, offset: int) -> Sequence[Delivered]:
        return await self.kit.channel.read(self.topic.name, partition, offset, events_max=100)


def group_of(kit: Kit, topic: TypedTopic, sink: TableSink, *, ended: bool = True) -> Group:  # type: ignore[type-arg]
    subscription = Subscription(GroupSpec("to_table", topic.name, "sink"), "test")
    work = SinkWork(sink, subscription, topic, past=Past(kit, topic), system=kit.system)
    return Group(kit.channel, work, system=kit.system, ended=(lambda: True) if ended else None)


def orders(start: int, stop: int) -> list[Order]:
    return [Order(n, f"c{n}", n) for n in range(start, stop)]


def ids(table: Table) -> list[int]:
    return sorted(n for rows in table.rows.values() for n in rows)


ROLL = Roll(events_max=10_000, seconds=1e9)


async def test_everything_arrives_once_over_several_runs(kit: Kit) -> None:
    topic = await kit.topic("orders", Order, key="customer")
    table = Table()
    for start in (0, 100, 200):
        await kit.publish(topic, orders(start, start + 100))
        await group_of(kit, topic, table.sink(ROLL)).run()
        assert ids(table) == list(range(start + 100))
    assert table.commits == 3 * 4  # one per partition and run: the roll is large


async def test_a_roll_by_events(kit: Kit) -> None:
    topic = await kit.topic("orders", Order, partitions=1)
    for start in range(0, 100, 10):
        await kit.publish(topic, orders(start, start + 10))
    table = Table()
    await group_of(kit, topic, table.sink(Roll(events_max=30, seconds=1e9))).run()
    assert ids(table) == list(range(100))
    assert table.commits >= 1


async def test_the_targets_position_decides_not_the_logs(kit: Kit) -> None:
    topic = await kit.topic("orders", Order, partitions=1)
    await kit.publish(topic, orders(0, 100))
    ahead = Table()
    ahead.rows, ahead.position = {0: list(range(60))}, {0: (0, 60)}  # it committed, the log was not told
    await group_of(kit, topic, ahead.sink(ROLL)).run()
    assert ids(ahead) == list(range(100))
    fresh = Table()  # somebody removed the target: the log's floor says 100
    await group_of(kit, topic, fresh.sink(ROLL)).run()
    assert ids(fresh) == list(range(100))
    await kit.publish(topic, orders(100, 120))
    behind = Table()
    await group_of(kit, topic, behind.sink(Roll(events_max=7, seconds=1e9))).run()
    assert behind.rows[0] == list(range(120))


async def test_a_target_that_says_not_now_is_asked_again(kit: Kit) -> None:
    topic = await kit.topic("orders", Order, partitions=1)
    await kit.publish(topic, orders(0, 10))
    table = Table()
    sink = table.sink(ROLL)
    sink.busy = 5
    await group_of(kit, topic, sink).run()
    assert ids(table) == list(range(10))
    assert len([s for s in kit.clock.slept_s if s > 0]) >= 5


async def test_a_target_that_refuses_stops_the_group_and_moves_nothing(kit: Kit) -> None:
    topic = await kit.topic("orders", Order, partitions=1)
    await kit.publish(topic, orders(0, 10))
    table = Table()
    sink = table.sink(ROLL)
    sink.refuses = {5}
    group = group_of(kit, topic, sink)
    with pytest.raises(RefusedByTarget):
        await group.run()
    assert group.state.state == "failed"
    assert ids(table) == []
    await group_of(kit, topic, table.sink(ROLL)).run()
    assert ids(table) == list(range(10))


async def test_stopped_what_is_staged_is_committed(kit: Kit) -> None:
    topic = await kit.topic("orders", Order, partitions=1)
    await kit.publish(topic, orders(0, 10))
    table = Table()
    sink = table.sink(ROLL)
    group = group_of(kit, topic, sink, ended=False)
    running = asyncio.ensure_future(group.run())
    while not sink.staged.get(0):
        await asyncio.sleep(0)
    assert ids(table) == []
    group.stop()
    await running
    assert ids(table) == list(range(10))


async def test_told_to_stop_while_the_target_is_held_at_the_claim(kit: Kit) -> None:
    topic = await kit.topic("orders", Order, partitions=1)
    await kit.publish(topic, orders(0, 10))
    table = Table()
    sink = table.sink(ROLL)

    def held(claim: Claim) -> int:
        raise TransientError("held by process 7")

    sink.claim = held  # type: ignore[method-assign]
    group = group_of(kit, topic, sink, ended=False)
    running = asyncio.ensure_future(group.run())
    while len(kit.clock.slept_s) < 5:
        await asyncio.sleep(0)
    group.stop()
    await running
    await group_of(kit, topic, table.sink(ROLL)).run()
    assert ids(table) == list(range(10))


async def test_cancelled_in_a_commit_the_target_is_closed_after_it(kit: Kit) -> None:
    topic = await kit.topic("orders", Order, partitions=1)
    await kit.publish(topic, orders(0, 10))
    table = Table()
    sink = table.sink(Roll(events_max=1, seconds=1e9))
    began, go, acts = threading.Event(), threading.Event(), list[str]()
    commit, close = sink.commit, sink.close

    def slow(owned: Owned) -> int:
        began.set()
        go.wait(10)
        position = commit(owned)
        acts.append("committed")
        return position

    def closed() -> None:
        acts.append("closed")
        close()

    sink.commit, sink.close = slow, closed  # type: ignore[method-assign]
    running = asyncio.ensure_future(group_of(kit, topic, sink, ended=False).run())
    while not began.is_set():
        await asyncio.sleep(0)
    running.cancel()
    for _ in range(20):
        await asyncio.sleep(0)
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert acts[:2] == ["committed", "closed"]
