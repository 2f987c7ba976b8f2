"""Sinks on the memory channel: the target's position decides, the log's floor follows."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Sequence

import pytest

from penstock.channel.api import Assigned, Delivery, GroupSpec, Subscription
from penstock.channel.typed import TypedTopic
from penstock.engine.sinking import SinkWork
from penstock.errors import CorruptionError, Fenced, RefusedByTarget, SinkFull, TransientError
from penstock.event.batch import Delivered
from penstock.sink.api import Claim, Roll
from tests.unit.engine.engine_kit import Kit, Order
from tests.unit.engine.sink_kit import ROLL, Past, Table, group_of, ids, orders, spread


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


# -- rolls ---------------------------------------------------------------------------------------------------------


async def test_a_roll_that_is_over_is_committed_while_another_partition_is_busy(kit: Kit) -> None:
    topic = await kit.topic("orders", Order, partitions=2)
    await spread(kit, topic, 0, 0, 1)
    await spread(kit, topic, 1, 1, 20)
    table = Table()
    sink = table.sink(Roll(events_max=10_000, seconds=50))
    late: list[int] = []

    def seen(act: str, partition: int) -> None:
        if act == "write" and partition == 1:
            kit.clock.pass_s(20)
            late.append(len(table.rows.get(0, [])))

    sink.seen = seen
    await group_of(kit, topic, sink).run()
    assert late[:3] == [0, 0, 0], "the roll is not over yet"
    assert late[4:] == [1] * 15, "the rows of partition 0 wait until partition 1 is quiet"
    assert ids(table) == list(range(20))


async def test_a_roll_that_is_over_is_committed_while_another_partition_catches_up(kit: Kit) -> None:
    topic = await kit.topic("orders", Order, partitions=2)
    await spread(kit, topic, 0, 0, 1)
    await spread(kit, topic, 1, 1, 20)
    await group_of(kit, topic, Table().sink(ROLL)).run()
    table = Table()  # empty, and the log's floor is at the end
    sink = table.sink(Roll(events_max=10_000, seconds=50))
    late: list[int] = []

    def seen(act: str, partition: int) -> None:
        if act == "write" and partition == 1:
            kit.clock.pass_s(20)
            late.append(len(table.rows.get(0, [])))

    sink.seen = seen
    await group_of(kit, topic, sink).run()
    assert late[4:] == [1] * 15
    assert ids(table) == list(range(20))


# -- no room -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", ["write", "commit"])
async def test_a_target_without_room_is_claimed_again(kit: Kit, act: str) -> None:
    topic = await kit.topic("orders", Order, partitions=2)
    await spread(kit, topic, 0, 0, 5)
    await spread(kit, topic, 1, 5, 10)
    table = Table()
    sink = table.sink(Roll(events_max=3, seconds=1e9))
    acts: list[tuple[str, int]] = []

    def seen(found: str, partition: int) -> None:
        acts.append((found, partition))
        if (found, partition) == (act, 1) and acts.count((act, 1)) <= 3:
            acts.append(("full", partition))
            sink.staged.clear()
            raise SinkFull("lake: No space left on device; free room")

    sink.seen = seen
    group = group_of(kit, topic, sink)
    await group.run()
    assert ids(table) == list(range(10))
    assert acts.count(("full", 1)) == 3
    for at, found in enumerate(acts):
        if found == ("full", 1):
            assert acts[at + 1] == ("close", -1), "what other partitions had staged goes first"
            assert acts[at + 2][0] == "claim"


@pytest.mark.parametrize("at", range(1, 8))
async def test_what_became_permanent_before_the_room_ended_is_counted(kit: Kit, at: int) -> None:
    topic = await kit.topic("orders", Order, partitions=2)
    await spread(kit, topic, 0, 0, 10)
    await spread(kit, topic, 1, 10, 20)
    table = Table()
    sink = table.sink(Roll(events_max=3, seconds=1e9))
    commits = 0

    def seen(act: str, partition: int) -> None:
        nonlocal commits
        commits += act == "commit"
        if act == "commit" and commits == at:
            raise SinkFull("lake: No space left on device; free room")

    sink.seen = seen
    group = group_of(kit, topic, sink)
    await group.run()
    assert ids(table) == list(range(20))
    assert group.state.events == 20


async def test_a_claim_without_room_is_tried_again_in_place(kit: Kit) -> None:
    topic = await kit.topic("orders", Order, partitions=1)
    await kit.publish(topic, orders(0, 10))
    table = Table()
    sink = table.sink(ROLL)
    acts: list[str] = []

    def seen(act: str, partition: int) -> None:
        acts.append(act)
        if act == "claim" and len(acts) < 5:
            raise SinkFull("lake: No space left on device; free room")

    sink.seen = seen
    await group_of(kit, topic, sink).run()
    assert acts == ["claim"] * 5 + ["write", "commit", "close"]
    assert ids(table) == list(range(10))


async def test_told_to_stop_while_there_is_no_room(kit: Kit) -> None:
    topic = await kit.topic("orders", Order, partitions=1)
    await kit.publish(topic, orders(0, 10))
    table = Table()
    sink = table.sink(Roll(events_max=1, seconds=1e9))

    def seen(act: str, partition: int) -> None:
        if act == "commit":
            raise SinkFull("lake: No space left on device; free room")

    sink.seen = seen
    group = group_of(kit, topic, sink, ended=False)
    running = asyncio.ensure_future(group.run())
    while "free room" not in group.state.reason:
        await asyncio.sleep(0)
    assert group.state.state == "waiting"
    group.stop()
    await running
    await group_of(kit, topic, table.sink(ROLL)).run()
    assert ids(table) == list(range(10))


# -- where a target stands -----------------------------------------------------------------------------------------

PLACES = {"ahead of the floor": 60, "at the floor": 40, "behind the floor": 20, "empty": 0}


def standing(at: int) -> Table:
    table = Table()
    if at:
        table.rows, table.position = {0: list(range(at))}, {0: (0, at)}
    return table


async def _with_floor_40(kit: Kit) -> TypedTopic:  # type: ignore[type-arg]
    topic = await kit.topic("orders", Order, partitions=1)
    await spread(kit, topic, 0, 0, 40)
    await group_of(kit, topic, Table().sink(ROLL)).run()
    await spread(kit, topic, 0, 40, 100)
    return topic


@pytest.mark.parametrize("at", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize(
    "fails_at", [("write", 1), ("write", 25), ("write", 70), ("commit", 1), ("commit", 4)], ids=str
)
@pytest.mark.parametrize("error", [Fenced, TransientError, SinkFull])
async def test_joined_again_wherever_the_target_stands(
    kit: Kit, at: int, fails_at: tuple[str, int], error: type[Exception]
) -> None:
    topic = await _with_floor_40(kit)
    table = standing(at)
    sink = table.sink(Roll(events_max=7, seconds=1e9))
    counts = {"write": 0, "commit": 0}

    def seen(act: str, partition: int) -> None:
        if act in counts:
            counts[act] += 1
            if (act, counts[act]) == fails_at:
                raise error("injected")

    sink.seen = seen
    await group_of(kit, topic, sink).run()
    assert table.rows[0] == list(range(100))


@pytest.mark.parametrize("at", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("writes", [1, 3, 15, 39])
async def test_stopped_in_the_middle_wherever_the_target_stands(kit: Kit, at: int, writes: int) -> None:
    topic = await _with_floor_40(kit)
    table = standing(at)
    sink = table.sink(Roll(events_max=7, seconds=1e9))
    group = group_of(kit, topic, sink, ended=False)
    left = [writes]

    def seen(act: str, partition: int) -> None:
        left[0] -= act == "write"
        if not left[0]:
            group.stop()

    sink.seen = seen
    await group.run()
    assert table.rows[0] == list(range(len(table.rows[0]))), "what was staged is there, once"
    assert len(table.rows[0]) >= at + writes
    await group_of(kit, topic, table.sink(ROLL)).run()
    assert table.rows[0] == list(range(100))


async def test_a_target_that_is_at_the_end_tells_the_log(kit: Kit) -> None:
    """Nothing is delivered that it lacks: the floor follows all the same, and the next run finds nothing to do."""
    topic = await _with_floor_40(kit)
    group = group_of(kit, topic, standing(100).sink(ROLL))
    await group.run()
    assert group.state.events == 60
    again = group_of(kit, topic, standing(100).sink(ROLL))
    await again.run()
    assert again.state.events == 0


@pytest.mark.parametrize(("first", "quarantined"), [(None, 0), (30, 0), (30, 20)])
async def test_what_the_log_does_not_have_any_more_is_named(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, first: int | None, quarantined: int
) -> None:
    """Nothing is there, or a later event is: also when less than what lies between is quarantined."""
    topic = await _with_floor_40(kit)
    read = Past.read

    async def gone(self: Past, partition: int, offset: int) -> Sequence[Delivered]:
        return [] if first is None else await read(self, partition, max(first, offset))

    monkeypatch.setattr(Past, "read", gone)
    monkeypatch.setattr(Past, "quarantined", quarantined)
    with pytest.raises(CorruptionError, match=r"table goes on at offset 0 of topic orders/0.*nothing was skipped"):
        await group_of(kit, topic, Table().sink(ROLL)).run()


@pytest.mark.parametrize("quarantined", [30, 40, 100])
async def test_what_is_quarantined_is_passed_over(kit: Kit, monkeypatch: pytest.MonkeyPatch, quarantined: int) -> None:
    """In the middle, up to the group's floor, and to the end of the log: a new target gets the rest."""
    topic = await _with_floor_40(kit)
    read = Past.read

    async def without(self: Past, partition: int, offset: int) -> Sequence[Delivered]:
        return await read(self, partition, max(quarantined, offset))

    monkeypatch.setattr(Past, "read", without)
    monkeypatch.setattr(Past, "quarantined", quarantined)
    table = Table()
    await group_of(kit, topic, table.sink(ROLL)).run()
    assert table.rows[0] == list(range(quarantined, 100))


