"""Retention on the tables: what goes, what stays and why, and that the rest is still whole."""

from __future__ import annotations

import random
from typing import Any

import apsw
import pytest

from penstock.errors import BlockDamaged, OffsetOutOfRange
from penstock.log import ages, catalogue, compaction, living, placed, progress, quarantine, retention
from penstock.log.api import Advance, Claim, Claimed, Span
from penstock.log.checks import verify_row
from penstock.log.ddl import OFFSET_MAX
from penstock.log.living import Expiry
from penstock.log.retention import Apart, Limits, Task
from penstock.log.store import Store
from tests.unit.log.logs import append, block, bodies, in_memory

S = 1_000_000
HOUR, DAY = 3600 * S, 86_400 * S


def filled(store: Store, pid: int, blocks: int = 10, *, every_us: int = HOUR) -> None:
    """Blocks of two events, one each `every_us`, from time 0 on."""
    for number in range(blocks):
        store.apply([append(number, block(pid, b"a%d" % number, b"b%d" % number))], now_us=number * every_us)


def trimmed(
    store: Store,
    *pids: int,
    limits: Limits,
    now_us: int,
    force: bool = False,
    expiry: Expiry | None = None,
    apart: Apart | None = None,
) -> retention.Trimmed:
    def work(db: apsw.Connection) -> retention.Trimmed:
        size = sum(retention.bytes_of(db, pid) for pid in pids)
        known = ages.look(db, now_us=now_us, monotonic_us=None)
        task = Task(pids, limits, force=force, apart=apart)
        return retention.trim(db, task, ages=known, expiry=expiry or Expiry(), bytes_now=size)

    return store.write(work)[0]


def group(store: Store, name: str, pid: int) -> int:
    """A group that has claimed the partition."""
    row = store.write(lambda db: catalogue.declare_group(db, name, b"{}", partitions=1))[0]
    store.write(lambda db: progress.begin(db, row.id, pid, floor=placed.known(db, pid).begin))
    (claimed,), _ = store.apply([Claim(row.id, [pid])], now_us=0)
    assert isinstance(claimed, Claimed)
    return row.id


def settle(store: Store, group_id: int, pid: int, before: int, after: int, *, oldest: int | None = None) -> None:
    at = store.db.execute("SELECT epoch FROM progress WHERE group_id = ?", (group_id,)).fetchone()
    assert at is not None
    store.apply([Advance(group_id, pid, at[0], before, after, oldest=oldest)], now_us=0)


def kept(store: Store, pid: int) -> list[bytes]:
    begin = placed.known(store.db, pid).begin
    return bodies(placed.read(store.db, Span(pid, begin, OFFSET_MAX), events_max=1000, bytes_max=1 << 20))


def test_by_age_only_what_is_older_goes_and_offsets_stay() -> None:
    store, (pid,) = in_memory()
    filled(store, pid)
    done = trimmed(store, pid, limits=Limits(age_us=5 * HOUR), now_us=9 * HOUR)
    assert (done.events, done.held) == (8, [])  # hours 0 to 3: hour 4 is not older, for a clock may be a minute off
    assert placed.known(store.db, pid).begin == 8
    assert kept(store, pid)[0] == b"a4"
    store.apply([append(10, block(pid, b"new"))], now_us=9 * HOUR)
    assert placed.known(store.db, pid).offset == 21
    with pytest.raises(OffsetOutOfRange, match=r"offset 3 .* first one that is kept is 8"):
        placed.read(store.db, Span(pid, 3, OFFSET_MAX), events_max=10, bytes_max=1 << 20)


def test_by_size_the_oldest_of_all_partitions_go() -> None:
    store, (one, two) = in_memory(2)
    for number in range(6):
        store.apply([append(number, block((one, two)[number % 2], b"x" * 100))], now_us=number * HOUR)
    size = retention.bytes_of(store.db, one)
    trimmed(store, one, two, limits=Limits(bytes_max=size), now_us=DAY)
    assert [placed.known(store.db, pid).begin for pid in (one, two)] == [2, 1]


def test_nothing_a_group_has_not_settled_goes_unless_it_is_forced() -> None:
    store, (pid,) = in_memory()
    filled(store, pid)
    slow = group(store, "slow", pid)
    settle(store, slow, pid, 0, 7)
    limits = Limits(age_us=HOUR)
    done = trimmed(store, pid, limits=limits, now_us=DAY)
    assert (done.events, done.held[0].group, done.held[0].offset) == (6, "slow", 7)  # whole blocks only
    settle(store, slow, pid, 7, 20, oldest=9)
    assert trimmed(store, pid, limits=limits, now_us=DAY).events == 2  # up to the block of the parked one
    assert kept(store, pid)[0] == b"a4"
    assert trimmed(store, pid, limits=limits, now_us=DAY, force=True).events == 12
    assert kept(store, pid) == []


