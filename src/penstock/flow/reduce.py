"""How aggregates are computed: a partial row per group, added up in any grouping, then finished.

Delivery guarantee: none of its own; exact over what it is given. The parts form a commutative monoid (float addition
up to rounding), so partial rows of any split of the input merge to the batch result.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Literal, cast
from zlib import crc32

import msgspec
import polars as pl
from polars.exceptions import PolarsError

from penstock.errors import PermanentError
from penstock.flow.aggregates import Kind

INT_MIN, INT_MAX = -(2**63), 2**63 - 1
DECIMAL_DIGITS = 38


class Part(msgspec.Struct, frozen=True, eq=False):
    """One column of a partial row, and how two of them become one."""

    column: str
    how: Literal["add", "min", "max"]
    dtype: pl.DataType


class Term(msgspec.Struct, frozen=True, eq=False):
    """One aggregate, taken apart. `value` is the row-wise input, already of the parts' type; None counts rows."""

    name: str
    kind: Kind
    value: pl.Expr | None
    parts: tuple[Part, ...]

    def columns(self) -> list[str]:
        """The columns that it is computed from."""
        try:
            return [] if self.value is None else sorted(set(self.value.meta.root_names()))
        except PolarsError:  # an expression over "all columns" names none
            return []

    def first(self) -> list[pl.Expr]:
        """From values (a column of this term's name) to parts, within a group."""
        if self.value is None:
            return [pl.len().cast(pl.Int64).alias(self.parts[0].column)]
        value = pl.col(self.name)
        made = {"sum": value.sum(), "count": value.count().cast(pl.Int64), "min": value.min(), "max": value.max()}
        return [made[part.column.rpartition(".")[2]].alias(part.column) for part in self.parts]

    def final(self) -> pl.Expr:
        """From parts to the result."""
        head = pl.col(self.parts[0].column)
        if self.kind in ("sum", "mean"):
            counted = pl.col(self.parts[1].column)
            whole = head if self.kind == "sum" else head.cast(pl.Float64) / counted
            head = pl.when(counted > 0).then(whole)
        return head.alias(self.name)


class Layout(msgspec.Struct, frozen=True, eq=False):
    """The columns of a flow's partial rows: group keys (with casts that make them storable), then every term's parts.

    `final` and `partial` are the schemas of results and of partial rows.
    """

    keys: tuple[str, ...]
    key_exprs: tuple[pl.Expr, ...]
    key_schema: pl.Schema
    terms: tuple[Term, ...]

    @property
    def parts(self) -> tuple[Part, ...]:
        """Every term's parts, in order."""
        return tuple(part for term in self.terms for part in term.parts)

    @property
    def part_schema(self) -> pl.Schema:
        """The types of the parts."""
        return pl.Schema([(part.column, part.dtype) for part in self.parts])

    @property
    def tag(self) -> int:
        """A checksum over names, types, kinds and the columns that are aggregated.

        State with another tag belongs to another declaration. What an expression does with its columns is not in it:
        Polars writes that otherwise from version to version.
        """
        return crc32(repr((self.tag_before, [term.columns() for term in self.terms])).encode())

    @property
    def tag_before(self) -> int:
        """The tag as it was without the columns: state that is older may have it."""
        text = [(k, str(t)) for k, t in self.key_schema.items()]
        text += [(t.name, t.kind, [(p.column, p.how, str(p.dtype)) for p in t.parts]) for t in self.terms]
        return crc32(repr(text).encode())

    def finals(self, partials: pl.DataFrame) -> pl.DataFrame:
        """Results of partial rows, in their order."""
        return partials.select(*self.keys, *(term.final() for term in self.terms))


def summarise(layout: Layout, frame: pl.DataFrame) -> pl.DataFrame:
    """One partial row per group of the events in `frame`, sorted by keys (null first).

    Raises:
        PermanentError: an integer sum is beyond 64 bits, or a decimal one beyond 38 digits; a value is not finite.
    """
    values = [term.value.alias(term.name) for term in layout.terms if term.value is not None]
    # A group key and a result may share a name only in the declaration, which `layout_of` refuses.
    rows = frame.select(*layout.key_exprs, *values)
    _check_finite(layout, rows)
    added = [term.name for term in layout.terms if term.kind in ("sum", "mean")]
    return _grouped(layout, rows, added, [e for term in layout.terms for e in term.first()])


