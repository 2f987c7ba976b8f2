"""Medians, percentiles and budgets: the arithmetic that decides whether a budget is met."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.stats import Better, median_ratio, percentile, within


@pytest.mark.parametrize(("percent", "expected"), [(50, 2), (51, 3), (75, 3), (99, 4), (100, 4), (1, 1)])
def test_nearest_rank(percent: float, expected: float) -> None:
    assert percentile([3, 1, 4, 2], percent) == expected


@given(st.lists(st.integers(), min_size=1, max_size=50), st.integers(1, 100))
def test_a_percentile_covers_its_share_and_no_smaller_value_does(values: list[int], percent: int) -> None:
    found = percentile(values, percent)
    assert sum(v <= found for v in values) * 100 >= percent * len(values)
    assert sum(v < found for v in values) * 100 < percent * len(values)


@pytest.mark.parametrize(("values", "percent"), [([], 50), ([1], 0), ([1], 101)])
def test_percentiles_of_nothing_are_refused(values: list[float], percent: float) -> None:
    with pytest.raises(ValueError, match="percent"):
        percentile(values, percent)


def test_the_ratio_is_the_median_of_ratios_not_the_ratio_of_medians() -> None:
    pairs = [(10.0, 10.0), (20.0, 40.0), (90.0, 30.0)]  # ratios 1, 0.5, 3; medians 20 / 30
    assert median_ratio(pairs) == 1.0


@pytest.mark.parametrize("pairs", [[], [(1.0, 0.0)], [(1.0, 1.0), (1.0, -2.0)], [(1.0, float("nan"))]])
def test_ratios_to_nothing_are_refused(pairs: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match=r"expected more than 0|at least one"):
        median_ratio(pairs)


@pytest.mark.parametrize(
    ("figure", "better", "kept"),
    [(0.8, "higher", True), (0.79, "higher", False), (0.8, "lower", True), (0.81, "lower", False)],
)
def test_a_limit_itself_is_within(figure: float, better: Better, *, kept: bool) -> None:
    assert within(figure, 0.8, better) is kept
