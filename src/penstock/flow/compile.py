"""From a flow's description to what the engine runs: stages, their output types, and errors before the start."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import cast

import msgspec
import polars as pl
import pyarrow as pa
from polars.exceptions import PolarsError

from penstock.errors import ConfigError, PenstockError
from penstock.flow.aggregates import Aggregation
from penstock.flow.frames import plain_schema
from penstock.flow.logic import Merge, Partial, Stateless, first_line, is_lazy
from penstock.flow.reduce import DECIMAL_DIGITS, Layout, Part, Term
from penstock.flow.spec import (
    OFFSET,
    Filter,
    FlatMap,
    FlowSpec,
    LookupJoin,
    Map,
    Operator,
    Select,
    WithColumns,
    label,
)


class Stage(msgspec.Struct, frozen=True, eq=False):
    """One consumer group's work: read `topic`, put out `schema` partitioned by `keys`.

    `reads` names the only columns of the topic that matter (for `from_batch`), None when all may.

    `into` is the internal topic this stage writes, None for the stage that makes the flow's results. `name` is the
    group's name. A stage with a `layout_in` keeps state: one `Merge` per partition, from `new_merge`.
    """

    name: str
    topic: str
    into: str | None
    schema: pa.Schema
    keys: tuple[str, ...]
    stateless: Stateless | None = None
    partial: Partial | None = None
    layout_in: Layout | None = None
    reads: tuple[str, ...] | None = None

    @property
    def keeps_state(self) -> bool:
        """Whether this stage needs a `Merge` per partition."""
        return self.layout_in is not None

    def rows(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The part without memory: operators, then the partial aggregate, whichever there are. Pure."""
        if self.stateless is not None:
            frame = self.stateless.apply(frame)
        return frame if self.partial is None else self.partial.apply(frame)

    def new_merge(self) -> Merge:
        """Empty state for one partition.

        Raises:
            ValueError: this stage keeps no state.
        """
        if self.layout_in is None:
            msg = f"stage {self.name} keeps no state"
            raise ValueError(msg)
        return Merge(self.layout_in, flow=self.name)


class Plan(msgspec.Struct, frozen=True, eq=False):
    """A flow as stages, in order: one, or two with an internal topic between them."""

    spec: FlowSpec
    stages: tuple[Stage, ...]

    @property
    def schema(self) -> pa.Schema:
        """The columns of the flow's results."""
        return self.stages[-1].schema

    @property
    def keys(self) -> tuple[str, ...]:
        """The columns that make a result's key; empty when results have none but their input's."""
        return self.stages[-1].keys


def compile_flow(spec: FlowSpec, input_schema: pa.Schema, input_key: str | None) -> Plan:
    """Check a flow against its topic's columns and say what is to be run.

    Args:
        spec: the flow.
        input_schema: the topic's Arrow schema.
        input_key: the field by whose value the topic is partitioned, None when it has none.

    Raises:
        ConfigError: an operator does not fit its columns; operator and column are named.
    """
    path = f"flows.{spec.name}"
    frame = cast("pl.DataFrame", pl.from_arrow(input_schema.empty_table()))
    if OFFSET in frame.columns:
        msg = f"topic {spec.topic} has a field {OFFSET}; that name is kept for Penstock: rename the field"
        raise ConfigError(msg, path=path)
    stateless = Stateless(spec.name, spec.operators)
    reads = _reads(spec, frame.columns)
    for index, operator in enumerate(spec.operators):
        frame = _learned(stateless, index, operator, frame=frame, path=path)
    kept = input_key if input_key and _keeps(spec.operators, input_key) else None
    aggregate = spec.aggregate
    if aggregate is None:
        schema = _typed(frame, path)
        keys = (kept,) if kept in frame.columns else ()
        keys = cast("tuple[str, ...]", keys)
        stage = Stage(spec.name, spec.topic, None, schema, keys, stateless=stateless, reads=reads)
        return Plan(spec, (stage,))
    layout = layout_of(aggregate.keys, aggregate.aggs, frame, path=path)
    partial = Partial(layout, flow=spec.name)
    partials = partial.apply(frame)
    results = _typed(layout.finals(partials), path)
    # All rows of a group are in one partition already when the group's keys include what the topic is partitioned by.
    if kept is not None and kept in aggregate.keys:
        one = Stage(
            spec.name,
            spec.topic,
            None,
            results,
            aggregate.keys,
            stateless=stateless,
            partial=partial,
            layout_in=layout,
            reads=reads,
        )
        return Plan(spec, (one,))
    between = f"{spec.name}.partials"
    first = Stage(
        between,
        spec.topic,
        between,
        plain_schema(partials),
        aggregate.keys,
        stateless=stateless,
        partial=partial,
        reads=reads,
    )
    return Plan(spec, (first, Stage(spec.name, between, None, results, aggregate.keys, layout_in=layout)))


