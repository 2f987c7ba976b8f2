"""What putting a group elsewhere would mean, and doing it: refused while it runs, one transaction, epochs go up."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import apsw
import pytest

from penstock.channel.api import GroupSpec, LedgerWrite, Settle, Step, Subscription, TopicSpec
from penstock.delivery.lot import Head, Lot, Now
from penstock.errors import ConfigError, ConflictError
from penstock.log import ages, catalogue, living, placed, progress, retention
from penstock.log.api import Advance, Claim
from penstock.log.checks import row_check
from penstock.observe import inventory
from penstock.observe.seeking import Aim, carry_out, plan, shift_of
from tests.unit.log.logs import in_memory
from tests.unit.observe.observe_kit import Kit


async def test_back_and_forth(filled: Kit) -> None:
    await filled.settle("check", "flights", partition=1, floor=5)
    seeking = plan(filled.channel, "check", Aim(2))
    assert [(s.partition, s.floor, s.to, s.again, s.skipped) for s in seeking.shifts] == [
        (0, 0, 2, 0, 2),
        (1, 5, 2, 3, 0),
    ]
    before = _epochs(filled)
    await carry_out(filled.channel, seeking)
    [group] = inventory.group_facts(filled.channel, now_us=filled.system.clock.now_us())
    assert [part.floor for part in group.partitions] == [2, 2]
    assert [new - old for new, old in zip(_epochs(filled), before, strict=True)] == [1, 1]
    with pytest.raises(ConflictError, match="moved"):
        await carry_out(filled.channel, seeking)


async def test_to_the_end_of_one_partition_and_to_a_time(filled: Kit) -> None:
    await filled.settle("check", "flights", partition=1, floor=5)
    [shift] = plan(filled.channel, "check", Aim(partitions=[1])).shifts
    assert (shift.partition, shift.to - shift.floor) == (1, shift.skipped)
    assert [s.to for s in plan(filled.channel, "check", Aim(time_us=0)).shifts] == [0, 0]
    ends = [part.end for part in inventory.group_facts(filled.channel, now_us=0)[0].partitions]
    assert [s.to for s in plan(filled.channel, "check", Aim(time_us=1 << 60)).shifts] == ends


async def test_what_retention_has_removed_cannot_be_read_again(filled: Kit) -> None:
    """A group that was put there could not go on."""
    await filled.settle("check", "flights", partition=1, floor=5)
    pids = filled.channel.row("flights").pids

    def trim(db: apsw.Connection) -> int:
        known = ages.look(db, now_us=filled.system.clock.now_us(), monotonic_us=None)
        task = retention.Task(pids, retention.Limits(bytes_max=0), force=True)
        retention.trim(db, task, ages=known, expiry=living.Expiry(), bytes_now=1)  # the oldest block
        return placed.known(db, pids[0]).begin

    planned = plan(filled.channel, "check", Aim(0))
    begin = await filled.channel.port.write(trim)
    assert begin > 0
    with pytest.raises(ConflictError, match=rf"before offset {begin} of partition 0 meanwhile; look again"):
        await carry_out(filled.channel, planned)
    with pytest.raises(ConfigError, match=rf"offset 0 of partition 0, which holds {begin} to .*retention.*earliest"):
        plan(filled.channel, "check", Aim(0))
    assert [s.to for s in plan(filled.channel, "check", Aim(time_us=0)).shifts] == [begin, 0]


async def test_settled_events_above_the_floor_are_not_skipped_again(filled: Kit) -> None:
    intake = await filled.channel.join(Subscription(GroupSpec("check", "flights"), "process 1"))
    taken: Any = await intake.next(events_max=1, bytes_max=1 << 20, wait_s=1)
    number = taken.owned.partition
    await intake.commit(Step("check", taken.owned, Settle(0, 2, holes=[3, 4, 9])))
    await intake.leave()
    counted = [plan(filled.channel, "check", Aim(to, partitions=[number])).shifts[0] for to in (0, 2, 5, 10)]
    assert [(s.again, s.skipped) for s in counted] == [(5, 0), (3, 0), (1, 1), (0, 5)]


async def test_what_became_of_dead_letters_is_not_forgotten(filled: Kit) -> None:
    """Or what people asked for once is done again: a letter that was redriven is redriven once more."""
    told = [LedgerWrite("letters", bytes(8), b"handled"), LedgerWrite("commands", b"", (1).to_bytes(8))]
    intake = await filled.channel.join(Subscription(GroupSpec("check", "flights"), "process 1"))
    taken: Any = await intake.next(events_max=1, bytes_max=1 << 20, wait_s=1)
    number, pid = taken.owned.partition, filled.channel.row("flights").pids[taken.owned.partition]
    await intake.commit(Step("check", taken.owned, Settle(0, 2), ledger=[*told, LedgerWrite("once", b"a", bytes(8))]))
    await intake.leave()
    seeking = plan(filled.channel, "check", Aim(0, partitions=[number]))
    assert seeking.shifts[0].forgets == {"once": 1}
    await carry_out(filled.channel, seeking)
    look = filled.channel.port.look
    found = look(lambda db: progress.ledger_of(db, seeking.group_id, pid))
    assert sorted(found) == sorted((one.space, one.key, one.value) for one in told)
    assert look(lambda db: progress.whole_ledger(db, seeking.group_id, pid)) == 2


async def test_what_is_parked_is_counted_in_events(filled: Kit) -> None:
    """None of them is handled any more where the group is put behind them: that must be seen before."""
    lot, now = Lot(), Now(0, 0.0)
    lot.park(Head(b"ka", b"a", 0), 1.0, now)
    lot.park(Head(b"kb", b"b", 1), 1.0, now)
    lot.follow(b"ka", [2, 3, 4])
    intake = await filled.channel.join(Subscription(GroupSpec("check", "flights"), "process 1"))
    taken: Any = await intake.next(events_max=1, bytes_max=1 << 20, wait_s=1)
    told = [LedgerWrite("parked", key, value) for key, value in lot.writes()]
    await intake.commit(Step("check", taken.owned, Settle(0, 5), ledger=told))
    await intake.leave()
    [shift] = plan(filled.channel, "check", Aim(5, partitions=[taken.owned.partition])).shifts
    assert (shift.skipped, shift.forgets) == (0, {"parked": 5})


def test_what_would_be_skipped_is_counted_fast() -> None:
    """However many events and settled ones lie between."""
    store, (pid,) = in_memory()
    end = 1 << 40
    store.db.execute("UPDATE partition SET next = ?, chk = ? WHERE pid = ?", (end, row_check(pid, 1, 0, end, 0), pid))
    group = store.write(lambda db: catalogue.declare_group(db, "g", b"{}"))[0].id
    [claimed] = store.write(lambda db: progress.claim(db, Claim(group, [pid])))[0]
    store.apply([Advance(group, pid, claimed.epoch, 0, 1, holes=range(2, 9_000, 2))], now_us=0)
    shift = shift_of(store.db, group, pid, 0, Aim(end))
    assert shift.skipped == end - 1 - len(range(2, 9_000, 2))


async def test_a_partition_named_twice_is_moved_once(filled: Kit) -> None:
    await filled.settle("check", "flights", partition=1, floor=5)
    seeking = plan(filled.channel, "check", Aim(2, partitions=[1, 1]))
    assert [s.partition for s in seeking.shifts] == [1]
    await carry_out(filled.channel, seeking)


async def test_what_is_refused(filled: Kit) -> None:
    await filled.settle("check", "flights", partition=1, floor=5)
    for aim, named in (
        (Aim(10**9), "offset"),
        (Aim(0, partitions=[7]), "partition"),
        (Aim(1000, partitions=[1]), r"offset 1000 of partition 1, which holds 0 to \d+: .*latest"),
        (Aim(0, partitions=[1], topic="raw"), "topic flights, not raw"),
    ):
        with pytest.raises(ConfigError, match=named):
            plan(filled.channel, "check", aim)
    await filled.channel.open([TopicSpec("empty", partitions=1)])
    await filled.settle("idle", "empty", partition=0, floor=0)
    with pytest.raises(ConfigError, match="offset 1 of partition 0, which holds no events: 0 or `latest`"):
        plan(filled.channel, "idle", Aim(1))
    with pytest.raises(ConfigError, match="nowhere"):
        plan(filled.channel, "nowhere", Aim(0))
    seeking = plan(filled.channel, "check", Aim(0))
    with closing(filled.channel.port.company(str(seeking.group_id), "process 7", partitions=2, changed=lambda: None)):
        with pytest.raises(ConflictError, match="process 7"):
            plan(filled.channel, "check", Aim(0))
        with pytest.raises(ConflictError, match="process 7"):
            await carry_out(filled.channel, seeking)


def _epochs(kit: Kit) -> list[int]:
    return [row.epoch for row in kit.channel.port.look(progress.all_progress)]
