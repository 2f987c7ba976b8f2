"""The fluent way to write a `FlowSpec`: every call returns a new flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar

import msgspec

from penstock.errors import ConfigError
from penstock.flow.aggregates import Aggregation
from penstock.flow.spec import Aggregate, Filter, FlatMap, FlowSpec, LookupJoin, Map, Operator, Select, WithColumns

if TYPE_CHECKING:
    import polars as pl

FrameFunction = Callable[["pl.DataFrame"], "pl.DataFrame"]


class Flow:
    """A flow under construction; `spec` is what it says so far. Immutable: branches may share a beginning.

    A subclass that must know of every change overrides `_with`, and of a `by` that waits for its `agg` `_grouped`.
    """

    def __init__(self, spec: FlowSpec) -> None:
        self.spec = spec

    def _with(self, spec: FlowSpec) -> Self:
        return type(self)(spec)

    def _grouped(self, keys: tuple[str, ...]) -> None:
        """Grouped by these columns, and not aggregated yet."""

    def _then(self, operator: Operator) -> Self:
        if self.spec.aggregate is not None:
            msg = "an operator after by(…).agg(…): put it before, or make a second flow on this flow's output topic"
            raise ConfigError(msg, path=f"flows.{self.spec.name}")
        return self._with(msgspec.structs.replace(self.spec, operators=(*self.spec.operators, operator)))

    def filter(self, predicate: pl.Expr) -> Self:
        """Keep the rows for which the row-wise expression is true."""
        return self._then(Filter(predicate))

    def with_columns(self, *exprs: pl.Expr, **named: pl.Expr) -> Self:
        """Add or replace columns by row-wise expressions; a keyword names its column."""
        return self._then(WithColumns((*exprs, *(_named(expr, name) for name, expr in named.items()))))

    def select(self, *exprs: pl.Expr | str, **named: pl.Expr | str) -> Self:
        """Exactly these columns, in this order; a keyword names its column."""
        import polars as pl  # noqa: PLC0415 - declaring a flow without column names needs no Polars

        unnamed = [pl.col(expr) if isinstance(expr, str) else expr for expr in exprs]
        aliased = [_named(pl.col(e) if isinstance(e, str) else e, name) for name, e in named.items()]
        return self._then(Select((*unnamed, *aliased)))

    def map(self, fn: FrameFunction) -> Self:
        """A function from frame to frame (see `spec.Map` for what it must keep to)."""
        return self._then(Map(fn))

    def flat_map(self, fn: FrameFunction) -> Self:
        """As `map`, for functions that change the number of rows."""
        return self._then(FlatMap(fn))

    def join(self, table: pl.DataFrame, on: str | Sequence[str], *, how: Literal["left", "inner"] = "left") -> Self:
        """Add the columns of a static table that has at most one row per key."""
        columns = (on,) if isinstance(on, str) or not isinstance(on, Sequence) else tuple(on)  # pyright: ignore[reportUnnecessaryIsInstance]
        self._check_names(columns, "join", "join(table, on='carrier')")
        return self._then(LookupJoin(table, columns, how))

    def by(self, *keys: str) -> Grouped[Self]:
        """Group by columns; `agg` says what is kept of each group."""
        if not keys:
            msg = "by() without a column: name at least one, such as by('carrier')"
            raise ConfigError(msg, path=f"flows.{self.spec.name}")
        self._check_names(keys, "by", "by('carrier', 'origin'); compute a column first: with_columns(…)")
        self._grouped(keys)
        return Grouped(self, keys)

    def _check_names(self, columns: tuple[object, ...], operator: str, example: str) -> None:
        for column in columns:
            if not isinstance(column, str):
                msg = f"found {type(column).__name__}; expected names of columns, such as {example}"
                raise ConfigError(msg, path=f"flows.{self.spec.name}.{operator}")

    def aggregate(self, aggregate: Aggregate) -> Self:
        """End the flow with this aggregate; `by(…).agg(…)` is the way to write it."""
        if self.spec.aggregate is not None:
            msg = "a second aggregate: make a second flow on this flow's output topic"
            raise ConfigError(msg, path=f"flows.{self.spec.name}")
        return self._with(msgspec.structs.replace(self.spec, aggregate=aggregate))

    def to(self, output: Any) -> Self:
        """Send the results to a sink or a topic too."""
        return self._with(msgspec.structs.replace(self.spec, outputs=(*self.spec.outputs, output)))


def _named(expr: pl.Expr, name: str) -> pl.Expr:
    """The expression under this name; what is no expression stays as it is, and is refused with its operator."""
    return expr.alias(name) if hasattr(expr, "alias") else expr


F = TypeVar("F", bound=Flow)


class Grouped(Generic[F]):
    """A grouped flow that waits for its aggregates."""

    def __init__(self, flow: F, keys: tuple[str, ...]) -> None:
        self._flow = flow
        self._keys = keys

    def agg(self, **named: Aggregation) -> F:
        """Keep these aggregates of every group, updated by every step; the keyword names the output column.

        Raises:
            ConfigError: none given, or something that is not one of `count sum mean min_ max_`.
        """
        path = f"flows.{self._flow.spec.name}.agg"
        if not named:
            msg = "agg() without an aggregate: give at least one, such as agg(flights=count())"
            raise ConfigError(msg, path=path)
        for name, aggregation in named.items():
            if not isinstance(aggregation, Aggregation):  # pyright: ignore[reportUnnecessaryIsInstance]
                msg = f"found {type(aggregation).__name__}; expected count(), sum(…), mean(…), min_(…) or max_(…)"
                raise ConfigError(msg, path=f"{path}.{name}")
        return self._flow.aggregate(Aggregate(self._keys, tuple(named.items())))
