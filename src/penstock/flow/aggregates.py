"""Aggregates by name, declared over a row-wise expression or a column name; `reduce` knows how they are computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    import polars as pl

Kind = Literal["count", "sum", "mean", "min", "max"]


class Aggregation(msgspec.Struct, frozen=True, eq=False):
    """One aggregate over a row-wise expression; None counts rows."""

    kind: Kind
    value: pl.Expr | str | None = None


def count(value: pl.Expr | str | None = None) -> Aggregation:
    """How many rows, or how many rows where `value` is not null."""
    return Aggregation("count", value)


def sum_(value: pl.Expr | str) -> Aggregation:
    """The sum of what is not null; null when nothing is. Integers are exact in 64 bits: beyond is an error."""
    return Aggregation("sum", value)


def mean(value: pl.Expr | str) -> Aggregation:
    """Sum by count of what is not null, as a float; null when nothing is."""
    return Aggregation("mean", value)


def min_(value: pl.Expr | str) -> Aggregation:
    """The smallest that is not null; null when nothing is. A row whose value is NaN or infinite is given up."""
    return Aggregation("min", value)


def max_(value: pl.Expr | str) -> Aggregation:
    """The largest that is not null; null when nothing is. A row whose value is NaN or infinite is given up."""
    return Aggregation("max", value)
