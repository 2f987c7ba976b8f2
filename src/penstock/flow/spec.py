"""The immutable, typed description of a flow: operators in order, at most one aggregate at the end, and outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from penstock.flow.aggregates import Aggregation

if TYPE_CHECKING:
    import polars as pl

OFFSET = "_offset"
"""The hidden column that says which input event a row came from; never part of a flow's output type."""


class Filter(msgspec.Struct, frozen=True, eq=False):
    """Keep the rows for which the row-wise expression is true (null counts as false, as in SQL)."""

    predicate: pl.Expr


class WithColumns(msgspec.Struct, frozen=True, eq=False):
    """Add or replace columns by row-wise expressions."""

    exprs: tuple[pl.Expr, ...]


class Select(msgspec.Struct, frozen=True, eq=False):
    """Exactly these columns, in this order."""

    exprs: tuple[pl.Expr, ...]


class Map(msgspec.Struct, frozen=True, eq=False):
    """A function from frame to frame: a batch handler.

    It is called with one non-empty frame of one partition at a time, and once with an empty one to learn its columns.
    Its result must not depend on where a batch ends. The hidden column `_offset`, when there, is an ordinary column
    of the frame: rows keep their origin for as long as the function keeps the column.
    """

    fn: Callable[[pl.DataFrame], pl.DataFrame]


class FlatMap(msgspec.Struct, frozen=True, eq=False):
    """As `Map`; says to the reader that the number of rows changes."""

    fn: Callable[[pl.DataFrame], pl.DataFrame]


class LookupJoin(msgspec.Struct, frozen=True, eq=False):
    """Add the columns of a static table that has at most one row per key; `left` keeps rows without a match."""

    table: pl.DataFrame
    on: tuple[str, ...]
    how: Literal["left", "inner"] = "left"


Operator = Filter | WithColumns | Select | Map | FlatMap | LookupJoin


class Aggregate(msgspec.Struct, frozen=True, eq=False):
    """A running aggregate: one row per group, updated by every step. `aggs` are (output column, aggregation)."""

    keys: tuple[str, ...]
    aggs: tuple[tuple[str, Aggregation], ...]


class FlowSpec(msgspec.Struct, frozen=True, eq=False):
    """A named flow over one topic. The name is its identity: its consumer group, its state, its internal topic.

    `outputs` are sinks or topics, opaque here.
    """

    name: str
    topic: str
    operators: tuple[Operator, ...] = ()
    aggregate: Aggregate | None = None
    outputs: tuple[Any, ...] = ()


def label(index: int, operator: Operator) -> str:
    """How messages name an operator: its place (from 1) and kind, and the function's name where it has one."""
    kind = {
        Filter: "filter",
        WithColumns: "with_columns",
        Select: "select",
        Map: "map",
        FlatMap: "flat_map",
        LookupJoin: "join",
    }[type(operator)]
    if isinstance(operator, Map | FlatMap):
        kind += f"({getattr(operator.fn, '__name__', type(operator.fn).__name__)})"
    return f"operator {index + 1}, {kind}"