# -- operators -----------------------------------------------------------------------------------------------------


def _learned(stateless: Stateless, index: int, operator: Operator, *, frame: pl.DataFrame, path: str) -> pl.DataFrame:
    """The operator's columns, by running it over none of them."""
    where = f"{path}, {label(index, operator)}"
    if isinstance(operator, LookupJoin):
        _check_lookup(operator, frame, where)
    for expr in _expressions(operator):
        _check_expr(expr, frame, where)
    try:
        out = stateless.one(index, operator, frame)
    except PenstockError as exc:
        raise ConfigError(first_line(exc.__cause__ or exc), path=where) from exc
    except Exception as exc:
        msg = (
            f"{type(exc).__name__}: {exc}. The function is called once with an empty frame of the columns "
            f"{', '.join(frame.columns)}, to learn what it makes of them: it must take one"
        )
        raise ConfigError(msg, path=where) from exc
    if OFFSET in out.columns:
        msg = f"makes a column {OFFSET}; that name is kept for Penstock: take another"
        raise ConfigError(msg, path=where)
    if not out.columns:
        msg = "leaves no column: keep at least one"
        raise ConfigError(msg, path=where)
    if out.height:
        msg = (
            f"makes {out.height} rows of none, so its result depends on where a batch ends: use row-wise expressions, "
            "or by(…).agg(…) for totals"
        )
        raise ConfigError(msg, path=where)
    return out


def _expressions(operator: Operator) -> Sequence[pl.Expr]:
    if isinstance(operator, Filter):
        return (operator.predicate,)
    return operator.exprs if isinstance(operator, WithColumns | Select) else ()


def _check_expr(expr: pl.Expr, frame: pl.DataFrame, where: str) -> None:
    if not isinstance(expr, pl.Expr):  # pyright: ignore[reportUnnecessaryIsInstance]
        msg = f"found {type(expr).__name__}; expected a Polars expression such as pl.col('delay_min') > 0"
        raise ConfigError(msg, path=where)
    _check_columns(_roots(expr), frame, where)
    if any(_crosses_rows(node) for node in _nodes(expr)):
        msg = (
            f"{expr} looks at more than one row, so its result depends on where a batch ends: use row-wise expressions "
            "(parsing of times needs its format), or by(…).agg(…) for totals"
        )
        raise ConfigError(msg, path=where)
    if _changes_length(expr):
        msg = f"{expr} changes the number of rows: use filter, or flat_map with a function"
        raise ConfigError(msg, path=where)


def _reads(spec: FlowSpec, columns: Sequence[str]) -> tuple[str, ...] | None:
    """The input columns that anything looks at; None when that cannot be told, or all go through."""
    used = set[str]()
    for operator in spec.operators:
        if not is_lazy(operator):
            return None
        used.update(operator.on if isinstance(operator, LookupJoin) else ())
        used.update(root for expr in _expressions(operator) for root in _roots(expr))
        if isinstance(operator, Select):
            break
    else:
        if spec.aggregate is None:
            return None
        used.update(spec.aggregate.keys)
        values = [agg.value for _, agg in spec.aggregate.aggs if agg.value is not None]
        if not all(isinstance(value, str) or is_lazy(Select((value,))) for value in values):
            return None
        used.update(r for v in values for r in ([v] if isinstance(v, str) else _roots(v)))
    return tuple(name for name in columns if name in used)


