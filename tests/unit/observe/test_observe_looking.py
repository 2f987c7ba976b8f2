"""Looking at a log: its topics, groups, events and dead letters, and whether it is sound."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from penstock.channel.api import TopicSpec
from penstock.channel.drivers.embedded import EmbeddedChannel
from penstock.delivery.redrive import Command, encode, redrive_topic
from penstock.errors import ConfigError
from penstock.event.batch import NewBatch, Rows
from penstock.event.envelope import RecordedEvent
from penstock.log import retention
from penstock.log.ages import Ages, Period
from penstock.log.living import Expiry
from penstock.log.verify import verify
from penstock.observe import health, inventory, letters, redriving
from penstock.observe.events import TopicEvents
from penstock.observe.reading import typed
from penstock.schema import schema_of
from penstock.system import real_system
from penstock.system.ports import RealClock
from tests.unit.observe.observe_kit import DAY, Flight, Kit, flights, letter

HOUR_US = 3_600_000_000


class Moved(RealClock):
    """The real one, ahead by what a test says."""

    ahead_us = 0

    def now_us(self) -> int:
        """See `Clock`."""
        return super().now_us() + self.ahead_us


# -- topics and groups -----------------------------------------------------------------------------------------------


async def test_topics_and_what_they_hold(filled: Kit) -> None:
    """Counts, sizes, and the bounds of event times."""
    facts = {fact.name: fact for fact in inventory.topic_facts(filled.channel)}
    assert list(facts) == ["check.dead", "delays", "flights", "raw"]
    found = facts["flights"]
    assert (found.type, found.events, found.partitions, found.key, found.time) == ("Flight", 100, 2, "carrier", "due")
    first_us = round(DAY.timestamp() * 1e6)
    assert (found.time_min_us, found.time_max_us) == (first_us, first_us + 99 * 60_000_000)
    assert found.bytes > 500
    assert found.blocks == 4
    assert facts["raw"].time_min_us is None
    assert facts["raw"].recorded_min_us == facts["raw"].recorded_max_us
    assert facts["check.dead"].internal
    parts = inventory.partition_facts(filled.channel, "flights")
    assert [part.next for part in parts] == [found.events - parts[1].next, parts[1].next]


async def test_an_empty_topic(kit: Kit) -> None:
    await kit.open(TopicSpec("raw", partitions=1))
    [fact] = inventory.topic_facts(kit.channel)
    assert (fact.events, fact.bytes, fact.recorded_max_us) == (0, 0, None)


def test_fields_in_words() -> None:
    """Types as people write them."""
    fields = {f.name: f for f in inventory.field_facts(schema_of(Flight).describe())}
    assert {name: f.type for name, f in fields.items()} == {
        "id": "int", "carrier": "str", "due": "datetime", "delay_min": "float | None"
    }  # fmt: skip
    assert [f.required for f in fields.values()] == [True, True, True, False]
    assert inventory.type_words({"kind": "list", "item": {"kind": "struct", "name": "Leg"}, "optional": True}) == (
        "list[Leg] | None"
    )
    assert inventory.type_words({"kind": "dict", "item": {"kind": "decimal", "scale": 2, "digits": 9}}) == (
        "dict[str, decimal(9, 2)]"
    )
    assert inventory.type_words({"kind": "enum", "values": ["a", "b"]}) == "'a' | 'b'"


async def test_groups_and_their_lag(filled: Kit) -> None:
    """Recorded and not settled; who owns a group is said while it runs."""
    await filled.settle("check", "flights", partition=1, floor=5)
    [group] = inventory.group_facts(filled.channel, now_us=filled.system.clock.now_us())
    assert (group.name, group.topic, group.state, group.owner) == ("check", "flights", "stopped", "")
    ends = [part.end for part in group.partitions]
    assert [part.lag for part in group.partitions] == [ends[0], ends[1] - 5]
    assert group.lag == 95
    group_id = filled.channel.port.look(lambda db: db.execute("SELECT id FROM grp").get)
    with closing(filled.channel.port.company(str(group_id), "process 7", partitions=2, changed=lambda: None)):
        [group] = inventory.group_facts(filled.channel, now_us=filled.system.clock.now_us())
    assert (group.state, group.owner) == ("running", "process 7")


async def test_a_clock_that_was_ahead_for_a_while_is_no_trend(tmp_path: Path) -> None:
    """A group that has settled everything grows by nothing, in however few steps it took what came meanwhile."""
    clock = Moved()
    kit = Kit(tmp_path / "log", replace(real_system(), clock=clock))
    await kit.open(TopicSpec("raw", partitions=1))
    now_us = clock.now_us()
    for ahead_us, counts in ((-HOUR_US, [1] * 10), (24 * HOUR_US, [30]), (-HOUR_US // 2, [1] * 14)):
        clock.ahead_us = ahead_us
        for count in counts:
            for _ in range(count):
                await kit.raw([b"x"])
            [tip] = await kit.channel.tips("raw")
            await kit.settle("work", "raw", partition=0, floor=tip)
    [fact] = inventory.group_facts(kit.channel, now_us=now_us)
    assert (fact.lag, fact.trend) == (0, 0)
    await kit.close()


# -- events ----------------------------------------------------------------------------------------------------------


def reading(kit: Kit, topic: str = "flights", partitions: list[int] | None = None) -> TopicEvents:
    found = kit.channel.topic(topic)
    every = list(range(found.spec.partitions))
    return TopicEvents(kit.channel, typed(found), partitions=every if partitions is None else partitions)


async def ids(stream: AsyncIterator[RecordedEvent]) -> list[int]:
    return [event.data.id async for event in stream]


async def test_the_last_events_of_all_partitions(filled: Kit) -> None:
    """The newest recorded, in the order they were recorded; of columns as of rows."""
    last = await reading(filled).last(7)
    assert len(last) == 7
    assert {event.data.id for event in last} <= set(range(40, 100))
    assert [event.recorded_time for event in last] == sorted(event.recorded_time for event in last)
    [event] = await reading(filled, "delays").last(1)
    assert event.data == {"carrier": "UA", "flights": 4, "hour": None, "mean_min": None}
    [first, _] = await reading(filled, "delays").last(2)
    assert first.time == DAY


async def test_events_between_offsets_are_merged(filled: Kit) -> None:
    """Each once, the rows that were recorded first before the columns."""
    events = reading(filled)
    tips = await events.tips()
    found = await ids(events.between({0: 0, 1: 0}, tips))
    assert sorted(found) == list(range(100))
    assert max(found[:40]) < 40
    one = reading(filled, partitions=[1])
    assert await ids(one.between({1: tips[1] - 2}, await one.tips())) == [event.data.id for event in await one.last(2)]


async def test_events_from_a_moment_on(filled: Kit) -> None:
    """The moment is that of recording."""
    events = reading(filled)
    [newest] = await events.last(1)
    starts = await events.recorded_from(round(newest.recorded_time.timestamp() * 1e6))
    found = await ids(events.between(starts, await events.tips()))
    assert sorted(found) == list(range(40, 100))
    assert await events.recorded_from(0) == {0: 0, 1: 0}


async def test_following_brings_new_events(filled: Kit) -> None:
    """Those recorded after it began, in the order of recording."""
    events = reading(filled)
    with closing(filled.channel.port.tidings(filled.channel.row("flights").pids)) as tidings:
        stream = events.follow(await events.tips(), tidings)
        await filled.rows([Flight(500, "C1", DAY)])
        assert (await anext(stream)).data.id == 500
        await filled.columns([Flight(501, "C2", DAY)])
        assert (await anext(stream)).data.id == 501
        await stream.aclose()  # type: ignore[attr-defined]


# -- dead letters ----------------------------------------------------------------------------------------------------


async def test_dead_letters_by_cause(filled: Kit) -> None:
    """What differs from event to event (numbers, quoted text) does not make another cause."""
    topics = filled.channel.topics()
    assert letters.dead_letter_groups(topics) == ["check"]
    found = await letters.causes(filled.channel, topics, ["check"])
    assert [(c.error, c.cause, c.count, c.reason) for c in found] == [
        ("ValueError", "bad value …", 2, "bad value 18"),
        ("Reject", "never departed", 2, "never departed"),
    ]
    assert found[0].example == "check/0/2"


IDS = (
    ("order 3f2504e0-4f89-41d3-9a0c-0305e82c3301 is unknown", "order b9d1f0aa-cdef-4b21-8c4e-d0c1a2b3c4d5 is unknown"),
    ("order 12345678-1234-4234-8234-123456789012 is late", "order deadbeef-feed-4bad-8dad-facefacefacf is late"),
    ("no <Row at 0x7f3a2b10>", "no <Row at 0x7fe9d0c0>"),
    ("pi_3MtwBwLkdIwHu7ix28a3tqPd was refused", "pi_3KtzQ0LkdIwHu7ix1jB2f0Xa was refused"),
    ("digest da39a3ee5e6b4b0d differs", "digest 9e107d9d372bb682 differs"),
    ("costs 12345678.5", "costs 1.5"),
)


@pytest.mark.parametrize(("one", "other"), IDS)
async def test_ids_do_not_make_another_cause(filled: Kit, one: str, other: str) -> None:
    """As UUIDs, digests and keys of other systems are written: with letters among their digits."""
    await filled.letters([letter(100, one), letter(101, other)])
    found = await letters.causes(filled.channel, filled.channel.topics(), ["check"])
    assert [cause.count for cause in found] == [2, 2, 2]


@pytest.mark.parametrize("text", ["a-", "ab ", "0x", "abcdef-", "a1", "-", "1"])
async def test_long_reasons_are_counted_at_once(filled: Kit, text: str) -> None:
    """In a time that grows as their length does: a quadratic one would be a minute here."""
    await filled.letters([letter(100, text * 50_000)])
    async with asyncio.timeout(5):
        assert len(await letters.causes(filled.channel, filled.channel.topics(), ["check"])) == 3


async def test_rare_causes_are_bounded(filled: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many texts there are, the list stays short and the counts right."""
    monkeypatch.setattr(letters, "CAUSES_MAX", 3)
    await filled.letters([letter(100 + n, f"cause {'x' * n}") for n in range(10)])
    found = await letters.causes(filled.channel, filled.channel.topics(), ["check"])
    assert len(found) == 4
    assert sum(cause.count for cause in found) == 14
    assert found[0].cause == "other causes"


