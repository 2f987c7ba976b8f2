"""The log's own time: it never runs ahead of what has passed, whatever the wall clock does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.log import ages
from penstock.log.ages import Ages, Period

S = 1_000_000
DAY = 86_400 * S
HOUR = DAY // 24


def test_time_that_both_clocks_say_has_passed_has_passed() -> None:
    first = ages.moved(None, now_us=10 * DAY, monotonic_us=5 * S)
    later = ages.moved(first, now_us=13 * DAY, monotonic_us=5 * S + 3 * DAY)
    assert later.lag_us == 0
    assert later.youngest_us(10 * DAY) == 10 * DAY


def test_a_jump_forward_and_back_makes_nothing_older() -> None:
    seen = ages.moved(None, now_us=10 * DAY, monotonic_us=0)
    ahead = ages.moved(seen, now_us=11 * DAY, monotonic_us=10 * S)
    assert ahead.looked_us - ahead.lag_us == 10 * DAY + 10 * S
    # recorded while the clock was a day ahead: not a day old once it is set right
    right = ages.moved(ahead, now_us=10 * DAY + 20 * S, monotonic_us=20 * S)
    assert right.youngest_us(11 * DAY) == 10 * DAY + 10 * S
    assert right.youngest_us(9 * DAY) == 9 * DAY


def test_what_was_recorded_while_the_clock_was_behind_is_not_old() -> None:
    seen = ages.moved(None, now_us=10 * DAY, monotonic_us=0)
    behind = ages.moved(seen, now_us=9 * DAY, monotonic_us=10 * S)
    assert behind.looked_us - behind.lag_us == 10 * DAY
    assert behind.youngest_us(9 * DAY + 5 * S) == 10 * DAY + 5 * S


def test_while_the_machine_is_off_no_time_passes() -> None:
    seen = ages.moved(None, now_us=10 * DAY, monotonic_us=50 * S)
    again = ages.moved(seen, now_us=20 * DAY, monotonic_us=3 * S)
    assert again.looked_us - again.lag_us == 10 * DAY


def test_periods_are_bounded_on_the_safe_side() -> None:
    now = Ages(0, 0, [Period(0, 0)])
    for step in range(800):
        now = ages.moved(now, now_us=(step % 2) * DAY + step * S, monotonic_us=step * S)
    assert len(now.periods) <= 366
    assert now.youngest_us(100 * S) >= 100 * S - DAY


def test_a_machine_that_sleeps_every_night_loses_a_third_of_the_time_and_no_more() -> None:
    """90 days of its own time are 135 nights: what is older is old, half a year and two years after the beginning."""
    true = wall = 100 * DAY
    known = ages.moved(None, now_us=wall, monotonic_us=true)
    recorded: list[int] = []
    for night in range(700):
        true, wall = true + 16 * HOUR, wall + 16 * HOUR
        known = ages.moved(known, now_us=wall, monotonic_us=true)
        recorded.append(wall)
        if night in (180, 699):
            kept = [at for at in recorded[-200:] if known.youngest_us(at) > known.now_us - 90 * DAY - ages.SLACK_US]
            assert len(kept) in (135, 136)
        wall += 8 * HOUR
        known = ages.moved(known, now_us=wall, monotonic_us=true)


def lived_through(steps: list[tuple[int, int]]) -> tuple[ages.Ages, list[tuple[int, int]]]:
    """What is known after steps of (time that passes, jump of the wall clock); true and shown time of each."""
    true = wall = 100 * DAY
    known = ages.moved(None, now_us=wall, monotonic_us=true)
    recorded: list[tuple[int, int]] = []
    for passed, jump in steps:
        true, wall = true + passed, wall + passed + jump
        known = ages.moved(known, now_us=wall, monotonic_us=true)
        recorded.append((true, wall))
    return known, recorded


@given(
    st.lists(st.tuples(st.integers(0, 10 * DAY), st.integers(-3 * DAY, 3 * DAY)), min_size=1, max_size=20),
    st.integers(0, 19),
)
def test_nothing_is_thought_older_than_it_is(steps: list[tuple[int, int]], written: int) -> None:
    """A true clock beside a wall clock that is set this way and that, always looked at before something is recorded."""
    known, recorded = lived_through(steps)
    true = recorded[-1][0]
    at, shown = recorded[written % len(recorded)]
    age = known.looked_us - known.lag_us - known.youngest_us(shown)
    assert age <= true - at + len(steps) * ages.SLACK_US / 60


@given(
    st.lists(st.tuples(st.integers(0, 10 * DAY), st.integers(-3 * DAY, 3 * DAY)), min_size=1, max_size=20),
    st.integers(0, 19),
    st.integers(1, 20),
)
def test_no_part_of_a_bundle_is_thought_older_than_it_is(steps: list[tuple[int, int]], first: int, count: int) -> None:
    """A bundle says when its first and its last part were recorded, by the wall clock: no more than that is known."""
    known, recorded = lived_through(steps)
    true = recorded[-1][0]
    bundled = recorded[first % len(recorded) :][:count]
    shown = [wall for _, wall in bundled]
    age = known.looked_us - known.lag_us - known.youngest_us(min(shown), max(shown))
    assert age <= true - max(at for at, _ in bundled) + len(steps) * ages.SLACK_US / 60
