"""The working side of a flow: pure operators from frame to frame, and the keyed state of a running aggregate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import msgspec
import polars as pl
from polars.exceptions import PolarsError

from penstock.errors import DeclaredDifferently, PermanentError
from penstock.flow.frames import RowCodec
from penstock.flow.reduce import Layout, combine, merged, summarise
from penstock.flow.spec import OFFSET, Filter, FlatMap, LookupJoin, Map, Operator, Select, WithColumns, label
from penstock.flow.state import KeyedRows


class Stateless:
    """Operators without memory, in order. Every frame that leaves has its rows in the order of their inputs.

    Delivery guarantee: pure; the same frame gives the same bytes.
    """

    def __init__(self, flow: str, operators: Sequence[Operator]) -> None:
        self._flow = flow
        self._operators = tuple(enumerate(operators))
        # Neighbouring expressions run as one query: columns that nobody needs are then never copied.
        self._runs = [list(run) for _, run in groupby(self._operators, key=lambda item: is_lazy(item[1]))]

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The operators' result. The hidden column `_offset`, when there, goes along last, unless a function drops it.

        Raises:
            PermanentError: an expression cannot be computed over these rows; flow and operator are named.
        """
        for run in self._runs:
            if not is_lazy(run[0][1]):
                for index, operator in run:
                    frame = self.one(index, operator, frame)
                continue
            try:
                frame = _together([operator for _, operator in run], frame)
            except PolarsError:
                for index, operator in run:
                    frame = self.one(index, operator, frame)
        return frame

    def one(self, index: int, operator: Operator, frame: pl.DataFrame) -> pl.DataFrame:
        """One operator alone; errors name it."""
        where = f"flow {self._flow}, {label(index, operator)}"
        if isinstance(operator, Map | FlatMap):
            return _call(operator.fn, frame, where)
        try:
            if is_lazy(operator):
                return _together([operator], frame)
            return _hiding(operator, frame)
        except PolarsError as exc:
            msg = f"{where}: {first_line(exc)}"
            raise PermanentError(msg) from exc


def first_line(exc: BaseException) -> str:
    """What Polars says, without the query plan that it adds."""
    return str(exc).strip().partition("\n")[0]


def _call(fn: Callable[[pl.DataFrame], pl.DataFrame], frame: pl.DataFrame, where: str) -> pl.DataFrame:
    try:
        out = fn(frame)
    except Exception as exc:
        exc.add_note(f"in {where}")
        raise
    if not isinstance(out, pl.DataFrame):  # pyright: ignore[reportUnnecessaryIsInstance]
        msg = f"{where}: returned {type(out).__name__}; expected a polars DataFrame (of a LazyFrame: .collect() it)"
        raise PermanentError(msg)
    return out


def _exprs(operator: Operator) -> tuple[pl.Expr, ...]:
    match operator:
        case Filter(predicate=predicate):
            return (predicate,)
        case WithColumns(exprs=exprs) | Select(exprs=exprs):
            return exprs
        case _:
            return ()


def is_lazy(operator: Operator) -> bool:
    """Whether it names its columns one by one: an expression over "all columns" must not see the hidden one."""
    if isinstance(operator, Map | FlatMap):
        return False
    for expr in _exprs(operator):
        if not isinstance(expr, pl.Expr):  # pyright: ignore[reportUnnecessaryIsInstance]
            return False  # `compile` says so
        try:
            if expr.meta.has_multiple_outputs() or any(r == "*" or r[:1] == "^" for r in expr.meta.root_names()):
                return False
        except PolarsError:
            return False
    return True


def _together(operators: Sequence[Operator], frame: pl.DataFrame) -> pl.DataFrame:
    hidden = [pl.col(OFFSET)] if OFFSET in frame.columns else []
    query = frame.lazy()
    for operator in operators:
        query = _expressed(operator, query, hidden)
    if hidden:
        query = query.select(pl.exclude(OFFSET), *hidden)
    return query.collect(engine="in-memory")


def _expressed(operator: Operator, query: pl.LazyFrame, hidden: Sequence[pl.Expr]) -> pl.LazyFrame:
    match operator:
        case Filter(predicate=predicate):
            return query.filter(predicate)
        case WithColumns(exprs=exprs):
            return query.with_columns(exprs)
        case Select(exprs=exprs):
            return query.select(*exprs, *hidden)
        case LookupJoin(table=table, on=on, how=how):
            return query.join(table.lazy(), on=list(on), how=how, maintain_order="left")
        case _:
            msg = f"not an expression: {operator}"
            raise ValueError(msg)


