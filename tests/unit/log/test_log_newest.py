"""Where the newest of a sequence begin."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from penstock.log.newest import begin_of_newest


def asked(new: Sequence[bool]) -> tuple[int, int]:
    """The answer, and how many were looked at."""
    looked: list[int] = []

    def is_new(number: int) -> bool:
        looked.append(number)
        return new[number]

    return begin_of_newest(len(new), is_new), len(looked)


def test_in_order_it_is_the_first_that_is_new() -> None:
    for count in range(40):
        for begin in range(count + 1):
            found, looks = asked([False] * begin + [True] * (count - begin))
            assert found == begin
            assert looks <= 12


@pytest.mark.parametrize("after", [1, 7, 1000])
def test_behind_a_clock_that_was_ahead_only_the_end_counts(after: int) -> None:
    """Nothing is new any more: what was written while the clock was ahead is not, whatever it says."""
    assert asked([False] * 50 + [True] * 70 + [False] * after) == (120 + after, 1)
