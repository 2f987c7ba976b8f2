"""Marks of tokens: held while their event is in hand, kept when it is settled, and forgotten at an exact offset."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.delivery.once import DIGEST_BYTES, GONE_MAX, ONCE_EVENTS, TOKENS_MAX, Marks, digest_of


def everything(offset: int) -> bool:
    return True


def settled(marks: Marks, token: str, offset: int) -> None:
    """The event at `offset` takes the token, and is settled in a step of its own."""
    marks.begin([])
    assert marks.take(token, offset)
    marks.writes(marks.land(everything), ())


def test_a_token_is_new_once_also_for_the_event_that_took_it() -> None:
    marks = Marks()
    assert marks.take("a", 0)
    assert not marks.take("a", 0)
    assert not marks.take("a", 1)
    assert marks.take("b", 1)


def test_a_mark_is_a_digest_and_the_offset() -> None:
    marks = Marks()
    marks.take("a", 7)
    assert marks.writes(marks.land(everything), ()) == [(digest_of("a"), (7).to_bytes(8))]
    assert len(digest_of("a" * 1000)) == DIGEST_BYTES
    assert digest_of("ä") == digest_of("ä".encode())
    assert digest_of("\ud800") != digest_of("\ud801"), "text that is no UTF-8 tells apart too"


def test_what_is_not_settled_lets_its_marks_go_and_nothing_is_written() -> None:
    marks = Marks()
    marks.begin([])
    marks.take("a", 4)
    marks.take("b", 5)
    assert marks.land(lambda offset: offset < 5) == [(4, digest_of("a"))]
    assert not marks.take("a", 6)
    assert marks.take("b", 6)


def test_behind_a_rejected_event_its_token_is_new_in_the_same_run() -> None:
    marks, rejected = Marks(), list[tuple[int, object]]()
    marks.begin(rejected)
    assert marks.take("a", 0)
    rejected.append((0, None))
    assert marks.take("a", 1)
    assert not marks.take("a", 2)
    assert [offset for offset, _ in marks.land(everything)] == [1]


def test_an_event_whose_results_cannot_be_published_leaves_no_mark() -> None:
    marks = Marks()
    marks.begin([])
    marks.take("a", 0)
    marks.take("b", 1)
    written = dict(marks.writes(marks.land(everything), {0}))
    assert written == {digest_of("a"): None, digest_of("b"): (1).to_bytes(8)}
    assert marks.take("a", 2)
    assert not marks.take("b", 2)


def test_what_is_begun_elsewhere_is_not_settled_by_a_run() -> None:
    marks = Marks()
    assert marks.take("a", 9)
    marks.begin([])
    assert marks.take("b", 3)
    assert marks.land(everything) == [(3, digest_of("b"))]
    assert not marks.take("a", 4)
    assert marks.settle(9) == [(9, digest_of("a"))]


@pytest.mark.parametrize("restored", [False, True])
def test_the_horizon_is_exact(restored: bool) -> None:
    marks = Marks()
    settled(marks, "a", 10)
    if restored:
        marks = Marks(11, [(digest_of("a"), (10).to_bytes(8))])
    assert not marks.take("a", 10 + ONCE_EVENTS)
    assert marks.take("a", 10 + ONCE_EVENTS + 1)


def test_the_horizon_is_behind_the_floor_for_an_event_below_it() -> None:
    marks = Marks()
    settled(marks, "a", 10)
    marks.floor = 10 + ONCE_EVENTS
    assert not marks.take("a", 50)
    marks.floor += 1
    assert marks.take("a", 50)


def test_the_mark_of_a_parked_event_counts_from_where_the_floor_is() -> None:
    marks = Marks(5_000)
    marks.begin([])
    marks.take("a", 3)
    assert marks.writes(marks.land(everything), ()) == [(digest_of("a"), (5_000).to_bytes(8))]
    assert not marks.take("a", 5_000 + ONCE_EVENTS)


def test_what_is_beyond_the_horizon_is_removed_and_a_bounded_number_in_each_step() -> None:
    count = GONE_MAX + 5
    marks = Marks(0, [(digest_of(str(n)), n.to_bytes(8)) for n in range(count)])
    marks.floor = ONCE_EVENTS
    assert marks.writes((), ()) == []
    marks.floor += 1
    assert marks.writes((), ()) == [(digest_of("0"), None)]
    marks.floor += count
    assert len(marks.writes((), ())) == GONE_MAX
    assert marks.writes((), ()) == [(digest_of(str(n)), None) for n in range(GONE_MAX + 1, count)]
    assert marks.writes((), ()) == []


def test_a_step_may_remove_as_many_more_as_it_adds() -> None:
    marks = Marks(0, [(digest_of(str(n)), n.to_bytes(8)) for n in range(3 * GONE_MAX)])
    marks.floor = 4 * GONE_MAX + ONCE_EVENTS
    marks.begin([])
    for offset in range(marks.floor, marks.floor + 500):
        assert marks.take(f"new {offset}", offset)
    said = marks.writes(marks.land(everything), ())
    assert sum(value is None for _, value in said) == GONE_MAX + 500


def test_a_token_that_is_taken_again_beyond_the_horizon_is_not_removed_with_its_old_mark() -> None:
    marks = Marks(0, [(digest_of("a"), (0).to_bytes(8))])
    again = ONCE_EVENTS + 1
    marks.begin([])
    assert marks.take("a", again)
    taken = marks.land(everything)
    marks.floor = again + 1
    assert marks.writes(taken, ()) == [(digest_of("a"), again.to_bytes(8))]
    assert not marks.take("a", again + 1)


@pytest.mark.parametrize("token", [5, None, 1.5, ["a"], bytearray(b"a")])
def test_what_is_neither_text_nor_bytes_is_refused_with_the_way_out(token: Any) -> None:
    with pytest.raises(TypeError, match=r"a token is str or bytes; pass text, such as ctx\.once\(f'"):
        Marks().take(token, 0)


@pytest.mark.parametrize("token", ["", b""])
def test_an_empty_token_is_refused_with_the_way_out(token: str | bytes) -> None:
    with pytest.raises(ValueError, match="empty token; pass what tells this effect from others"):
        Marks().take(token, 0)


def test_an_event_has_a_bounded_number_of_tokens() -> None:
    marks = Marks()
    for number in range(TOKENS_MAX):
        assert marks.take(str(number), 0)
    assert not marks.take("0", 0)
    with pytest.raises(ValueError, match="make one token of what belongs together"):
        marks.take("one more", 0)
    assert marks.take("one more", 1)