@pytest.mark.parametrize(("wanted", "offset"), [("check/1/0", 9), ("event-1", 1), ("check/0/2", 2)])
async def test_a_dead_letter_is_found(filled: Kit, wanted: str, offset: int) -> None:
    found = await letters.find(filled.channel, filled.channel.topics(), wanted)
    assert found.letter.offset == offset


@pytest.mark.parametrize("wanted", ["check/0/9", "check/5/0", "nobody", "nobody/0/0"])
async def test_a_dead_letter_that_is_not_there(filled: Kit, wanted: str) -> None:
    with pytest.raises(ConfigError, match="no dead letter") as caught:
        await letters.find(filled.channel, filled.channel.topics(), wanted)
    assert "check" in str(caught.value)


async def test_a_dead_letter_that_retention_has_removed(filled: Kit) -> None:
    """Those behind it are still there, and it is not taken for one of them."""
    await filled.letters([letter(100, "later")])
    topics, port = filled.channel.topics(), filled.channel.port
    before = [found.position async for found in letters.letters(filled.channel, topics, "check")]
    [pid, _] = filled.channel.row("check.dead").pids
    task = retention.Task([pid], retention.Limits(bytes_max=0), force=True)
    now = Ages(0, 0, [Period(0, 0)])
    await port.write(lambda db: retention.trim(db, task, ages=now, expiry=Expiry(), bytes_now=1))
    kept = [found.position async for found in letters.letters(filled.channel, topics, "check")]
    [gone, *_] = [position for position in before if position not in kept]
    with pytest.raises(ConfigError, match=rf"no dead letter {gone} any more: retention"):
        await letters.find(filled.channel, topics, gone)
    assert (await letters.find(filled.channel, topics, kept[0])).position == kept[0]


