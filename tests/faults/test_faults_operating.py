"""Operating a log: retention takes nothing that is needed, nothing early; what it has passed is an error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from penstock.channel.api import (
    Assigned,
    Committed,
    GroupSpec,
    Publish,
    Settle,
    Step,
    Subscription,
    TopicSpec,
)
from penstock.channel.bounds import Retention
from penstock.channel.drivers.embedded import EmbeddedChannel
from penstock.channel.drivers.embedded.upkeep import LOCK, Upkeep, UpkeepConfig
from penstock.errors import OffsetOutOfRange
from penstock.event.batch import NewBatch, Rows
from penstock.log.living import DAY_US, Expiry
from penstock.observe.inventory import topic_facts
from penstock.system import System, real_system
from tests.faults.report import FaultReport

HOUR_US = 3600 * 1_000_000
KEEP_A_WEEK = Retention(age="7d")


class SetClock:
    """Clocks that a test sets: the wall clock and what has really passed, apart."""

    def __init__(self) -> None:
        self.wall_us = 1_700_000_000_000_000
        self.true_s = 1000.0

    def now_us(self) -> int:
        return self.wall_us

    def monotonic_s(self) -> float:
        return self.true_s

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)

    def pass_us(self, us: int) -> None:
        self.wall_us += us
        self.true_s += us / 1e6

    def jump_us(self, us: int) -> None:
        self.wall_us += us


@asynccontextmanager
async def opened(
    directory: Path, clock: SetClock, retention: Retention | None
) -> AsyncGenerator[tuple[EmbeddedChannel, System]]:
    system = set_system(clock)
    channel = EmbeddedChannel(directory, system=system)
    await channel.open([TopicSpec("t", partitions=1, retention=retention)])
    try:
        yield channel, system
    finally:
        await channel.close()
        system.offload.close()


def set_system(clock: SetClock) -> System:
    real = real_system()
    return System(clock=clock, random=real.random, offload=real.offload)


async def publish(channel: EmbeddedChannel, number: int) -> None:
    rows = Rows.of([b"%d-a" % number, b"%d-b" % number])
    await channel.publish(Publish("p", 0, number, [NewBatch("t", 0, 2, rows)]))


async def first_kept(channel: EmbeddedChannel) -> int:
    return (await channel.begins("t"))[0]


async def filled(channel: EmbeddedChannel, clock: SetClock, days: int) -> None:
    """Two events a day; the log looks at the clocks at every publish."""
    for day in range(days):
        await publish(channel, day)
        clock.pass_us(DAY_US)


async def claimed(channel: EmbeddedChannel, group: str) -> Assigned:
    intake = await channel.join(Subscription(GroupSpec(group, "t")))
    try:
        assigned = await intake.next(events_max=1, bytes_max=1, wait_s=0)
        assert isinstance(assigned, Assigned)
        return assigned
    finally:
        await intake.leave()


def test_retention_stops_at_what_a_group_has_not_settled_or_has_parked(
    tmp_path: Path, fault_report: FaultReport
) -> None:
    tally = fault_report("C6")

    async def work() -> None:
        clock = SetClock()
        async with opened(tmp_path, clock, Retention(age="1h")) as (channel, system):
            await filled(channel, clock, 10)
            intake = await channel.join(Subscription(GroupSpec("g", "t")))
            assigned = await intake.next(events_max=1, bytes_max=1, wait_s=0)
            assert isinstance(assigned, Assigned)
            upkeep = Upkeep(channel, system)
            for settle, expected in (
                (Settle(0, 6, holes=[9]), 6),
                (Settle(6, 14, oldest=11), 10),
                (Settle(14, 20, oldest=None), 20),
            ):
                assert isinstance(await intake.commit(Step("g", assigned.owned, settle)), Committed)
                await upkeep.once()
                tally.points += 1
                tally.note(f"{settle}", lost=max(0, await first_kept(channel) - expected))
                assert await first_kept(channel) == expected
            await intake.leave()

    asyncio.run(work())
    assert tally.clean, tally.told


@pytest.mark.parametrize("jump_us", [DAY_US, -DAY_US])
def test_a_clock_that_jumps_makes_nothing_old(tmp_path: Path, fault_report: FaultReport, jump_us: int) -> None:
    """Events are published before, while and after the wall clock is off; none goes before its seven days."""
    tally = fault_report("E1")

    async def work() -> None:
        clock = SetClock()
        true_day: list[float] = []
        async with opened(tmp_path, clock, KEEP_A_WEEK) as (channel, system):
            upkeep = Upkeep(channel, system)
            for day in range(16):
                if day in (4, 9):
                    clock.jump_us(jump_us)
                if day in (5, 12):
                    clock.jump_us(-jump_us)
                for slot in range(6):
                    await publish(channel, 6 * day + slot)
                    true_day.append(clock.true_s)
                    clock.pass_us(4 * HOUR_US)
                    await upkeep.once()
                    gone = await first_kept(channel) // 2
                    early = [n for n in range(gone) if clock.true_s - true_day[n] < 7 * 86_400]
                    tally.points += 1
                    tally.note(f"day {day}", lost=len(early), example=str(early))
            assert await first_kept(channel) >= 2 * 6 * 6  # and it does go, a jump later at most

    asyncio.run(work())
    assert tally.clean, tally.told


def test_a_group_that_is_gone_is_warned_of_before_retention_passes_it(
    tmp_path: Path, fault_report: FaultReport, caplog: pytest.LogCaptureFixture
) -> None:
    tally = fault_report("C6", "E1")

    async def work() -> None:
        clock = SetClock()
        async with opened(tmp_path, clock, Retention(age="1h")) as (channel, system):
            await claimed(channel, "gone")
            await filled(channel, clock, 2)
            upkeep = Upkeep(channel, system, UpkeepConfig(expiry=Expiry()))
            clock.jump_us(8 * DAY_US)  # nobody was away for that long
            await upkeep.once()
            await upkeep.once()
            tally.note("after a jump", lost=await first_kept(channel))
            clock.pass_us(6 * DAY_US)
            report = await upkeep.once()
            assert report is not None
            assert report.warned == ["gone"]
            assert "group is quiet" in caplog.text
            tally.note("warned of", lost=await first_kept(channel))
            clock.pass_us(DAY_US)
            await upkeep.once()
            assert await first_kept(channel) == 4
            with pytest.raises(
                OffsetOutOfRange,
                match=r"group gone needs offset 0 of topic t/0 .* kept is 4.*penstock groups seek gone",
            ):
                await claimed(channel, "gone")
            assert (await claimed(channel, "new")).floor == 4

    with caplog.at_level("WARNING", logger="penstock"):
        asyncio.run(work())
    tally.points += 1
    assert tally.clean, tally.told


def test_a_position_below_the_first_kept_offset_is_an_error_and_never_another_event(
    tmp_path: Path, fault_report: FaultReport
) -> None:
    tally = fault_report("C6")

    async def work() -> None:
        clock = SetClock()
        async with opened(tmp_path, clock, Retention(age="2d")) as (channel, system):
            await filled(channel, clock, 6)
            await claimed(channel, "slow")
            await Upkeep(channel, system).once(force=True)
            begin = await first_kept(channel)
            assert begin == 8
            for offset in range(begin):
                with pytest.raises(OffsetOutOfRange, match=f"offset {offset} is asked for, .* kept is {begin}"):
                    await channel.read("t", 0, offset, events_max=10)
                tally.points += 1
            with pytest.raises(OffsetOutOfRange, match=f"group slow needs offset 0 .* kept is {begin}"):
                await claimed(channel, "slow")
            [first, *_] = await channel.read("t", 0, begin, events_max=10)
            assert first.first == begin

    asyncio.run(work())
    assert tally.clean, tally.told


def test_what_another_process_has_bundled_is_not_counted_as_it_was(tmp_path: Path, fault_report: FaultReport) -> None:
    """Two processes look after the log in turn; a topic that fits its limit loses nothing."""
    tally = fault_report("A13")

    async def work() -> None:
        clock = SetClock()
        async with opened(tmp_path, clock, Retention(bytes=300_000)) as (channel, system):
            one, other = Upkeep(channel, system), Upkeep(channel, system)
            for count in range(3):
                await publish_small(channel, count * 1100, 1000)
                await one.once()  # counts them as they are: so few are not bundled yet
                await publish_small(channel, count * 1100 + 1000, 100)
                await other.once()
                [row] = [fact for fact in topic_facts(channel) if fact.name == "t"]
                tally.points += 1
                tally.note(f"{row.bytes} bytes of 300,000", lost=await first_kept(channel))

    asyncio.run(work())
    assert tally.clean, tally.told


async def publish_small(channel: EmbeddedChannel, start: int, count: int) -> None:
    """So many blocks of one event, which a bundle makes small."""
    for number in range(start, start + count):
        await channel.publish(Publish("p", 0, number, [NewBatch("t", 0, 1, Rows.of([b"same as ever " * 10]))]))


def test_upkeep_goes_on_when_what_the_system_refused_works_again(
    tmp_path: Path, fault_report: FaultReport, caplog: pytest.LogCaptureFixture
) -> None:
    """As when a process has no file descriptors left for a while."""
    tally = fault_report("A11")

    async def work() -> None:
        clock = SetClock()
        async with opened(tmp_path, clock, Retention(age="1h")) as (channel, system):
            await filled(channel, clock, 2)
            (tmp_path / LOCK).mkdir()
            running = asyncio.ensure_future(Upkeep(channel, system, UpkeepConfig(every_s=0)).run())
            while "upkeep failed" not in caplog.text and not running.done():
                await asyncio.sleep(0)
            (tmp_path / LOCK).rmdir()
            async with asyncio.timeout(10):
                while await first_kept(channel) < 4 and not running.done():
                    await asyncio.sleep(0)
            tally.points += 1
            tally.contradicts("after an OSError", ["upkeep has ended"] if running.done() else [])
            running.cancel()

    with caplog.at_level("WARNING", logger="penstock"):
        asyncio.run(work())
    assert tally.clean, tally.told
