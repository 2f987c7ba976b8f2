"""Operators: what goes in comes out in order, the hidden offset goes along, and errors name operator and column."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import polars as pl
import pyarrow as pa
import pytest

from penstock.errors import ConfigError, PermanentError, SchemaIncompatible
from penstock.flow import Flow, FlowSpec, LookupJoin, Map, count, max_, min_, sum_
from penstock.flow.compile import Plan, compile_flow
from penstock.flow.frames import from_batch, offsets_of, row_keys, to_batch
from penstock.schema.columns import ColumnsSchema

SCHEMA = pa.schema([("flight", pa.string()), ("carrier", pa.string()), ("delay", pa.int64()), ("ratio", pa.float64())])
BATCH = pa.RecordBatch.from_pydict(
    {
        "flight": ["f1", "f2", "f3", "f4"],
        "carrier": ["UA", "AA", None, "ZZ"],
        "delay": [5, None, -2, 9],
        "ratio": [0.5, 1.5, 2.5, 3.5],
    },
    schema=SCHEMA,
)
AIRLINES = pl.DataFrame({"carrier": ["AA", "UA"], "airline": ["American", "United"]})


def flow() -> Flow:
    return Flow(FlowSpec("f", "t"))


def plan_of(made: Flow, key: str | None = "flight") -> Plan:
    return compile_flow(made.spec, SCHEMA, key)


def run(made: Flow) -> pl.DataFrame:
    return plan_of(made).stages[0].rows(from_batch(BATCH, first=100))


def double(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(delay=pl.col("delay") * 2)


def test_every_operator_in_one_flow() -> None:
    made = (
        flow()
        .filter(pl.col("delay") > 0)
        .with_columns(pl.col("ratio").alias("r"), hours=pl.col("delay") / 60)
        .join(AIRLINES, on="carrier")
        .map(double)
        .flat_map(lambda frame: pl.concat([frame, frame]))
        .select("flight", "airline", twice=pl.col("delay"))
    )
    out = run(made)
    assert out.columns == ["flight", "airline", "twice", "_offset"]
    assert out.rows() == [
        ("f1", "United", 10, 100),
        ("f4", None, 18, 103),
        ("f1", "United", 10, 100),
        ("f4", None, 18, 103),
    ]
    batch = to_batch(out, plan_of(made).schema)
    assert batch.schema == pa.schema([("flight", pa.string()), ("airline", pa.string()), ("twice", pa.int64())])
    assert batch.num_rows == 4


def test_inner_join_drops_and_left_join_keeps_in_input_order() -> None:
    assert run(flow().join(AIRLINES, on="carrier", how="inner"))["_offset"].to_list() == [100, 101]
    assert run(flow().join(AIRLINES, on=["carrier"]))["airline"].to_list() == ["United", "American", None, None]


def test_expressions_over_all_columns_do_not_see_the_hidden_one() -> None:
    out = run(
        flow().with_columns(pl.all().cast(pl.String)).select(pl.all()).filter(pl.all_horizontal(pl.all() != "f1"))
    )
    assert out.columns == ["flight", "carrier", "delay", "ratio", "_offset"]
    assert out["_offset"].dtype == pl.Int64
    assert offsets_of(out) == [103]


def test_offsets_end_where_a_function_drops_them() -> None:
    assert offsets_of(run(flow().map(lambda frame: frame.select("flight")))) is None


def test_a_flow_is_not_changed_by_what_is_built_on_it() -> None:
    base = flow().filter(pl.col("delay") > 0)
    left, right = base.map(double), base.by("carrier").agg(n=count())
    assert len(base.spec.operators) == 1
    assert isinstance(left.spec.operators[1], Map)
    assert right.to("a").to("b").spec.outputs == ("a", "b")
    assert right.spec.outputs == ()


@pytest.mark.parametrize(
    ("made", "keys", "stages"),
    [
        (flow().by("flight").agg(n=count()), ("flight",), 1),
        (flow().by("carrier").agg(n=count()), ("carrier",), 2),
        (flow().by("carrier", "flight").agg(n=count()), ("carrier", "flight"), 1),
        (flow().filter(pl.col("delay") > 0).join(AIRLINES, on="carrier").by("flight").agg(n=count()), ("flight",), 1),
        (flow().with_columns(flight=pl.lit("x")).by("flight").agg(n=count()), ("flight",), 2),
        (flow().with_columns(pl.all()).by("flight").agg(n=count()), ("flight",), 2),
        (flow().select("flight", "delay").by("flight").agg(n=count()), ("flight",), 1),
        (flow().select(flight=pl.col("carrier")).by("flight").agg(n=count()), ("flight",), 2),
        (flow().map(double).by("flight").agg(n=count()), ("flight",), 2),
        (flow().filter(pl.col("delay") > 0), ("flight",), 1),
        (flow().with_columns(flight=pl.lit("x")), (), 1),
        (flow().select("carrier"), (), 1),
    ],
)
def test_stages_and_keys(made: Flow, keys: tuple[str, ...], stages: int) -> None:
    plan = plan_of(made)
    assert (plan.keys, len(plan.stages)) == (keys, stages)
    if stages == 2:
        first, last = plan.stages
        assert (first.into, last.topic, last.into, first.keeps_state, last.keeps_state) == (
            "f.partials",
            "f.partials",
            None,
            False,
            True,
        )
        # What the first stage stores is what the second one reads.
        stored = to_batch(first.rows(from_batch(BATCH)), first.schema)
        merged = last.new_merge().apply(from_batch(stored))
        assert to_batch(merged.changed, plan.schema).num_rows == stored.num_rows


@pytest.mark.parametrize(
    ("made", "reads"),
    [
        (flow().filter(pl.col("delay") > 0), None),
        (flow().filter(pl.col("delay") > 0).select("carrier"), ("carrier", "delay")),
        (flow().select("carrier").with_columns(delay=pl.lit(1)), ("carrier",)),
        (flow().join(AIRLINES, on="carrier").by("airline").agg(n=count(), s=sum_("delay")), ("carrier", "delay")),
        (flow().by("carrier").agg(s=sum_(pl.col("ratio") * 2)), ("carrier", "ratio")),
        (flow().by("carrier").agg(n=count()), ("carrier",)),
        (flow().map(double).select("carrier"), None),
        (flow().select(pl.all()), None),
    ],
)
def test_columns_that_nothing_looks_at_are_not_read(made: Flow, reads: tuple[str, ...] | None) -> None:
    plan = plan_of(made)
    stage = plan.stages[0]
    assert stage.reads == reads
    pruned = stage.rows(from_batch(BATCH, first=100, columns=stage.reads))
    assert pruned.equals(stage.rows(from_batch(BATCH, first=100)))


def fails(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.head(frame["delay"][0])


def grows(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select(pl.len().alias("n"))


WRONG: list[tuple[Callable[[], object], str]] = [
    (
        lambda: flow().filter(pl.col("dellay") > 0),
        r"flows\.f, operator 1, filter: no column dellay; .*did you mean delay",
    ),
    (
        lambda: flow().filter(pl.col("delay") > 0).with_columns(x=pl.col("zzz")),
        r"operator 2, with_columns: no column zzz",
    ),
    (lambda: flow().filter(pl.col("delay")), r"operator 1, filter: .*Boolean"),
    (lambda: flow().filter("delay > 0"), r"operator 1, filter: found str; expected a Polars expression"),  # pyright: ignore
    (lambda: flow().with_columns(x=5), r"operator 1, with_columns: found int; expected a Polars expr"),  # pyright: ignore
    (lambda: flow().select(x=5), r"operator 1, select: found int; expected a Polars expression"),  # pyright: ignore
    (lambda: flow().by("flight").agg(s=sum_(5)), r"flows\.f\.agg\.s: found int; expected a Polars expr"),  # pyright: ignore
    (lambda: flow().join({"carrier": []}, on="carrier"), r"join: found dict as the lookup table"),  # pyright: ignore
    (lambda: flow().join(AIRLINES, on="carrier", how="outer"), r"join: how='outer'; expected 'left'"),  # pyright: ignore
    (lambda: flow().with_columns(x=pl.col("delay").str.len_chars()), r"with_columns: .*expected `String`, got `i64`"),
    (lambda: flow().with_columns(x=pl.col("delay") / pl.col("delay").max()), r"with_columns: .*more than one row"),
    (lambda: flow().with_columns(x=pl.col("delay").cum_sum()), r"with_columns: .*more than one row"),
    (lambda: flow().select(pl.col("delay").drop_nulls()), r"select: .*changes the number of rows"),
    (lambda: flow().select(x=pl.lit(1)), r"select: makes 1 rows of none"),
    (lambda: flow().with_columns(_offset=pl.lit(1)), r"with_columns: makes a column _offset"),
    (lambda: flow().with_columns(x=pl.lit(None)), r"flows\.f: column x has no type"),
    (lambda: flow().select(), r"select: leaves no column"),
    (lambda: flow().map(fails), r"operator 1, map\(fails\): .*called once with an empty frame"),
    (lambda: flow().flat_map(grows), r"operator 1, flat_map\(grows\): makes 1 rows of none"),
    (lambda: flow().map(lambda frame: frame.lazy()), r"map\(<lambda>\): .*returned LazyFrame"),  # pyright: ignore
    (lambda: flow().join(AIRLINES, on="carier"), r"join: no column carier; .*did you mean carrier"),
    (lambda: flow().join(AIRLINES, on="flight"), r"join, lookup table: no column flight"),
    (
        lambda: flow().join(AIRLINES.with_columns(delay=1), on="carrier"),
        r"join: the lookup table's column delay is here",
    ),
    (lambda: flow().join(pl.concat([AIRLINES, AIRLINES]), on="carrier"), r"join: .*more than one row for carrier"),
    (lambda: flow().join(pl.DataFrame({"carrier": [1], "y": [2]}), on="carrier"), r"join: column carrier is Int64"),
    (lambda: flow().by("carier").agg(n=count()), r"flows\.f\.by: no column carier"),
    (lambda: flow().by("carrier", "carrier").agg(n=count()), r"flows\.f\.by: a column twice"),
    (lambda: flow().by("ratio").agg(n=count()), r"flows\.f\.by: column ratio is Float64"),
    (lambda: flow().by("carrier").agg(carrier=count()), r"flows\.f\.agg\.carrier: .*name of a group column"),
    (lambda: flow().by("carrier").agg(s=sum_("flight")), r"flows\.f\.agg\.s: sum of String; expected a number"),
    (lambda: flow().by("carrier").agg(s=sum_("dellay")), r"flows\.f\.agg\.s: no column dellay"),
    (lambda: flow().by("carrier").agg(s=sum_(pl.col("delay").max())), r"flows\.f\.agg\.s: .*more than one row"),
    (lambda: flow().by("carrier").agg(s=min_(pl.concat_list("delay"))), r"flows\.f\.agg\.s: min of List"),
    (lambda: flow().by("carrier").agg(s=max_(pl.all())), r"flows\.f\.agg\.s: max of 4 columns"),
    (lambda: flow().by("carrier").agg(s=pl.col("delay").sum()), r"flows\.f\.agg\.s: found Expr; expected count"),  # pyright: ignore
    (lambda: flow().by("carrier").agg(), r"flows\.f\.agg: .*at least one"),
    (lambda: flow().by(), r"flows\.f: by\(\) without a column"),
    (lambda: flow().by("carrier").agg(n=count()).map(double), r"flows\.f: an operator after"),
    (lambda: flow().by("carrier").agg(n=count()).by("n").agg(m=count()), r"flows\.f: a second aggregate"),
]


@pytest.mark.parametrize(("make", "message"), WRONG)
def test_what_cannot_work_is_refused_before_the_start(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_of(make())  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "expr",
    [
        pl.col("delay").is_in([1, 2]),
        pl.when(pl.col("delay") > 0).then(pl.lit("late")),
        pl.lit(3),
        pl.min_horizontal("delay", "ratio"),
        pl.col("flight").str.to_datetime("%Y", strict=False),
        pl.col("delay").fill_null(0),
        pl.struct("delay", "ratio").struct.field("delay"),
    ],
)
def test_row_wise_expressions_are_accepted(expr: pl.Expr) -> None:
    assert plan_of(flow().with_columns(x=expr)).schema.names[-1] == "x"


def test_a_row_that_an_expression_cannot_take_names_the_operator() -> None:
    made = flow().filter(pl.col("delay").is_not_null()).with_columns(n=pl.col("flight").cast(pl.Int64))
    with pytest.raises(
        PermanentError, match=r"flow f, operator 2, with_columns: conversion from `str` to `i64` failed"
    ):
        run(made)


def test_a_row_that_an_aggregate_cannot_take_names_it() -> None:
    with pytest.raises(PermanentError, match=r"flow f, agg: conversion"):
        run(flow().by("carrier").agg(s=sum_(pl.col("flight").cast(pl.Int64))))


def test_an_exception_of_a_function_keeps_its_type_and_says_where() -> None:
    def picky(frame: pl.DataFrame) -> pl.DataFrame:
        if frame.height:
            raise LookupError("no such airport")
        return frame

    with pytest.raises(LookupError, match="no such airport") as caught:
        run(flow().map(picky))
    assert caught.value.__notes__ == ["in flow f, operator 1, map(picky)"]


def test_columns_that_depend_on_rows_are_refused() -> None:
    made = flow().map(lambda frame: frame.with_columns(x=1) if frame.height else frame)
    with pytest.raises(PermanentError, match="must not depend on its rows"):
        to_batch(run(made), plan_of(made).schema)


def test_a_reserved_field_is_refused() -> None:
    with pytest.raises(ConfigError, match="_offset"):
        compile_flow(flow().spec, pa.schema([("_offset", pa.int64())]), None)


def test_the_same_frame_gives_the_same_bytes() -> None:
    made = flow().filter(pl.col("delay") > -5).join(AIRLINES, on="carrier").with_columns(x=pl.col("ratio") * 3)
    schema = plan_of(made).schema

    def image() -> bytes:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, schema) as out:
            out.write_batch(to_batch(run(made), schema))
        return sink.getvalue().to_pybytes()

    assert image() == image()


def test_row_keys_are_those_of_publishing() -> None:
    frame = pl.DataFrame(
        {"s": ["é", None, ""], "i": [1, -2, None], "b": [b"\xff", b"", None], "d": [True, None, False]}
    )
    assert row_keys(frame, ["s"]) == ["é".encode(), None, b""]
    assert row_keys(frame, ["i"]) == [b"1", b"-2", None]
    assert row_keys(frame, ["b"]) == [b"\xff", b"", None]
    assert row_keys(frame, ["d"]) == [b"[true]", b"[null]", b"[false]"]
    assert row_keys(frame, ["s", "i"]) == ['["é",1]'.encode(), b"[null,-2]", b'["",null]']


def test_lookup_table_is_part_of_the_spec() -> None:
    operator = flow().join(AIRLINES, on="carrier").spec.operators[0]
    assert isinstance(operator, LookupJoin)
    assert (operator.on, operator.how) == (("carrier",), "left")


def test_columns_schema_describes_checks_and_tells_apart() -> None:
    schema = ColumnsSchema("out", pa.schema([pa.field("k", pa.string(), nullable=False), ("x", pa.int64())]))
    assert schema.describe() == {"kind": "columns", "fields": [["k", "string", False], ["x", "int64", True]]}
    assert schema.fingerprint == ColumnsSchema("other", schema.arrow).fingerprint
    assert schema.fingerprint != ColumnsSchema("out", pa.schema([("k", pa.string()), ("x", pa.int64())])).fingerprint
    schema.check(pa.RecordBatch.from_pydict({"k": ["a"], "x": [None]}, schema=schema.arrow))
    for wrong, message in (
        ({"k": pa.array(["a"])}, "columns k; expected k, x"),
        ({"k": pa.array(["a"]), "x": pa.array([1.0])}, "column x is double; expected int64"),
        ({"k": pa.array(["a", None]), "x": pa.array([1, 2])}, "column k has 1 null values"),
    ):
        with pytest.raises(SchemaIncompatible, match=message):
            schema.check(pa.RecordBatch.from_pydict(wrong))


def test_declaring_a_flow_loads_no_heavy_library() -> None:
    code = "import sys, penstock.flow; print(sorted({'polars', 'pyarrow', 'duckdb'} & set(sys.modules)))"
    env = {"PYTHONPATH": ":".join(sys.path), "PATH": ""}
    run_ = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert run_.stdout.strip() == "[]"
