"""What putting a group elsewhere would mean, and doing it: refused while it runs, one transaction, epochs go up."""

from __future__ import annotations

from contextlib import closing

import pytest

from penstock.errors import ConfigError, ConflictError
from penstock.log import progress
from penstock.observe import inventory
from penstock.observe.seeking import Aim, carry_out, plan
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


async def test_what_is_refused(filled: Kit) -> None:
    await filled.settle("check", "flights", partition=1, floor=5)
    for aim, named in ((Aim(10**9), "offset"), (Aim(0, partitions=[7]), "partition")):
        with pytest.raises(ConfigError, match=named):
            plan(filled.channel, "check", aim)
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
