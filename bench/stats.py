"""Pure statistics of pairs (value, floor): medians, percentiles, ratios, and whether a budget is met."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Literal

Better = Literal["higher", "lower"]


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile: the smallest value that at least `percent` % of the values do not exceed.

    Raises:
        ValueError: no values, or `percent` outside 0 < percent ≤ 100.
    """
    if not values:
        msg = "a percentile of no values; measure at least one event"
        raise ValueError(msg)
    if not 0 < percent <= 100:
        msg = f"percent {percent}; expected more than 0 and at most 100"
        raise ValueError(msg)
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


def median_ratio(pairs: Sequence[tuple[float, float]]) -> float:
    """The median of value / floor over the pairs: a slow moment of the machine spoils one pair, not the result.

    Raises:
        ValueError: no pairs, or a floor that is not positive.
    """
    if not pairs:
        msg = "a ratio of no pairs; measure at least one"
        raise ValueError(msg)
    for _, floor in pairs:
        if not floor > 0:
            msg = f"a floor of {floor}; expected more than 0"
            raise ValueError(msg)
    return median(value / floor for value, floor in pairs)


def within(figure: float, limit: float, better: Better) -> bool:
    """Whether `figure` keeps the limit: at least it where higher is better, at most it where lower is."""
    return figure >= limit if better == "higher" else figure <= limit