def _roots(expr: pl.Expr) -> list[str]:
    try:
        return [r for r in expr.meta.root_names() if r != "*" and not r.startswith("^")]
    except PolarsError:
        return []


def _nodes(expr: pl.Expr) -> Iterator[pl.Expr]:
    waiting = [expr]
    while waiting:
        node = waiting.pop()
        yield node
        try:
            waiting += node.meta.pop()
        except PolarsError:
            continue


def _crosses_rows(expr: pl.Expr) -> bool:
    """Whether Polars says so; what it cannot tell (Python functions in an expression) is the author's promise."""
    try:
        return not expr.meta.is_literal(allow_aliasing=True) and not expr.meta.is_row_separable()
    except (AttributeError, PolarsError):
        return False


def _changes_length(expr: pl.Expr) -> bool:
    try:
        return not (expr.meta.is_length_preserving() or expr.meta.is_scalar())
    except (AttributeError, PolarsError):
        return False


def _check_columns(names: Iterable[str], frame: pl.DataFrame, where: str) -> None:
    for name in names:
        if name not in frame.columns:
            close = get_close_matches(name, frame.columns, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(close)}?" if close else "check the name"
            msg = f"no column {name}; the columns here are {', '.join(frame.columns)}: {hint}"
            raise ConfigError(msg, path=where)


def _check_lookup(operator: LookupJoin, frame: pl.DataFrame, where: str) -> None:
    if not isinstance(operator.table, pl.DataFrame):  # pyright: ignore[reportUnnecessaryIsInstance]
        found = type(operator.table).__name__
        msg = f"found {found} as the lookup table; expected a polars DataFrame (of a LazyFrame: .collect() it)"
        raise ConfigError(msg, path=where)
    if operator.how not in ("left", "inner"):
        msg = f"how={operator.how!r}; expected 'left' (keeps rows without a match) or 'inner' (drops them)"
        raise ConfigError(msg, path=where)
    _check_columns(operator.on, frame, where)
    _check_columns(operator.on, operator.table, f"{where}, lookup table")
    for name in operator.on:
        found, expected = operator.table.schema[name], frame.schema[name]
        if found != expected:
            msg = f"column {name} is {found} in the lookup table and {expected} here: cast the table's column"
            raise ConfigError(msg, path=where)
    clash = [c for c in operator.table.columns if c in frame.columns and c not in operator.on]
    if clash:
        msg = f"the lookup table's column {clash[0]} is here already: rename or drop it in the table"
        raise ConfigError(msg, path=where)
    keys = operator.table.select(operator.on)
    twice = keys.filter(keys.is_duplicated())
    if twice.height:
        msg = (
            f"the lookup table has more than one row for {', '.join(operator.on)} = {twice.row(0)}; expected one row "
            "per key: make it unique"
        )
        raise ConfigError(msg, path=where)


def _keeps(operators: Sequence[Operator], key: str) -> bool:
    """Whether the column still holds what the topic was partitioned by; a function may have changed anything."""
    return all(_keeps_one(operator, key) for operator in operators)


def _keeps_one(operator: Operator, key: str) -> bool:
    match operator:
        case Map() | FlatMap():
            return False
        case WithColumns(exprs=exprs):
            return not any(_may_make(expr, key) for expr in exprs)
        case Select(exprs=exprs):
            makers = [expr for expr in exprs if _may_make(expr, key)]
            return bool(makers) and all(expr.meta.eq(pl.col(key)) for expr in makers)
        case _:
            return True


def _may_make(expr: pl.Expr, column: str) -> bool:
    try:
        return expr.meta.has_multiple_outputs() or expr.meta.output_name() == column
    except PolarsError:
        return True


def _typed(frame: pl.DataFrame, path: str) -> pa.Schema:
    schema = plain_schema(frame)
    for field in schema:
        if pa.types.is_null(field.type):
            msg = f"column {field.name} has no type: cast it, as in pl.lit(None, dtype=pl.Int64)"
            raise ConfigError(msg, path=path)
    return schema


# -- aggregates ----------------------------------------------------------------------------------------------------


