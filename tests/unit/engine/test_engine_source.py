"""Sources on the memory channel: positions, repetitions, two at once, and what could not be read."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.channel.typed import TypedTopic
from penstock.delivery.deadletter import dead_letter_topic
from penstock.engine.sourcing import SourceRun
from penstock.engine.supervisor import Supervisor
from penstock.errors import ConflictError, TransientError
from penstock.event.batch import Rows
from penstock.source.api import Bad, Chunk
from tests.unit.engine.engine_kit import Kit, Order


class Lines:
    """A source of numbered lines, a few per chunk; the position is the number of lines read."""

    finite = True

    def __init__(self, count: int, *, per_chunk: int = 10, name: str = "lines") -> None:
        self.name = name
        self.count = count
        self.per_chunk = per_chunk
        self.next = 0
        self.closed = 0
        self.fail_at: int | None = None

    def open(self, schema: Any, position: bytes) -> None:
        self.next = int(position or b"0")

    def read(self, *, events_max: int, bytes_max: int) -> Chunk | None:
        numbers = range(self.next, min(self.next + self.per_chunk, self.count))
        if self.fail_at in numbers:
            self.fail_at = None
            raise TransientError("the disk is elsewhere")
        if not numbers:
            return None
        self.next = numbers.stop
        bodies = [b'{"id":%d,"customer":"c%d","amount":1}' % (n, n % 5) for n in numbers if n % 25 != 24]
        bad = [Bad(f"f:{n}", b"{broken", "not JSON") for n in numbers if n % 25 == 24]
        return Chunk(Rows.of(bodies), b"%d" % self.next, bad)

    def close(self) -> None:
        self.closed += 1


async def run_of(kit: Kit, topic: TypedTopic[Any], source: Lines, *, republish: bool = False) -> SourceRun:
    spec = dead_letter_topic(f"source.{source.name}", partitions=1, event_bytes_max=1_000_000)
    dead = await kit.declare(spec, None)
    return SourceRun(kit.channel, source, topic, dead=dead, system=kit.system, republish=republish)


def good(count: int) -> list[int]:
    return [n for n in range(count) if n % 25 != 24]


async def test_everything_once_over_several_runs_as_the_source_grows(kit: Kit) -> None:
    topic = await kit.topic("orders", Order, key="customer")
    for count in (35, 35, 101):
        source = Lines(count)
        await (await run_of(kit, topic, source)).run()
        assert sorted(order.id for order in await kit.events(topic)) == good(count)
        assert source.closed == 1
    letters = await kit.letters("source.lines")
    assert [(letter.body, letter.reason) for letter in letters] == [
        (b"{broken", f"f:{n}: not JSON") for n in range(24, 101, 25)
    ]
    assert {letter.group for letter in letters} == {"source.lines"}


async def test_published_again_nothing_is_stored_twice(kit: Kit) -> None:
    topic = await kit.topic("orders", Order, key="customer")
    await (await run_of(kit, topic, Lines(100))).run()
    again = await run_of(kit, topic, Lines(100), republish=True)
    await again.run()
    assert (again.state.events, again.state.repeated) == (96, 96)
    assert sorted(order.id for order in await kit.events(topic)) == good(100)
    other = await run_of(kit, topic, Lines(100, per_chunk=9), republish=True)
    with pytest.raises(ConflictError, match="not what was published then"):
        await other.run()
    assert sorted(order.id for order in await kit.events(topic)) == good(100)


async def test_two_that_run_the_same_source_do_no_harm(kit: Kit) -> None:
    topic = await kit.topic("orders", Order, key="customer")
    supervisor = Supervisor(kit.clock)
    for per_chunk in (10, 7):
        supervisor.add(await run_of(kit, topic, Lines(500, per_chunk=per_chunk)), writes=frozenset(("orders",)))
    await supervisor.run()
    assert sorted(order.id for order in await kit.events(topic)) == good(500)


async def test_a_passing_failure_is_tried_again_from_the_recorded_position(kit: Kit) -> None:
    topic = await kit.topic("orders", Order, key="customer")
    source = Lines(100)
    source.fail_at = 55
    run = await run_of(kit, topic, source)
    await run.run()
    assert sorted(order.id for order in await kit.events(topic)) == good(100)
    assert run.state.state == "done"


async def test_the_failure_of_one_part_drains_the_others_and_is_told(kit: Kit) -> None:
    topic = await kit.topic("orders", Order, key="customer")

    class Broken(Lines):
        def read(self, *, events_max: int, bytes_max: int) -> Chunk | None:
            msg = "other data"
            raise ConflictError(msg)

    seen: list[int] = []

    def see(order: Order) -> None:
        seen.append(order.id)

    await kit.publish(topic, [Order(1, "c", 1)])
    supervisor = Supervisor(kit.clock)
    reading = await run_of(kit, topic, Broken(10))
    handling = await kit.handler(see, topic, ended=None)
    supervisor.add(handling, writes=frozenset())
    supervisor.add(reading, writes=frozenset(("orders",)))
    with pytest.raises(ConflictError, match="other data"):
        await supervisor.run()
    assert (reading.state.state, handling.state.state) == ("failed", "done")
