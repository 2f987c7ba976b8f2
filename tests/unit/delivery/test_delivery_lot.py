"""The parking lot against a model, and what its ledger gives back."""

from __future__ import annotations

import random
from collections import defaultdict, deque

import pytest

from penstock.delivery.lot import Head, Lot, Now, OnFailure, ident_of
from penstock.errors import ConfigError, TransientError


class Ledger:
    """What the ledger has been told."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}

    def tell(self, lot: Lot) -> None:
        for key, value in lot.writes():
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value


def shape(lot: Lot) -> dict[bytes, tuple[int, int, bool, list[int]]]:
    return {
        ident: (head.offset, head.attempts, head.held, list(lot.followers(ident)))
        for ident, head in sorted(lot.heads.items())
    }


@pytest.mark.parametrize("number", range(60))
def test_at_any_time_the_ledger_gives_back_what_the_lot_holds(number: int) -> None:
    """Random failures, recoveries, holds and take-overs; a model of plain queues says what must wait."""
    dice = random.Random(number)
    keys = [b"%d" % n for n in range(dice.choice([1, 3, 30]))]
    lot, ledger, model = Lot(), Ledger(), defaultdict[bytes, deque[int]](deque)
    now = Now(0, 0.0)
    for offset in range(400):
        now = Now(now.us + 1000, now.s + 0.001)
        key = dice.choice(keys)
        ident = ident_of(key, offset)
        if ident in lot.heads:
            lot.follow(ident, [offset])
            model[ident].append(offset)
        elif dice.random() < 0.3:
            lot.park(Head(ident, key, offset, attempts=1), dice.choice([0.0, 0.1, None]), now)
            model[ident].append(offset)
        for head in lot.due(now.s):
            if dice.random() < 0.5:
                lot.settle(head.ident, now)
                model[head.ident].popleft()
            else:
                head.attempts += 1
                lot.postpone(head, dice.choice([0.05, None]), now)
        if dice.random() < 0.05 and lot.heads:
            released = dice.choice(sorted(lot.heads))
            lot.settle(released, now)
            model[released].popleft()
        if dice.random() < 0.3:
            ledger.tell(lot)
            again = Lot.restore(ledger.rows.items(), now)
            assert shape(again) == shape(lot)
            assert (again.oldest, again.events) == (lot.oldest, lot.events)
            if dice.random() < 0.2:
                lot = again
    wanted = {ident: list(offsets) for ident, offsets in sorted(model.items()) if offsets}
    assert {ident: [head, *rest] for ident, (head, _, _, rest) in shape(lot).items()} == wanted
    for ident in list(lot.heads):
        while ident in lot.heads:
            lot.settle(ident, now)
    ledger.tell(lot)
    assert ledger.rows == {}, "nothing waits, and nothing is left of it"


def test_a_pause_is_not_longer_after_a_take_over_whatever_the_wall_clock_says() -> None:
    lot, ledger = Lot(), Ledger()
    lot.park(Head(b"k", b"k", 0), 10.0, Now(1_000_000_000, 5.0))
    ledger.tell(lot)
    day_us = 86_400_000_000
    for now_us, due_s in ((1_000_000_000 - day_us, 110.0), (1_000_000_000 + day_us, 100.0), (1_004_000_000, 106.0)):
        assert Lot.restore(ledger.rows.items(), Now(now_us, 100.0)).next_due_s() == pytest.approx(due_s)


def test_many_that_fail_and_recover_together_are_a_handful_of_writes() -> None:
    lot, now = Lot(), Now(0, 0.0)
    for offset in range(1000):
        lot.park(Head(b"k%d" % offset, b"k", offset), 1.0, now)
    assert len(lot.writes()) <= 4
    for head in list(lot.heads.values()):
        lot.settle(head.ident, now)
    assert len(lot.writes()) <= 4


@pytest.mark.parametrize("taken_over", [False, True])
def test_a_line_that_never_ends_leaves_nothing_behind(taken_over: bool) -> None:
    lot, ledger, now = Lot(), Ledger(), Now(0, 0.0)
    lot.park(Head(b"ka", b"a", 0, attempts=1), 0.0, now)
    lot.follow(b"ka", [1, 2, 3])
    for offset in range(4, 500):
        lot.follow(b"ka", [offset])
        lot.settle(b"ka", now)
        ledger.tell(lot)
        if taken_over and offset % 50 == 0:
            lot = Lot.restore(ledger.rows.items(), now)
            assert [lot.heads[b"ka"].offset, *lot.followers(b"ka")] == list(range(offset - 3, offset + 1))
    assert len(ledger.rows) < 10, "one page for its head, and one for each of those that wait"


def test_bounds_that_cannot_be_meant_are_refused() -> None:
    for make in (lambda: OnFailure(keys_max=0), lambda: OnFailure(events_max=0), lambda: OnFailure(breaker=0)):
        with pytest.raises(ConfigError, match="at least 1"):
            make()


def test_what_is_transient() -> None:
    class Throttled(Exception):
        pass

    parking = OnFailure(transient=(Throttled,))
    for error in (ConnectionError(), TimeoutError(), TransientError("x"), Throttled()):
        assert parking.is_transient(error)
    assert not parking.is_transient(ValueError())
