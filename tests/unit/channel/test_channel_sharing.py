"""Which member gets which partitions: even, sticky, the same for everybody who computes it."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.channel.sharing import CLAIMING, Moves, Seat, contested, holders, moves, shares, told


def seat(name: str, *holds: int, epoch: int = 1) -> Seat:
    return Seat(name, f"worker {name}", dict.fromkeys(holds, epoch))


def settled(seats: list[Seat], partitions: int, *, together: bool = False) -> tuple[list[Seat], int]:
    """Let everybody do what it is to do until nothing moves; how many partitions were claimed."""
    holds = {s.name: dict(s.holds) for s in seats}
    claimed = 0
    for _ in range(4 * partitions + 4):
        now = [Seat(name, name, dict(held)) for name, held in holds.items()]
        found = {name: moves(name, now, partitions, together=together) for name in holds}
        if all(m == Moves({}, [], []) for m in found.values()):
            return now, claimed
        for name, todo in found.items():
            for partition in [*todo.give, *todo.lost]:
                del holds[name][partition]
            for partition in todo.claim:
                holds[name][partition] = 1
                claimed += 1
    raise AssertionError("it never comes to rest")


@settings(deadline=None, max_examples=150)
@given(st.integers(1, 12), st.lists(st.integers(-1, 4), max_size=12), st.integers(1, 5), st.booleans())
def test_shares_are_even_complete_and_come_to_rest(
    partitions: int, held_by: list[int], members: int, together: bool
) -> None:
    holds: dict[str, list[int]] = {f"m{n}": [] for n in range(members)}
    for partition, number in enumerate(held_by[:partitions]):
        if 0 <= number < members:
            holds[f"m{number}"].append(partition)
    seats = [seat(name, *mine) for name, mine in holds.items()]
    wanted = shares(seats, partitions, together=together)
    assert sorted(wanted) == list(range(partitions))
    assert wanted == shares(list(reversed(seats)), partitions, together=together)
    sizes = [Counter(wanted.values())[s.name] for s in seats]
    assert (sorted(sizes)[-1] == partitions) if together else (max(sizes) - min(sizes) <= 1)
    end, _ = settled(seats, partitions, together=together)
    assert sorted(p for s in end for p in s.holds) == list(range(partitions))


def test_a_join_moves_only_what_must_move() -> None:
    before, _ = settled([seat("a"), seat("b")], 8)
    after, claimed = settled([*before, seat("c")], 8)
    assert claimed == 2
    kept = {(s.name, p) for s in before for p in s.holds} & {(s.name, p) for s in after for p in s.holds}
    assert len(kept) == 6


def test_a_leave_moves_only_what_was_its_own() -> None:
    before, _ = settled([seat("a"), seat("b"), seat("c")], 8)
    gone = before[1]
    after, claimed = settled([before[0], before[2]], 8)
    assert claimed == len(gone.holds)
    assert sorted(len(s.holds) for s in after) == [4, 4]


def test_more_members_than_partitions() -> None:
    after, _ = settled([seat(name) for name in "abcde"], 2)
    assert sorted(len(s.holds) for s in after) == [0, 0, 0, 1, 1]


def test_what_belongs_together_stays_with_whom_it_is() -> None:
    seats = [seat("a"), seat("b", 0, 1, 2), seat("c")]
    assert set(shares(seats, 3, together=True).values()) == {"b"}
    assert moves("a", seats, 3, together=True) == Moves({}, [], [])


def test_a_partition_is_claimed_only_when_nobody_holds_it() -> None:
    seats = [seat("a", 0, 1, 2, 3), seat("b")]
    assert moves("b", seats, 4) == Moves({}, [], [])
    assert moves("a", seats, 4) == Moves({}, [2, 3], [])
    assert moves("b", [seat("a", 0, 1, 3), seat("b")], 4).claim == [2]


def test_a_zombie_has_lost_what_another_holds_at_a_newer_epoch() -> None:
    zombie, heir = seat("a", 0, 1, epoch=4), seat("b", 1, epoch=5)
    assert holders([zombie, heir]) == {0: zombie, 1: heir}
    assert moves("a", [zombie, heir], 2) == Moves({1: heir}, [], [])
    assert moves("b", [zombie, heir], 2) == Moves({}, [], [])


def test_what_two_claim_at_once_is_contested() -> None:
    one, two = seat("a", 0, epoch=CLAIMING), seat("b", 0, 1, epoch=CLAIMING)
    assert contested("a", [one, two], [0]) == {0}
    assert contested("b", [one, two], [0, 1]) == {0}
    assert moves("a", [one, two], 2).claim == []


def test_who_waits_is_told_for_whom() -> None:
    assert "worker a, worker b" in told("g", "c", [seat("a", 0), seat("b", 1), seat("c")])
    assert told("g", "c", [seat("a"), seat("c")]) == ""
