"""What a member decides, value by value; no loop, no channel."""

from __future__ import annotations

from penstock.channel.api import (
    Assigned,
    Committed,
    Delivery,
    FencedOff,
    Idle,
    LedgerWrite,
    Lost,
    Owned,
    Revoking,
    Unknown,
)
from penstock.engine.machine import Begin, Drop, Hand, Handle, Membership, Rejoin, Rest, Skip, without
from penstock.engine.work import Draft
from penstock.event.batch import Delivered, Rows

OWNED = Owned("t", 0, epoch=3)


def assigned(floor: int = 0, holes: tuple[int, ...] = ()) -> Assigned:
    return Assigned(OWNED, floor, holes, (), "log", 1)


def delivered(first: int, count: int) -> Delivered:
    rows = Rows.of([b"%d" % offset for offset in range(first, first + count)])
    return Delivered("t", 0, first, count, rows, recorded_us=0)


def bodies_of(part: Delivered) -> list[bytes]:
    assert isinstance(part.payload, Rows)
    return part.payload.bodies()


def member(floor: int = 0, holes: tuple[int, ...] = ()) -> Membership:
    membership = Membership("g")
    assert isinstance(membership.taken(assigned(floor, holes)), Begin)
    return membership


def test_steps_follow_one_another_before_they_are_answered() -> None:
    membership = member(floor=5)
    first, second = membership.step(Draft(0, 8)), membership.step(Draft(0, 12))
    assert (first.settle.floor_before, first.settle.floor_after) == (5, 8)
    assert (second.settle.floor_before, second.settle.floor_after) == (8, 12)
    assert first.owned == second.owned == OWNED


def test_a_step_that_only_remembers_moves_nothing() -> None:
    step = member(floor=5).ledger_step(0, [LedgerWrite("attempts", b"k", b"v")])
    assert (step.settle.floor_before, step.settle.floor_after) == (5, 5)


def test_what_is_settled_above_the_floor_is_left_out_and_stays_settled() -> None:
    membership = member(floor=2, holes=(3, 6))
    action = membership.taken(Delivery(OWNED, [delivered(2, 6)]))
    assert isinstance(action, Handle)
    bodies = [body for part in action.delivery.batches for body in bodies_of(part)]
    assert bodies == [b"2", b"4", b"5", b"7"]
    assert membership.step(Draft(0, 4)).settle.holes == [6]
    assert membership.step(Draft(0, 8)).settle.holes == []


def test_a_delivery_of_holes_only_moves_the_floor() -> None:
    membership = member(holes=(0, 1))
    action = membership.taken(Delivery(OWNED, [delivered(0, 2)]))
    assert isinstance(action, Skip)
    step = membership.step(action.draft)
    assert (step.settle.floor_before, step.settle.floor_after, step.settle.holes) == (0, 2, [])


def test_a_floor_moves_over_what_is_settled_behind_it() -> None:
    membership = member(holes=(3, 4, 6))
    step = membership.step(Draft(0, 3))
    assert (step.settle.floor_after, step.settle.holes) == (5, [6])
    assert membership.step(Draft(0, 6)).settle.floor_after == 7


def test_runs_between_holes() -> None:
    parts = without(delivered(10, 5), frozenset({10, 12, 14, 99}))
    assert [(part.first, part.count) for part in parts] == [(11, 1), (13, 1)]
    assert [bodies_of(part) for part in parts] == [[b"11"], [b"13"]]


def test_answers_that_cost_a_partition() -> None:
    membership = member()
    assert membership.answered(OWNED, Committed()) is None
    assert membership.answered(OWNED, FencedOff("epoch 4")) == Drop(OWNED, "fenced off: epoch 4")
    assert isinstance(membership.answered(OWNED, Unknown("disk")), Drop)


def test_a_partition_comes_and_goes_by_itself() -> None:
    membership = member()
    other = Owned("t", 1, epoch=1)
    membership.taken(Assigned(other, 0, (), (), "log", 1))
    assert membership.taken(Revoking(OWNED)) == Hand(OWNED)
    assert membership.taken(Lost(OWNED, "lease")) == Drop(OWNED, "lease")
    assert membership.gone(OWNED)
    assert not membership.gone(OWNED)
    assert not membership.works_on(0)
    assert membership.owns(other)
    assert isinstance(membership.taken(Revoking(OWNED)), Drop)
    assert membership.taken(Idle("another owner", "much")) == Rest("another owner", "much")


def test_a_loss_that_comes_late_does_not_touch_the_next_assignment() -> None:
    membership = member()
    again = Owned("t", 0, epoch=4)
    membership.taken(Assigned(again, 0, (), (), "log", 1))
    assert not membership.gone(OWNED)
    assert membership.owns(again)


def test_a_delivery_of_an_epoch_that_is_not_ours_is_not_worked_on() -> None:
    assert isinstance(member().taken(Delivery(Owned("t", 0, epoch=2), [delivered(0, 1)])), Rejoin)
    assert isinstance(Membership("g").taken(Delivery(OWNED, [delivered(0, 1)])), Rejoin)