# -- health ----------------------------------------------------------------------------------------------------------


async def test_a_sound_log(filled: Kit) -> None:
    """Every finding is there, none is bad; reading everything finds every event."""
    disk = list(health.look_at_disk(filled.directory, filled.system))
    log = list(health.look_at_log(filled.channel, filled.directory, filled.system))
    assert [f.check for f in disk] == ["file system", "free room", "sync", "writers' lock", "upkeep"]
    assert [f.check for f in log] == [
        "identity", "witness", "SQLite", "pragmas", "durability", "ballast", "write-ahead log", "files",
    ]  # fmt: skip
    assert not [f for f in disk + log if f.state == "bad"]
    assert "doctor.tmp" not in os.listdir(filled.directory)
    shown: list[tuple[int, int]] = []
    deep = verify(filled.channel.port.look, lambda blocks, events: shown.append((blocks, events)))
    assert deep.damages == []
    assert deep.events == 108
    assert shown[-1] == (deep.blocks, deep.events)


def _spoil(kit: Kit, sql: str) -> None:
    """Change the database behind the log's back, through its own connection."""
    kit.channel.port.look(lambda db: db.execute("PRAGMA query_only = 0"))
    kit.channel.port.look(lambda db: db.execute(sql))


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("UPDATE block SET data = zeroblob(length(data)) WHERE rowid = (SELECT min(at) FROM block)", "checksum"),
        ("UPDATE block SET count = count + 1 WHERE rowid = (SELECT min(at) FROM block)", "checksum"),
        ("DELETE FROM block WHERE rowid = (SELECT max(at) FROM block)", "no block holds offsets 0 to 0"),
        ("UPDATE progress SET floor = floor + 1", "progress of group"),
        ("UPDATE step SET after = after + 1", "step 0 of group"),
    ],
)
async def test_damage_is_found_and_the_rest_is_read(filled: Kit, sql: str, said: str) -> None:
    """Every checksum is looked at, and reading goes on behind what is damaged."""
    await filled.settle("check", "flights", partition=1, floor=5)
    _spoil(filled, sql)
    deep = verify(filled.channel.port.look)
    assert any(said in damage.what for damage in deep.damages), deep.damages
    assert deep.events >= 80