def _check_finite(layout: Layout, rows: pl.DataFrame) -> None:
    """Refuse values that some aggregates would hide and others show, depending on what else is in the frame."""
    for term in layout.terms:
        if term.kind == "count" or not rows[term.name].dtype.is_float():
            continue
        if not rows[term.name].is_finite().all():
            msg = f"a value of the {term.kind} {term.name} is NaN or an infinity: filter such rows, or fill_nan them"
            raise PermanentError(msg)


def combine(layout: Layout, partials: pl.DataFrame) -> pl.DataFrame:
    """Partial rows, several per group, as one per group, sorted by keys.

    Raises:
        PermanentError: as `summarise`.
    """
    added = [part.column for part in layout.parts if part.how == "add"]
    made = {"add": pl.Expr.sum, "min": pl.Expr.min, "max": pl.Expr.max}
    return _grouped(layout, partials, added, [made[p.how](pl.col(p.column)) for p in layout.parts])


def _grouped(layout: Layout, rows: pl.DataFrame, added: Sequence[str], exprs: Sequence[pl.Expr]) -> pl.DataFrame:
    wide = [pl.col(name).cast(pl.Int128) for name in added if _may_overflow(rows[name])]
    # maintain_order: additions within a group then happen in row order, however many threads there are.
    grouped = rows.with_columns(wide).group_by(layout.keys, maintain_order=True).agg(*exprs).sort(layout.keys)
    return _narrowed(layout, grouped)


def merged(layout: Layout, states: pl.DataFrame, partials: pl.DataFrame) -> pl.DataFrame:
    """Row by row, the state (all null where there is none) plus the partial; with the partials' keys and order.

    Raises:
        PermanentError: as `summarise`.
    """
    both = partials.hstack(states.rename(lambda name: f"{name}?"))
    exprs = [_plus(part, both) for part in layout.parts]
    return _narrowed(layout, both.select(*layout.keys, *exprs))


def _plus(part: Part, both: pl.DataFrame) -> pl.Expr:
    new, old = pl.col(part.column), pl.col(f"{part.column}?")
    if part.how == "min":
        return pl.min_horizontal(old, new).alias(part.column)
    if part.how == "max":
        return pl.max_horizontal(old, new).alias(part.column)
    if _may_overflow(both[part.column], both[f"{part.column}?"]):
        new, old = new.cast(pl.Int128), old.cast(pl.Int128)
    return pl.when(old.is_null()).then(new).otherwise(old + new).alias(part.column)


def _may_overflow(*columns: pl.Series) -> bool:
    """Whether any sum over the columns' values could leave 64 bits; a cheap bound, exact only when it says no.

    Raises:
        PermanentError: the same bound says that a decimal sum could need more than 38 digits.
    """
    kind = columns[0].dtype
    if not (kind.is_integer() or kind.is_decimal()):
        return False
    # One column is summed over all its rows; of two, each row of one is added to its neighbour.
    rows = columns[0].len() if len(columns) == 1 else len(columns)
    reach = max((_magnitude(column) for column in columns), default=0) * rows
    if isinstance(kind, pl.Decimal):
        limit = 10 ** (DECIMAL_DIGITS - kind.scale)
        if reach >= limit:
            msg = (
                f"{columns[0].name}: a sum of decimals may need more than {DECIMAL_DIGITS} digits; use a smaller scale"
            )
            raise PermanentError(msg)
        return False
    return reach > INT_MAX


def _magnitude(column: pl.Series) -> int | Decimal:
    low, high = cast("Any", column.min()), cast("Any", column.max())
    return 0 if low is None else max(abs(low), abs(high))


def _narrowed(layout: Layout, frame: pl.DataFrame) -> pl.DataFrame:
    wide = [name for name, kind in frame.schema.items() if kind == pl.Int128]
    for name in wide:
        beyond = frame.filter((pl.col(name) < INT_MIN) | (pl.col(name) > INT_MAX))
        if beyond.height:
            group = ", ".join(f"{key}={beyond[key][0]!r}" for key in layout.keys)
            msg = (
                f"the sum {name.rpartition('.')[0]} of group {group} is {beyond[name][0]}: beyond 64 bits; aggregate "
                "a smaller unit or a Float64 cast of the column"
            )
            raise PermanentError(msg)
    return frame.with_columns(pl.col(wide).cast(pl.Int64)) if wide else frame
