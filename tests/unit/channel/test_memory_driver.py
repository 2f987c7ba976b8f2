"""What the memory driver offers beside the contract: limits, forced take-over, recorded steps."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from penstock.channel.api import (
    Assigned,
    Committed,
    FencedOff,
    GroupSpec,
    LedgerWrite,
    Lost,
    Publish,
    Refused,
    Settle,
    Step,
    Subscription,
    Taken,
    TopicSpec,
)
from penstock.channel.drivers.memory import Memory, MemoryChannel, MemoryConfig
from penstock.channel.drivers.memory.driver import MemoryIntake
from penstock.channel.rules import OFFSET_MAX, check_name
from penstock.errors import ConfigError, LogFull
from penstock.event.batch import NewBatch, Rows
from penstock.system import System, real_system


@pytest.fixture
def system() -> Iterator[System]:
    made = real_system()
    yield made
    made.offload.close()


def _batch(*bodies: bytes) -> NewBatch:
    return NewBatch("t", 0, len(bodies), Rows.of(bodies))


async def _take(intake: MemoryIntake) -> Taken:
    return await intake.next(events_max=10, bytes_max=1 << 20, wait_s=0.0)


def test_an_offset_near_the_limit_is_refused_and_never_wraps(system: System) -> None:
    async def run() -> None:
        channel = MemoryChannel(system=system)
        await channel.open([TopicSpec("t", partitions=1)])
        channel.memory.tips["t", 0] = OFFSET_MAX - 1
        answer = await channel.publish(Publish("p", 0, 0, [_batch(b"a", b"b")]))
        assert isinstance(answer, Refused)
        assert str(OFFSET_MAX) in answer.reason
        await channel.publish(Publish("p", 0, 0, [_batch(b"a")]))
        assert channel.memory.tips["t", 0] == OFFSET_MAX

    asyncio.run(run())


@pytest.mark.parametrize("times", [1, 2])
def test_a_seized_group_tells_its_owner_and_fences_it_before_anybody_else_comes(system: System, times: int) -> None:
    """Whether or not it has been told when it is seized again."""

    async def run() -> None:
        channel = MemoryChannel(system=system)
        await channel.open([TopicSpec("t", partitions=2)])
        intake = await channel.join(Subscription(GroupSpec("g", "t")))
        first = [await _take(intake) for _ in range(2)]
        owned = [a.owned for a in first if isinstance(a, Assigned)]
        for _ in range(times):
            channel.seize("g")
        assert isinstance(await intake.commit(Step("g", owned[0], Settle(0, 0))), FencedOff)
        lost = [await _take(intake) for _ in range(2)]
        assert [item.owned for item in lost if isinstance(item, Lost)] == owned
        again = await _take(intake)
        assert isinstance(again, Assigned)
        assert again.owned.epoch > owned[0].epoch

    asyncio.run(run())


def test_steps_are_recorded_with_what_they_settled_and_wrote(system: System) -> None:
    async def run() -> None:
        channel = MemoryChannel(system=system)
        await channel.open([TopicSpec("t", partitions=1), TopicSpec("u", partitions=1)])
        await channel.publish(Publish("p", 0, 0, [_batch(b"a", b"b")]))
        intake = await channel.join(Subscription(GroupSpec("g", "t"), ledger_spaces=["mine"]))
        assigned = await _take(intake)
        assert isinstance(assigned, Assigned)
        settle = Settle(0, 2, references=[("u", 0, 0, 1)])
        out = NewBatch("u", 0, 1, Rows.of([b"x"]))
        writes = [LedgerWrite("mine", b"k", b"v"), LedgerWrite("other", b"k", b"w")]
        assert isinstance(await intake.commit(Step("g", assigned.owned, settle, [out], writes)), Committed)
        (step,) = channel.memory.steps("g", 0)
        assert (step.settle, step.owned, step.outputs) == (settle, assigned.owned, [("u", 0, 0, 1)])
        assert channel.memory.ledger("g", 0) == {("mine", b"k"): b"v", ("other", b"k"): b"w"}
        await intake.leave()
        heir = await _take(await channel.join(Subscription(GroupSpec("g", "t"), ledger_spaces=["mine"])))
        assert isinstance(heir, Assigned)
        assert heir.ledger == [("mine", b"k", b"v")]
        assert channel.memory.gaps() == []

    asyncio.run(run())


def test_a_full_memory_refuses_but_still_answers_repetitions(system: System) -> None:
    async def run() -> None:
        channel = MemoryChannel(system=system, memory=Memory(MemoryConfig(events_max=2, answers_max=2)))
        await channel.open([TopicSpec("t", partitions=1)])
        first = Publish("p", 0, 0, [_batch(b"a", b"b")])
        await channel.publish(first)
        refused = await channel.publish(Publish("p", 0, 1, [_batch(b"c")]))
        assert isinstance(refused, Refused)
        assert "events_max" in refused.reason
        assert not isinstance(await channel.publish(first), Refused)
        intake = await channel.join(Subscription(GroupSpec("g", "t")))
        assigned = await _take(intake)
        assert isinstance(assigned, Assigned)
        with pytest.raises(LogFull, match="events_max"):
            await intake.commit(Step("g", assigned.owned, Settle(0, 2), [_batch(b"x")]))
        assert channel.memory.progress("g")[0].floor == 0

    asyncio.run(run())


def test_answers_older_than_the_horizon_are_refused_and_not_stored_again(system: System) -> None:
    async def run() -> None:
        channel = MemoryChannel(system=system, memory=Memory(MemoryConfig(answers_max=1)))
        await channel.open([TopicSpec("t", partitions=1)])
        for sequence in range(2):
            await channel.publish(Publish("p", 0, sequence, [_batch(b"%d" % sequence)]))
        answer = await channel.publish(Publish("p", 0, 0, [_batch(b"0")]))
        assert isinstance(answer, Refused)
        assert channel.memory.tips["t", 0] == 2

    asyncio.run(run())


@pytest.mark.parametrize("name", ["con", "NUL", "aux.txt", "Com1", "lpt9.x"])
def test_names_of_windows_devices_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="device"):
        check_name(name, what="topic")
    check_name(f"my_{name}", what="topic")