def test_what_a_group_keeps_apart_stays_also_when_another_group_has_read_it() -> None:
    """Whoever needs the lower offset holds it: a reader of the letters, or the group whose keys wait for them."""
    store, (source, letters) = in_memory(2)
    filled(store, letters)
    group(store, "owner", source)
    reader = group(store, "reader", letters)
    settle(store, reader, letters, 0, 20)
    needed = [0]
    apart = Apart("owner", {letters: source}, "parked", lambda _: needed[0], "keys wait")
    done = trimmed(store, letters, limits=Limits(age_us=HOUR), now_us=DAY, apart=apart)
    assert (done.events, [held.why for held in done.held]) == (0, ["keys wait"])
    needed[0] = 8
    assert trimmed(store, letters, limits=Limits(age_us=HOUR), now_us=DAY, apart=apart).events == 8


def test_behind_what_is_held_nothing_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """However far behind a group is, a slice reads what it may remove, and the first headers of what it may not."""
    store, (one, two) = in_memory(2)
    for number in range(400):
        store.apply([append(number, block((one, two)[number % 2], b"x" * 100))], now_us=number * S)
    group(store, "slow", one)
    read: list[int] = []
    header = placed.checked_header
    monkeypatch.setattr(placed, "checked_header", lambda row, name: read.append(row[0]) or header(row, name))
    for limits in (Limits(age_us=HOUR), Limits(bytes_max=0)):
        done = trimmed(store, one, two, limits=limits, now_us=DAY)
        assert done.held[0].group == "slow"
        assert len(read) <= done.blocks + 2 * 32
        read.clear()


def test_a_group_that_is_gone_is_warned_of_before_it_holds_nothing() -> None:
    store, (pid,) = in_memory()
    filled(store, pid)
    group(store, "gone", pid)
    limits, expiry = Limits(age_us=HOUR), Expiry(quiet_us=7 * DAY, warned_us=DAY)

    def noted(day: int, *, alive: bool = False) -> list[str]:
        return store.write(lambda db: living.note(db, now_us=day * DAY, expiry=expiry, alive=lambda _: alive))[0]

    store.apply([Claim(1, [pid])], now_us=S)
    assert noted(6) == []
    assert trimmed(store, pid, limits=limits, now_us=9 * DAY, expiry=expiry).events == 0
    assert noted(9) == ["gone"]
    assert noted(9) == []
    assert trimmed(store, pid, limits=limits, now_us=9 * DAY + HOUR, expiry=expiry).events == 0
    assert trimmed(store, pid, limits=limits, now_us=11 * DAY, expiry=expiry).events == 20


def test_a_group_that_came_back_or_has_a_member_is_not_gone() -> None:
    store, (pid,) = in_memory()
    filled(store, pid)
    gone, expiry = group(store, "gone", pid), Expiry()
    store.apply([Claim(gone, [pid])], now_us=S)
    assert store.write(lambda db: living.note(db, now_us=9 * DAY, expiry=expiry, alive=lambda _: True))[0] == []
    assert store.write(lambda db: living.note(db, now_us=17 * DAY, expiry=expiry, alive=lambda _: False))[0] == ["gone"]
    store.apply([Claim(gone, [pid])], now_us=17 * DAY + 1)
    [standing] = living.standings(store.db, now_us=18 * DAY + HOUR, expiry=expiry)
    assert standing.holds


def test_a_damaged_header_stops_retention_before_it() -> None:
    store, (pid,) = in_memory()
    filled(store, pid)
    store.db.execute("UPDATE block SET recorded_us = 5 WHERE at = (SELECT min(at) + 6 FROM block)")
    with pytest.raises(BlockDamaged):
        trimmed(store, pid, limits=Limits(age_us=HOUR), now_us=DAY)
    assert placed.known(store.db, pid).begin == 0