def layout_of(
    keys: tuple[str, ...], aggs: Sequence[tuple[str, Aggregation]], frame: pl.DataFrame, *, path: str = ""
) -> Layout:
    """Take the aggregates apart, with the types that `frame` (empty) has.

    Raises:
        ConfigError: a column is missing, a name is taken, or a type cannot be grouped by or aggregated.
    """
    where = f"{path}.by"
    _check_columns(keys, frame, where)
    if len(set(keys)) != len(keys):
        msg = f"a column twice in by({', '.join(keys)}): name it once"
        raise ConfigError(msg, path=where)
    exprs = tuple(_key_expr(key, frame.schema[key], where) for key in keys)
    terms = tuple(_term(name, agg, frame, f"{path}.agg.{name}") for name, agg in aggs)
    for name in (OFFSET, *keys):
        if any(name == term.name for term in terms):
            msg = f"the aggregate {name} has the name of {'a group column' if name in keys else 'a hidden column'}"
            raise ConfigError(f"{msg}: take another", path=f"{path}.agg.{name}")
    return Layout(keys, exprs, frame.select(exprs).schema, terms)


def _key_expr(name: str, kind: pl.DataType, where: str) -> pl.Expr:
    column = pl.col(name)
    if isinstance(kind, pl.Categorical | pl.Enum):
        return column.cast(pl.String)
    if (kind.is_integer() and not isinstance(kind, pl.Int128 | pl.UInt64)) or kind.is_temporal() or kind.is_decimal():
        return column
    if isinstance(kind, pl.String | pl.Boolean | pl.Binary):
        return column
    way = "round or cast it to a whole number first" if kind.is_float() else "group by text, numbers, dates or times"
    msg = f"column {name} is {kind}, which cannot be grouped by reliably: {way}"
    raise ConfigError(msg, path=where)


def _term(name: str, agg: Aggregation, frame: pl.DataFrame, where: str) -> Term:
    if agg.value is None:
        return Term(name, agg.kind, None, (Part(f"{name}.count", "add", pl.Int64()),))
    value = pl.col(agg.value) if isinstance(agg.value, str) else agg.value
    _check_expr(value, frame, where)
    try:
        kinds = frame.select(value).dtypes
    except PolarsError as exc:
        raise ConfigError(first_line(exc), path=where) from exc
    if len(kinds) != 1:
        msg = f"{agg.kind} of {len(kinds)} columns; expected one expression with one result"
        raise ConfigError(msg, path=where)
    # A literal has one row: `with_columns` semantics, so that it counts once per event.
    value = value if _roots(value) else pl.repeat(value, pl.len())
    counted = Part(f"{name}.count", "add", pl.Int64())
    if agg.kind == "count":
        return Term(name, agg.kind, value, (counted,))
    if agg.kind in ("sum", "mean"):
        kind = _addable(agg, kinds[0], where)
        return Term(name, agg.kind, value.cast(kind), (Part(f"{name}.sum", "add", kind), counted))
    how = "min" if agg.kind == "min" else "max"
    kind = _orderable(agg, kinds[0], where)
    return Term(name, agg.kind, value.cast(kind), (Part(f"{name}.{how}", how, kind),))


def _addable(agg: Aggregation, kind: pl.DataType, where: str) -> pl.DataType:
    if kind.is_float():
        return pl.Float64()
    if isinstance(kind, pl.Decimal):
        return pl.Decimal(DECIMAL_DIGITS, kind.scale)
    if kind.is_integer() or kind == pl.Boolean:
        return pl.Int64()
    way = "use .dt.total_microseconds()" if kind == pl.Duration else "cast it"
    msg = f"{agg.kind} of {kind}; expected a number: {way}"
    raise ConfigError(msg, path=where)


def _orderable(agg: Aggregation, kind: pl.DataType, where: str) -> pl.DataType:
    if isinstance(kind, pl.Categorical | pl.Enum):
        return pl.String()
    if (
        (kind.is_numeric() and not isinstance(kind, pl.Int128))
        or kind.is_temporal()
        or isinstance(kind, pl.String | pl.Boolean)
    ):
        return kind
    msg = f"{agg.kind} of {kind}; expected a number, text, a truth value, a date or a time: cast it"
    raise ConfigError(msg, path=where)
