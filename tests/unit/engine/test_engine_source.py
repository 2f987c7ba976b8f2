"""Sources on the memory channel: positions, repetitions, two at once, and what could not be read."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from penstock.channel.api import NOTE_BYTES_MAX
from penstock.channel.bounds import Horizon
from penstock.channel.drivers.embedded import EmbeddedChannel
from penstock.channel.drivers.memory.config import MemoryConfig
from penstock.channel.typed import TypedTopic
from penstock.delivery.deadletter import dead_letter_topic
from penstock.engine.sourcing import SourceRun
from penstock.engine.supervisor import Supervisor
from penstock.errors import ConfigError, ConflictError, CorruptionError, Rejected, TransientError
from penstock.event.batch import Columns, Rows
from penstock.event.partition import KEY_BYTES_MAX
from penstock.source.api import Bad, Chunk, Source
from penstock.source.files import files
from penstock.system.pipe import Signal
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
        self.amount = 1

    def open(self, schema: Any, position: bytes) -> None:
        self.next = int(position or b"0")

    def read(self, *, events_max: int, bytes_max: int, until: bytes | None = None) -> Chunk | None:
        numbers = range(self.next, int(until or min(self.next + self.per_chunk, self.count)))
        if self.fail_at in numbers:
            self.fail_at = None
            raise TransientError("the disk is elsewhere")
        if not numbers:
            return None
        self.next = numbers.stop
        bodies = [b'{"id":%d,"customer":"c%d","amount":%d}' % (n, n % 5, self.amount) for n in numbers if n % 25 != 24]
        bad = [Bad(f"f:{n}", b"{broken", "not JSON") for n in numbers if n % 25 == 24]
        return Chunk(Rows.of(bodies), b"%d" % self.next, bad)

    def close(self) -> None:
        self.closed += 1


async def run_of(kit: Kit, topic: TypedTopic[Any], source: Source, *, republish: bool = False) -> SourceRun:
    spec = dead_letter_topic(f"source.{source.name}", partitions=1)
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


async def test_published_again_chunks_end_where_they_ended_and_what_is_new_follows(kit: Kit) -> None:
    topic = await kit.topic("orders", Order, key="customer")
    for count, per_chunk in ((35, 10), (62, 9), (62, 7)):
        await (await run_of(kit, topic, Lines(count, per_chunk=per_chunk))).run()
    offsets = [order.id for order in await kit.events(topic)]
    for _ in range(2):
        again = await run_of(kit, topic, Lines(101, per_chunk=8), republish=True)
        await again.run()
        assert again.state.events == len(good(101))
        assert again.state.state == "done"
    assert again.state.repeated == len(good(101))
    assert sorted(order.id for order in await kit.events(topic)) == good(101)
    assert [order.id for order in await kit.events(topic) if order.id in set(offsets)] == offsets


@pytest.mark.parametrize("driver", ["memory", "embedded"])
async def test_files_are_published_again_after_they_grew_and_others_came(kit: Kit, tmp_path: Path, driver: str) -> None:
    """Bad lines and their reasons are content too; what was added since is published behind it."""
    if driver == "embedded":
        kit.channel = EmbeddedChannel(tmp_path / "log", system=kit.system)  # type: ignore[assignment]
    topic = await kit.topic("orders", Order, key="customer")
    for number in (1, 2):
        (tmp_path / f"b{number}.ndjson").write_bytes(LINE % number + b"bad\n" + LINE % (number + 10))
    spec = files("*.ndjson")

    async def published(*, republish: bool = False) -> SourceRun:
        run = await run_of(kit, topic, spec.open_source(tmp_path, "lines", event_bytes_max=1000), republish=republish)
        await run.run()
        return run

    await published()
    grow(tmp_path / "b1.ndjson", LINE % 21 + b"bad too\n")
    await published()
    before = [order.id for order in await kit.events(topic)]
    (tmp_path / "a.ndjson").write_bytes(LINE % 30)
    grow(tmp_path / "b2.ndjson", LINE % 31)
    run = await published(republish=True)
    assert (run.state.events, run.state.repeated, run.state.dead) == (7, 5, 3)
    run = await published(republish=True)
    assert (run.state.events, run.state.repeated, run.state.dead) == (7, 7, 3)
    after = [order.id for order in await kit.events(topic)]
    assert sorted(after) == [1, 2, 11, 12, 21, 30, 31]
    assert [order for order in after if order in before] == before
    assert len(await kit.letters("source.lines")) == 3
    (tmp_path / "b2.ndjson").write_bytes((tmp_path / "b2.ndjson").read_bytes().replace(b'"amount":1', b'"amount":2'))
    with pytest.raises(CorruptionError, match=r"b2\.ndjson.*another content now"):
        await published(republish=True)
    await kit.channel.close()


def grow(path: Path, more: bytes) -> None:
    path.write_bytes(path.read_bytes() + more)


LINE = b'{"id":%d,"customer":"c","amount":1}\n'


async def test_published_again_other_content_stops(kit: Kit) -> None:
    topic = await kit.topic("orders", Order, key="customer")
    await (await run_of(kit, topic, Lines(100))).run()
    source = Lines(200)
    source.amount = 2
    other = await run_of(kit, topic, source, republish=True)
    with pytest.raises(ConflictError, match=r"source lines.*not what was published then.*without publishing again"):
        await other.run()
    assert sorted(order.id for order in await kit.events(topic)) == good(100)
    with pytest.raises(ConflictError, match="nothing is there any more"):
        await (await run_of(kit, topic, Emptied(100), republish=True)).run()


class Emptied(Lines):
    """Its content is gone."""

    def read(self, *, events_max: int, bytes_max: int, until: bytes | None = None) -> Chunk | None:
        return None


async def test_published_again_as_far_as_is_remembered(kit: Kit, caplog: pytest.LogCaptureFixture) -> None:
    topic = await kit.topic("orders", Order, key="customer")
    kit.channel.memory.config = MemoryConfig(answers_max=4)
    await (await run_of(kit, topic, Lines(100))).run()
    again = await run_of(kit, topic, Lines(110), republish=True)
    with caplog.at_level(logging.WARNING):
        await again.run()
    assert (again.state.repeated, again.state.events) == (28, 38)
    assert "the first 7 chunks were published longer ago than answers are remembered" in caplog.text
    assert sorted(order.id for order in await kit.events(topic)) == good(110)


async def test_published_again_goes_on_after_a_passing_failure(kit: Kit) -> None:
    topic = await kit.topic("orders", Order, key="customer")
    await (await run_of(kit, topic, Lines(100))).run()
    source = Lines(100)
    source.fail_at = 55
    again = await run_of(kit, topic, source, republish=True)
    await again.run()
    assert (again.state.events, again.state.repeated) == (96, 96)


async def test_a_source_is_not_closed_while_it_is_read(kit: Kit) -> None:
    """However often the run is cancelled meanwhile."""
    topic = await kit.topic("orders", Order, key="customer")
    reading, go_on = Signal(), Signal()

    class Slow(Lines):
        def read(self, *, events_max: int, bytes_max: int, until: bytes | None = None) -> Chunk | None:
            before = self.closed
            reading.set()
            go_on.wait(20)
            assert self.closed == before, "closed under the reading thread"
            seen.append(self.closed)
            return super().read(events_max=events_max, bytes_max=bytes_max)

    seen: list[int] = []
    source = Slow(100)
    task = asyncio.ensure_future((await run_of(kit, topic, source)).run())
    while not reading.is_set():
        await asyncio.sleep(0)
    for _ in range(3):
        task.cancel()
        for _ in range(20):
            await asyncio.sleep(0)
    assert (source.closed, task.done()) == (0, False)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (source.closed, seen) == (1, [0])


async def test_what_is_longer_than_a_dead_letter_may_be_says_that_it_is_cut(kit: Kit) -> None:
    topic = await kit.topic("orders", Order, key="customer", event_bytes_max=1000)
    letters = msgspec.structs.replace(dead_letter_topic("source.lines", partitions=1), event_bytes_max=1000)
    dead = await kit.declare(letters, None)

    class Long(Lines):
        def read(self, *, events_max: int, bytes_max: int, until: bytes | None = None) -> Chunk | None:
            chunk = super().read(events_max=events_max, bytes_max=bytes_max)
            return None if chunk is None else Chunk(Rows.of([b"{" * 1500]), chunk.position)

    await SourceRun(kit.channel, Long(10), topic, dead=dead, system=kit.system).run()
    (letter,) = await kit.letters("source.lines")
    assert letter.body == b"{" * 1000
    assert letter.reason.startswith("event 0 (of its 1500 bytes the first 1000 are kept): ")


# -- columns -----------------------------------------------------------------------------------------------------------


class Visit(msgspec.Struct):
    who: str
    at: datetime
    pages: int | None = None


class Tables(Lines):
    """One chunk, which is this table."""

    def __init__(self, table: pa.RecordBatch, attributes: dict[str, list[Any]] | None = None) -> None:
        super().__init__(1)
        self.columns = Columns(table, attributes or {})

    def read(self, *, events_max: int, bytes_max: int, until: bytes | None = None) -> Chunk | None:
        at, self.next = self.next, 1
        return Chunk(self.columns, b"1") if at == 0 else None


MOMENT = datetime(2026, 1, 2, tzinfo=UTC)
VISITS = pa.schema([("who", pa.string()), ("at", pa.timestamp("us", "UTC")), ("pages", pa.int64())])


def visits(who: list[str | None], at: list[datetime | None] | None = None) -> pa.RecordBatch:
    times = [MOMENT] * len(who) if at is None else at
    return pa.RecordBatch.from_arrays(
        [pa.array(values, field.type) for values, field in zip((who, times, range(len(who))), VISITS, strict=True)],
        schema=VISITS,
    )


async def test_rows_that_cannot_be_events_are_dead_letters_and_the_others_are_events(kit: Kit) -> None:
    """Keys that are too long, and nulls where the type has none: none of them stops the source."""
    topic = await kit.topic("visits", Visit, key="who", time="at")
    long = "k" * (KEY_BYTES_MAX + 1)
    who: list[str | None] = [f"w{n % 7}" for n in range(1000)]
    who[3], who[500], who[999] = long, None, long
    at: list[datetime | None] = [MOMENT] * 1000
    at[501] = None
    table = visits(who, at)
    source = Tables(table, {"headers": [{"n": str(n)} for n in range(1000)]})
    run = await run_of(kit, topic, source)
    await run.run()
    assert sorted(visit.pages for visit in await kit.events(topic)) == [
        n for n in range(1000) if n not in {3, 500, 501, 999}
    ]
    assert (run.state.events, run.state.dead) == (996, 4)
    letters = await kit.letters("source.lines")
    assert [letter.reason.split(":")[0] for letter in letters] == ["row 3", "row 500", "row 501", "row 999"]
    assert "a key of 65537 bytes" in letters[0].reason
    assert "null" in letters[1].reason
    assert json.loads(letters[1].body) == {"who": None, "at": "2026-01-02T00:00:00Z", "pages": 500}
    for partition in range(4):
        for batch in await kit.channel.read("visits", partition, 0, events_max=1000):
            assert isinstance(batch.payload, Columns)
            assert [h["n"] for h in batch.payload.attributes["headers"]] == [
                str(n) for n in batch.payload.table.column("pages").to_pylist()
            ]


async def test_columns_that_are_not_the_topics_stop_the_source_and_say_so(kit: Kit) -> None:
    topic = await kit.topic("visits", Visit, key="who", time="at")
    naive = visits(["a"]).set_column(1, "at", pa.array([datetime(2026, 1, 2)], pa.timestamp("us")))  # noqa: DTZ001
    for wrong in (naive, visits(["a"]).select(["who", "at"])):
        with pytest.raises(ConfigError, match=r"sources\.lines: its columns are .*; topic visits takes .*at timestamp"):
            await (await run_of(kit, topic, Tables(wrong))).run()
    raw = await kit.topic("raw")
    with pytest.raises(ConfigError, match="topic raw has no type"):
        await (await run_of(kit, raw, Tables(visits(["a"])))).run()


async def test_two_that_run_the_same_source_do_no_harm(kit: Kit) -> None:
    topic = await kit.topic("orders", Order, key="customer")
    supervisor = Supervisor(kit.clock)
    for per_chunk in (10, 7):
        supervisor.add(await run_of(kit, topic, Lines(500, per_chunk=per_chunk)), writes=frozenset(("orders",)))
    await supervisor.run()
    assert sorted(order.id for order in await kit.events(topic)) == good(500)


async def test_a_chunk_that_nobody_could_store_stops_with_the_reason(kit: Kit) -> None:
    topic = await kit.topic("orders", Order, key="customer")

    class Wordy(Lines):
        def read(self, *, events_max: int, bytes_max: int, until: bytes | None = None) -> Chunk | None:
            chunk = super().read(events_max=events_max, bytes_max=bytes_max)
            return None if chunk is None else Chunk(chunk.events, b"n" * (NOTE_BYTES_MAX + 1), chunk.bad)

    run = await run_of(kit, topic, Wordy(20))
    with pytest.raises(Rejected, match=f"lines.*note of {NOTE_BYTES_MAX + 1} bytes"):
        async with asyncio.timeout(20):
            await run.run()
    assert run.state.state == "failed"
    assert kit.clock.slept_s == []


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
        def read(self, *, events_max: int, bytes_max: int, until: bytes | None = None) -> Chunk | None:
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


class WithIds(Lines):
    """The same lines, each event with its id."""

    def read(self, *, events_max: int, bytes_max: int, until: bytes | None = None) -> Chunk | None:
        chunk = super().read(events_max=events_max, bytes_max=bytes_max, until=until)
        if chunk is None or not isinstance(chunk.events, Rows):
            return chunk
        bodies = chunk.events.bodies()
        ids = [f"order-{msgspec.json.decode(body)['id']}" for body in bodies]
        return msgspec.structs.replace(chunk, events=Rows.of(bodies, {"id": ids}))


async def test_events_that_came_another_way_are_not_recorded_again(kit: Kit) -> None:
    """Of a topic that records each id once: a second source that brings some of the same, and some others."""
    topic = await kit.topic("orders", Order, key="customer", dedupe=Horizon())
    await (await run_of(kit, topic, WithIds(35))).run()
    second = WithIds(101, name="second")
    run = await run_of(kit, topic, second)
    await run.run()
    assert [order.id for order in sorted(await kit.events(topic), key=lambda order: order.id)] == good(101)
    assert run.state.repeated == len(good(35))
    again = await run_of(kit, topic, WithIds(101, name="second"))
    await again.run()
    assert len(await kit.events(topic)) == len(good(101))


async def test_another_event_under_a_known_id_stops_the_source(kit: Kit) -> None:
    topic = await kit.topic("orders", Order, key="customer", dedupe=Horizon())
    await (await run_of(kit, topic, WithIds(35))).run()
    other = WithIds(35, name="other")
    other.amount = 2
    with pytest.raises(Rejected, match="source other"):
        await (await run_of(kit, topic, other)).run()
    assert len(await kit.events(topic)) == len(good(35))


@pytest.mark.parametrize("partitions", [1, 4])
async def test_a_chunk_of_nothing_but_bad_lines_is_laid_aside_and_reading_goes_on(kit: Kit, partitions: int) -> None:
    """Whether or not the topic has a key: a batch of no events is none, and no channel takes it."""
    keyed = await kit.topic("keyed", Order, key="customer", partitions=partitions)
    plain = await kit.topic("plain", Order, partitions=partitions)
    for topic in (keyed, plain):
        source = Lines(26, per_chunk=1, name=topic.name)
        await (await run_of(kit, topic, source)).run()
        assert sorted(order.id for order in await kit.events(topic)) == good(26)
        assert [letter.reason for letter in await kit.letters(f"source.{topic.name}")] == ["f:24: not JSON"]