async def test_what_the_probes_leave_of_the_durability(filled: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """D2 with every reason; a disk that lies, or a commit that is not synced, leaves D1."""

    def probed() -> tuple[str, str]:
        disk = list(health.look_at_disk(filled.directory, filled.system))
        return health.durability_of([*disk, *health.look_at_log(filled.channel, filled.directory, filled.system)])

    level, why = probed()
    assert level == "D2"
    assert "journal_mode wal, synchronous 2" in why
    filled.channel.port.look(lambda db: db.execute("COMMIT; PRAGMA synchronous = 1"))
    assert probed()[0] == "D1"
    filled.channel.port.look(lambda db: db.execute("COMMIT; PRAGMA synchronous = 2"))
    monkeypatch.setattr(health, "SYNC_S_HONEST", 10.0)
    level, why = probed()
    assert (level, "lie about power losses" in why) == ("D1", True)


async def test_a_lying_disk_is_suspected(filled: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync that takes no time did not reach a disk; a full disk is bad."""
    monkeypatch.setattr(health, "SYNC_S_HONEST", 10.0)
    monkeypatch.setattr(health, "FREE_BYTES_BAD", 1 << 60)
    monkeypatch.setattr(health, "FREE_BYTES_WARN", 1 << 61)
    found: dict[str, Any] = {f.check: f for f in health.look_at_disk(filled.directory, filled.system)}
    assert found["sync"].state == "warning"
    assert found["free room"].state == "bad"
    assert "free some" in found["free room"].detail


def test_kit_events_are_in_the_order_of_time() -> None:
    times: list[datetime] = [flight.due for flight in flights(3)]
    assert times == sorted(times)


async def test_what_became_of_letters_is_asked_for_all_groups_at_once(
    filled: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The topics of a log are learnt once, not once for each of its groups."""
    learnt = 0
    refresh = type(filled.channel).refresh

    def learning(channel: EmbeddedChannel) -> None:
        nonlocal learnt
        learnt += 1
        refresh(channel)

    monkeypatch.setattr(type(filled.channel), "refresh", learning)
    groups = ["check", *(f"group-{number}" for number in range(20))]
    assert await redriving.dealt_with(filled.channel, groups) == {group: {} for group in groups}
    assert learnt == 1


async def test_commands_that_cannot_be_read_hide_none_of_those_that_can(filled: Kit) -> None:
    await filled.settle("check", "flights", partition=1, floor=5)
    said = [b"{", b'{"action":"skip","letter":-1,"offset":0}', encode(Command("skip", 1, 0))]
    await filled.channel.open([redrive_topic("check", partitions=2)])
    await filled.publish([NewBatch("check.redrive", 1, len(said), Rows.of(said))])
    queued = {redriving.Place(1, 1): "queued"}
    assert await redriving.dealt_with(filled.channel, ["check"]) == {"check": queued}


@pytest.mark.parametrize("name", ["turn", "upkeep"])
async def test_a_place_that_cannot_be_written_is_a_finding(
    filled: Kit, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A read-only file system refuses every open for writing, and every removal, also of what is not there."""
    (filled.directory / "upkeep").touch()
    opens, unlinks = os.open, Path.unlink

    def refuse(path: object) -> None:
        if str(path).endswith((name, "doctor.tmp")):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    def opening(path: str | Path, flags: int, mode: int = 0o777) -> int:
        refuse(path)
        return opens(path, flags, mode)

    def unlinking(path: Path, missing_ok: bool = False) -> None:
        refuse(path)
        unlinks(path, missing_ok=missing_ok)

    monkeypatch.setattr(os, "open", opening)
    monkeypatch.setattr(Path, "unlink", unlinking)
    found = {finding.check: finding for finding in health.look_at_disk(filled.directory, filled.system)}
    check = {"turn": "writers' lock", "upkeep": "upkeep"}[name]
    for one in ("sync", check):
        assert found[one].state == "bad"
        assert "Read-only" in found[one].detail