async def test_what_was_staged_is_dropped_when_the_partitions_are_left(kit: Kit) -> None:
    """Also when they never come back: another member may have them from now on."""
    topic = await kit.topic("orders", Order, partitions=1)
    await kit.publish(topic, orders(0, 3))
    table = Table()
    sink = table.sink(ROLL)
    subscription = Subscription(GroupSpec("to_table", topic.name, "sink"), "test")
    work = SinkWork(sink, subscription, topic, past=Past(kit, topic), system=kit.system)
    intake = await kit.channel.join(subscription)
    assigned = await intake.next(events_max=10, bytes_max=10_000, wait_s=0)
    assert isinstance(assigned, Assigned)
    await work.assigned(assigned, None, lambda: False)
    delivery = await intake.next(events_max=10, bytes_max=10_000, wait_s=0)
    assert isinstance(delivery, Delivery)
    assert [draft async for draft in work.process(delivery, lambda: False)] == []
    assert sink.staged[0] == [0, 1, 2]
    work.left()
    assert [draft async for draft in work.due(everything=True)] == []
    assert sink.staged == {}
    assert ids(table) == []
    await intake.leave()


# -- cancelled -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", ["claim", "write", "commit"])
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("fails", [False, True], ids=["it works", "it fails"])
async def test_cancelled_the_target_is_left_alone_before_it_is_closed(
    kit: Kit, act: str, times: int, fails: bool
) -> None:
    topic = await kit.topic("orders", Order, partitions=1)
    await kit.publish(topic, orders(0, 10))
    table = Table()
    sink = table.sink(Roll(events_max=1, seconds=1e9))
    began, go, acts = threading.Event(), threading.Event(), list[str]()

    def seen(found: str, partition: int) -> None:
        if found == act:
            began.set()
            assert go.wait(10)
            acts.append("over")
            if fails:
                raise TransientError("held by process 7")
        elif found == "close":
            acts.append("closed")

    sink.seen = seen
    running = asyncio.ensure_future(group_of(kit, topic, sink, ended=False).run())
    while not began.is_set():
        await asyncio.sleep(0)
    for _ in range(times):
        running.cancel()
        for _ in range(20):
            await asyncio.sleep(0)
    assert not running.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert acts == ["over", "closed"]
    await group_of(kit, topic, table.sink(ROLL)).run()
    assert ids(table) == list(range(10))


def test_cancelled_in_a_call_that_fails_nobody_complains_later(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        kit = Kit()
        topic = await kit.topic("orders", Order, partitions=1)
        sink = Table().sink(ROLL)
        began, go = threading.Event(), threading.Event()

        def seen(act: str, partition: int) -> None:
            if act == "claim":
                began.set()
                assert go.wait(10)
                raise TransientError("held by process 7")

        sink.seen = seen
        running = asyncio.ensure_future(group_of(kit, topic, sink, ended=False).run())
        while not began.is_set():
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.sleep(0)
        go.set()
        await asyncio.wait([running])
        await kit.close()

    asyncio.run(scenario())
    gc.collect()
    assert "never retrieved" not in caplog.text
