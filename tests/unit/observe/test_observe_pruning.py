"""What a filter needs: never less than the rows it keeps, and for plain ranges no more."""

from __future__ import annotations

from functools import reduce
from operator import and_, or_
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.observe.pruning import INT64_MAX, INT64_MIN, Possible, columns_of

TIME = pa.timestamp("us", "UTC")
SCHEMA: pa.Schema = pa.schema(
    [("n", pa.int64()), ("t", TIME), ("s", pa.string()), ("p", pa.struct([("x", pa.int64())]))]
)
T = ds.field("t")


def at(us: int) -> pa.Scalar:
    return pa.scalar(us, pa.int64()).cast(TIME)


@pytest.mark.parametrize(
    ("expression", "span"),
    [
        (at(5) < T, (6, INT64_MAX)),
        ((at(5) <= T) & (at(9) > T), (5, 8)),
        (at(7) == T, (7, 7)),
        (T.isin([at(3).as_py(), at(8).as_py()]), (3, 8)),
        (~(at(5) >= T), (6, INT64_MAX)),
        ((ds.field("s") == "x") & (at(9) >= T), (INT64_MIN, 9)),
        ((ds.field("s") == "x") | (at(9) >= T), (INT64_MIN, INT64_MAX)),
        (T.is_null() | (at(5) < T), (INT64_MIN, INT64_MAX)),
        (T.is_valid() & (at(5) < T), (6, INT64_MAX)),
    ],
)
def test_ranges(expression: ds.Expression, span: tuple[int, int]) -> None:
    """Known shapes have their exact range; rows whose time is null are never left out where they match."""
    assert Possible(expression, SCHEMA, "t").span(INT64_MIN, INT64_MAX) == span


def test_nothing_can_match() -> None:
    assert Possible(at(10) < T, SCHEMA, "t").span(0, 10) is None


def test_columns_that_are_read() -> None:
    """Also those inside a struct, each once, in the schema's order."""
    nested = ds.field("p", "x") == 3
    assert columns_of(nested & (ds.field("s") == "a") & (ds.field("s") != "b"), SCHEMA) == ["s", "p"]


def test_an_unknown_column_is_refused() -> None:
    with pytest.raises(pa.ArrowInvalid, match="nowhere"):
        columns_of(ds.field("nowhere") == 1, SCHEMA)


TIMES = st.integers(-5, 25)


def comparisons() -> st.SearchStrategy[ds.Expression]:
    """Small filters over the time and the number."""
    operators: list[Any] = [
        lambda f, v: f > v,
        lambda f, v: f >= v,
        lambda f, v: f < v,
        lambda f, v: f <= v,
        lambda f, v: f == v,
        lambda f, v: f != v,
        lambda f, v: v > f,
        lambda f, _: f.is_null(),
        lambda f, _: f.is_valid(),
        lambda f, v: f.isin([v.as_py()]),
    ]
    timed = st.builds(lambda op, v: op(T, at(v)), st.sampled_from(operators), TIMES)
    other = st.builds(lambda op, v: op(ds.field("n"), pa.scalar(v)), st.sampled_from(operators), TIMES)
    leaf = timed | other
    return st.recursive(
        leaf,
        lambda inner: (
            st.builds(lambda parts: reduce(and_, parts), st.lists(inner, min_size=2, max_size=3))
            | st.builds(lambda parts: reduce(or_, parts), st.lists(inner, min_size=2, max_size=3))
            | st.builds(lambda one: ~one, inner)
        ),
        max_leaves=6,
    )


@given(comparisons(), st.lists(st.tuples(st.none() | TIMES, st.none() | TIMES), max_size=20))
def test_no_matching_row_lies_outside(expression: ds.Expression, rows: list[tuple[int | None, int | None]]) -> None:
    """Whatever the filter: rows it keeps are in the range, and none are kept where nothing can match."""
    rows = [*rows, *((n, None) for n in (None, -5, 0, 12, 25))]
    table = pa.table(
        {"n": pa.array([n for n, _ in rows], pa.int64()), "t": pa.array([t for _, t in rows], pa.int64()).cast(TIME)}
    )
    kept = table.filter(expression).column("t").cast(pa.int64()).to_pylist()
    span = Possible(expression, SCHEMA, "t").span(INT64_MIN, INT64_MAX)
    if span is None:
        assert kept == []
        return
    for time in kept:
        if time is None:
            assert span == (INT64_MIN, INT64_MAX), "a row without a time matches: no range may leave blocks out"
        else:
            assert span[0] <= time <= span[1]