def test_what_is_quarantined_goes_with_what_came_after_it() -> None:
    """How old it is cannot be read; nothing of it is told any more once it is gone."""
    store, (pid,) = in_memory()
    filled(store, pid)
    size = retention.bytes_of(store.db, pid)
    for first in (0, 6, 8):
        store.db.execute("UPDATE block SET recorded_us = 5 WHERE at = ?", (pid << 46 | first,))
    for first, end in ((0, 2), (6, 10)):
        one = quarantine.Quarantined(pid, first, end, 0, "damaged")
        store.write(lambda db, one=one: quarantine.record(db, one))
    assert trimmed(store, pid, limits=Limits(age_us=DAY), now_us=DAY).events == 0
    assert trimmed(store, pid, limits=Limits(bytes_max=size - 1), now_us=DAY).events == 4
    assert [one.first for one in quarantine.of(store.db, pid)] == [6]
    done = trimmed(store, pid, limits=Limits(age_us=DAY - 4 * HOUR), now_us=DAY)
    assert (done.events, placed.known(store.db, pid).begin) == (2, 6)  # the one behind is not old enough
    done = trimmed(store, pid, limits=Limits(age_us=HOUR), now_us=DAY)
    assert (done.events, done.bytes, quarantine.of(store.db, pid)) == (14, size * 7 // 10, [])


def test_steps_go_with_what_they_settled_and_the_newest_stays() -> None:
    store, (pid,) = in_memory()
    filled(store, pid)
    quick = group(store, "quick", pid)
    for before in range(0, 20, 2):
        settle(store, quick, pid, before, before + 2)
    trimmed(store, pid, limits=Limits(age_us=5 * HOUR), now_us=9 * HOUR)
    assert retention.steps_due(store.db, [pid], [quick])
    assert store.write(lambda db: retention.trim_steps(db, [pid], [quick]))[0] == 4
    assert not retention.steps_due(store.db, [pid], [quick])
    assert [step.number for step in progress.steps_of(store.db, quick, pid)] == list(range(4, 10))
    trimmed(store, pid, limits=Limits(age_us=HOUR), now_us=DAY)
    store.write(lambda db: retention.trim_steps(db, [pid], [quick]))
    assert [step.number for step in progress.steps_of(store.db, quick, pid)] == [9]


def test_a_bundle_across_a_jump_of_the_clock_is_as_young_as_its_youngest_part() -> None:
    store, (pid,) = in_memory()
    clocks = ((0, 10 * DAY), (60 * S, 11 * DAY), (120 * S, 10 * DAY + 120 * S), (3 * HOUR, 10 * DAY + 3 * HOUR))
    for number, (monotonic_us, now_us) in enumerate(clocks):  # for a minute it is a day ahead
        store.write(lambda db, w=now_us, m=monotonic_us: ages.look(db, now_us=w, monotonic_us=m))
        for part in range(8):
            store.apply([append(number * 8 + part, block(pid, b"%d" % number))], now_us=now_us)
    store.apply([append(0, block(pid, random.Random(0).randbytes(20_000)), producer="large")], now_us=clocks[-1][1])
    run = compaction.find(store.db, pid, 0).run
    assert run is not None
    bundled = compaction.make(store.db, run)
    assert store.write(lambda db: compaction.swap(db, bundled))[0]

    def trim(db: apsw.Connection) -> retention.Trimmed:
        known = ages.look(db, now_us=10 * DAY + 4 * HOUR, monotonic_us=4 * HOUR)
        return retention.trim(db, Task([pid], Limits(age_us=2 * HOUR)), ages=known, expiry=Expiry(), bytes_now=0)

    assert store.write(trim)[0].events == 0  # what was recorded three hours in is one hour old


def test_a_young_block_before_an_old_one_keeps_both() -> None:
    store, (pid,) = in_memory()
    store.apply([append(0, block(pid, b"a"))], now_us=5 * DAY)
    store.apply([append(1, block(pid, b"b"))], now_us=5 * DAY + S)
    store.db.execute("DELETE FROM meta WHERE key = 'aged'")
    assert trimmed(store, pid, limits=Limits(age_us=DAY), now_us=5 * DAY + HOUR).events == 0


def test_groups_of_other_topics_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each topic's turn would take as long as there are groups otherwise, a thousand times a thousand in a pass."""
    store, (pid, *others) = in_memory(20)
    filled(store, pid)
    mine = group(store, "mine", pid)
    for other in others:
        group(store, f"of-{other}", other)
    checked: list[str] = []

    def checking(name: str, *values: Any) -> None:
        checked.append(name)
        verify_row(name, *values)

    for module in (progress, catalogue):
        monkeypatch.setattr(module, "verify_row", checking)
    assert trimmed(store, pid, limits=Limits(age_us=DAY), now_us=9 * HOUR).events == 0
    assert checked == [], "nothing is to go: it is nobody's business"
    done = trimmed(store, pid, limits=Limits(age_us=HOUR), now_us=9 * HOUR)
    assert [held.group for held in done.held] == ["mine"]
    assert checked == [f"progress of group id {mine}, partition id {pid}", "group mine"]
    assert progress.groups_on(store.db, [pid]) == [mine]