def _hiding(operator: Operator, frame: pl.DataFrame) -> pl.DataFrame:
    """An operator over "all columns", which must not see the hidden one."""
    if OFFSET not in frame.columns:
        return _together([operator], frame)
    offsets = frame[OFFSET]
    seen = frame.drop(OFFSET)
    if isinstance(operator, Filter):
        return frame.filter(seen.select(operator.predicate).to_series())
    return _together([operator], seen).with_columns(offsets)


class Partial:
    """Events to one partial row per group, sorted by the group's keys (null first). Pure."""

    def __init__(self, layout: Layout, *, flow: str = "") -> None:
        self._layout = layout
        self._flow = flow

    @property
    def tag(self) -> bytes:
        """What the declaration of the aggregate is told by; see `Layout.tag`."""
        return self._layout.tag.to_bytes(4)

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Partial rows of this frame alone.

        Raises:
            PermanentError: an integer sum is beyond 64 bits (aggregate and group are named), or an expression cannot
                be computed over these rows.
        """
        try:
            return summarise(self._layout, frame)
        except PolarsError as exc:
            msg = f"flow {self._flow}, agg: {first_line(exc)}"
            raise PermanentError(msg) from exc


class Merged(msgspec.Struct, frozen=True, eq=False):
    """What a batch of partial rows does to the state; nothing has happened until `Merge.accept`.

    `changed` holds the results of the groups that the batch touched, sorted by key; `delta` the (key, state) entries
    to be committed with the step, in the same order. `rows` is the same as frame, for `accept`.
    """

    changed: pl.DataFrame
    delta: list[tuple[bytes, bytes]]
    rows: pl.DataFrame


class Merge:
    """The running state of one partition's groups.

    `apply` is a function of (state, batch); the state moves on only by `accept`, after the step is committed (or
    before, when the caller restores from the ledger should it fail). Cost follows the groups a batch touches.
    """

    def __init__(self, layout: Layout, *, flow: str = "") -> None:
        self._layout = layout
        self._flow = flow
        self._key_codec = RowCodec(layout.key_schema)
        self._codec = RowCodec(layout.part_schema, (layout.tag,), (layout.tag_before,))
        self._state = KeyedRows(layout.part_schema)

    def __len__(self) -> int:
        return len(self._state)

    def apply(self, partials: pl.DataFrame) -> Merged:
        """Results and delta of these partial rows (any number per group, in any order) on top of the accepted state.

        Raises:
            PermanentError: an integer sum is beyond 64 bits; aggregate and group are named.
        """
        layout = self._layout
        reduced = combine(layout, partials)
        keys = self._key_codec.pack(reduced)
        now = merged(layout, self._state.find(keys), reduced)
        rows = now.select(list(layout.part_schema))
        delta = list(zip(keys, self._codec.pack(rows), strict=True))
        return Merged(layout.finals(now), delta, rows)

    def accept(self, merged: Merged) -> None:
        """The batch's effect is part of the state from now on. Accept in the order of `apply`, or not at all."""
        if merged.delta:
            self._state.put([key for key, _ in merged.delta], merged.rows)

    def restore(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        """Replace the state by these entries (the newest of every key), as committed from `Merged.delta`.

        Raises:
            DeclaredDifferently: they were written by another declaration of this aggregate.
        """
        state = KeyedRows(self._layout.part_schema)
        rows = self._codec.unpack([value for _, value in entries])
        if rows is None:
            msg = (
                f"the state of flow {self._flow} was written by another by(…).agg(…): give the changed flow a new name"
            )
            raise DeclaredDifferently(msg)
        if entries:
            state.put([key for key, _ in entries], rows)
        self._state = state

    def snapshot(self) -> list[tuple[bytes, bytes]]:
        """Every entry, sorted by key bytes: what `restore` takes, and equal for equal states."""
        keys = sorted(self._state.keys())
        return list(zip(keys, self._codec.pack(self._state.find(keys)), strict=True)) if keys else []

    def results(self) -> pl.DataFrame:
        """The results of all groups, sorted by key; for tests and for looking, not for every step."""
        keys = sorted(self._state.keys())
        named = self._key_codec.unpack(keys)
        assert named is not None, "keys carry no prefix"
        return self._layout.finals(named.hstack(self._state.find(keys))).sort(self._layout.keys)
