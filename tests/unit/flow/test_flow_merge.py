"""A running aggregate equals a batch query over its input so far, for any partitioning, interleaving and restart."""

from __future__ import annotations

import os
import subprocess
import sys
from decimal import Decimal
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from penstock.errors import DeclaredDifferently, PermanentError
from penstock.event.partition import partition_of
from penstock.flow import Flow, FlowSpec, count, max_, mean, min_, sum_
from penstock.flow.compile import Plan, compile_flow
from penstock.flow.frames import from_batch, row_keys, to_batch
from penstock.flow.logic import Merge

SCHEMA = pa.schema([("flight", pa.int64()), ("carrier", pa.string()), ("late", pa.bool_()), ("delay", pa.int64())])
AGGS = {
    "n": count(),
    "known": count("delay"),
    "total": sum_("delay"),
    "mean": mean("delay"),
    "low": min_("delay"),
    "high": max_(pl.col("delay") * 2),
}


def plan_of(keys: tuple[str, ...], input_key: str | None) -> Plan:
    return compile_flow(Flow(FlowSpec("f", "t")).by(*keys).agg(**AGGS).spec, SCHEMA, input_key)


def batch_query(frame: pl.DataFrame, keys: tuple[str, ...]) -> pl.DataFrame:
    """The oracle: Polars' own aggregates over everything at once."""
    delay = pl.col("delay")
    known = delay.count()
    return (
        frame.group_by(keys)
        .agg(
            n=pl.len().cast(pl.Int64),
            known=known.cast(pl.Int64),
            total=pl.when(known > 0).then(delay.sum()),
            mean=delay.sum() / pl.when(known > 0).then(known),
            low=delay.min(),
            high=(delay * 2).max(),
        )
        .sort(keys)
    )


class Machine:
    """P partitions of the input and, between the stages, P of the internal topic, drained in any order."""

    def __init__(self, plan: Plan, partitions: int) -> None:
        self.plan = plan
        self.partitions = partitions
        self.merges = [plan.stages[-1].new_merge() for _ in range(partitions)]
        self.ledgers: list[dict[bytes, bytes]] = [{} for _ in range(partitions)]
        self.between: list[list[pl.DataFrame]] = [[] for _ in range(partitions)]
        self.results: dict[tuple[Any, ...], tuple[Any, ...]] = {}

    def feed(self, partition: int, frame: pl.DataFrame) -> None:
        first = self.plan.stages[0]
        partials = first.rows(frame)
        if first.into is None:
            self.between[partition].append(partials)
            return
        stored = from_batch(to_batch(partials, first.schema))
        places = pl.Series([partition_of(k, self.partitions) for k in row_keys(stored, first.keys)], dtype=pl.Int64)
        for place in range(self.partitions):
            part = stored.filter(places == place)
            if part.height:
                self.between[place].append(part)

    def drain(self, partition: int, *, commit: bool = True) -> None:
        waiting = self.between[partition]
        if not waiting:
            return
        merge = self.merges[partition]
        merged = merge.apply(pl.concat(waiting))
        if not commit:
            return
        waiting.clear()
        merge.accept(merged)
        self.ledgers[partition].update(merged.delta)
        keys = self.plan.keys
        for row in merged.changed.rows():
            self.results[row[: len(keys)]] = row

    def restart(self, partition: int) -> None:
        merge = self.plan.stages[-1].new_merge()
        merge.restore(list(self.ledgers[partition].items()))
        assert merge.snapshot() == self.merges[partition].snapshot()
        self.merges[partition] = merge


EVENT = st.tuples(
    st.integers(0, 5),
    st.sampled_from(["UA", "AA", "B6", "", None]),
    st.sampled_from([True, False, None]),
    st.one_of(st.none(), st.integers(-(2**40), 2**40)),
)
ACTIONS = st.lists(
    st.tuples(st.lists(EVENT, max_size=8), st.integers(0, 3), st.sampled_from(["drain", "abandon", "restart", "wait"])),
    max_size=12,
)
CASES = [
    (("carrier",), None),
    (("carrier",), "flight"),
    (("flight",), "flight"),
    (("carrier", "late"), "flight"),
    (("flight", "carrier"), "flight"),
]


@pytest.mark.parametrize(("keys", "input_key"), CASES)
@pytest.mark.parametrize("partitions", [1, 2, 4])
def test_equals_a_batch_query_after_every_merge(keys: tuple[str, ...], input_key: str | None, partitions: int) -> None:
    plan = plan_of(keys, input_key)
    assert len(plan.stages) == (1 if input_key in keys else 2)

    @settings(max_examples=15, deadline=None)
    @given(ACTIONS)
    def check(actions: list[tuple[list[tuple[Any, ...]], int, str]]) -> None:
        machine = Machine(plan, partitions)
        seen = pl.from_arrow(SCHEMA.empty_table())
        assert isinstance(seen, pl.DataFrame)
        for rows, place, then in [*actions, ([], 0, "drain")]:
            frame = pl.DataFrame(rows, schema=seen.schema, orient="row")
            by_flight = [partition_of(k, partitions) for k in row_keys(frame, ("flight",))]
            for partition in range(partitions):
                part = frame.filter(pl.Series(by_flight, dtype=pl.Int64) == partition)
                machine.feed(partition, part)
            seen = pl.concat([seen, frame])
            if then == "wait":
                continue
            if then == "restart":
                machine.restart(place % partitions)
            for partition in (*range(place, partitions), *range(min(place, partitions))):
                machine.drain(partition, commit=then != "abandon")
            if then == "abandon":
                continue
            expected = batch_query(seen, keys)
            got = pl.DataFrame(list(machine.results.values()), schema=expected.schema, orient="row").sort(keys)
            assert_frame_equal(got, expected, check_exact=True)

    check()


def merge_of(**aggs: Any) -> tuple[Plan, Merge]:
    schema = pa.schema([("k", pa.string()), ("x", pa.int64()), ("f", pa.float64()), ("d", pa.decimal128(20, 2))])
    plan = compile_flow(Flow(FlowSpec("f", "t")).by("k").agg(**aggs).spec, schema, "k")
    return plan, plan.stages[-1].new_merge()


def frame_of(**columns: list[Any]) -> pl.DataFrame:
    return pl.DataFrame(columns, schema_overrides={"k": pl.String, "x": pl.Int64, "f": pl.Float64})


def test_a_sum_within_64_bits_is_exact_even_when_it_passes_beyond_on_the_way() -> None:
    plan, merge = merge_of(total=sum_("x"))
    high = 2**63 - 1
    partials = plan.stages[0].rows(frame_of(k=["a"] * 4, x=[high, high, -high, -5]))
    assert merge.apply(partials).changed.rows() == [("a", high - 5)]


def test_a_sum_beyond_64_bits_within_a_batch_is_an_error() -> None:
    plan, _ = merge_of(total=sum_("x"))
    with pytest.raises(PermanentError, match=r"sum total of group k='b' is 9223372036854775808: beyond 64 bits"):
        plan.stages[0].rows(frame_of(k=["a", "b", "b"], x=[1, 2**62, 2**62]))


def test_a_sum_beyond_64_bits_across_batches_is_an_error_and_leaves_the_state() -> None:
    plan, merge = merge_of(total=sum_("x"))
    merge.accept(merge.apply(plan.stages[0].rows(frame_of(k=["a"], x=[2**63 - 1]))))
    before = merge.snapshot()
    with pytest.raises(PermanentError, match=r"sum total of group k='a' is 9223372036854775808: beyond 64 bits"):
        merge.apply(plan.stages[0].rows(frame_of(k=["a"], x=[1])))
    assert merge.snapshot() == before


def test_a_mean_of_large_integers_adds_exactly() -> None:
    plan, merge = merge_of(mean=mean("x"))
    rows = frame_of(k=["a"] * 3, x=[2**53, 1, 1])
    assert merge.apply(plan.stages[0].rows(rows)).changed["mean"][0] == (2**53 + 2) / 3


def test_decimals_add_exactly_and_refuse_more_digits_than_they_have() -> None:
    plan, merge = merge_of(total=sum_("d"), high=max_("d"))
    rows = frame_of(k=["a", "a"], d=[Decimal("0.10"), Decimal("0.20")]).cast({"d": pl.Decimal(20, 2)})
    for _ in range(2):
        merge.accept(merge.apply(plan.stages[0].rows(rows)))
        again = plan.stages[0].new_merge()
        again.restore(merge.snapshot())
        merge = again
    assert merge.results().rows() == [("a", Decimal("0.60"), Decimal("0.20"))]
    wide = compile_flow(plan.spec, pa.schema([("k", pa.string()), ("d", pa.decimal128(38, 2))]), "k")
    huge = frame_of(k=["a", "a"], d=[Decimal("9" * 36)] * 2).cast({"d": pl.Decimal(38, 2)})
    with pytest.raises(PermanentError, match="more than 38 digits"):
        wide.stages[0].rows(huge)


def test_nothing_but_nulls_gives_null_and_counts_rows() -> None:
    plan, merge = merge_of(n=count(), known=count("x"), total=sum_("x"), mean=mean("f"), low=min_("x"))
    merge.accept(merge.apply(plan.stages[0].rows(frame_of(k=["a"], x=[None], f=[None]))))
    merged = merge.apply(plan.stages[0].rows(frame_of(k=["a"], x=[None], f=[None])))
    assert merged.changed.rows() == [("a", 2, 0, None, None, None)]


def test_an_empty_frame_changes_nothing() -> None:
    plan, merge = merge_of(n=count(), total=sum_("x"))
    merged = merge.apply(plan.stages[0].rows(frame_of(k=[], x=[])))
    merge.accept(merged)
    assert (merged.delta, merged.changed.height, len(merge), merge.snapshot()) == ([], 0, 0, [])


def test_apply_changes_nothing_until_accepted() -> None:
    plan, merge = merge_of(total=sum_("x"))
    partials = plan.stages[0].rows(frame_of(k=["a"], x=[3]))
    first, second = merge.apply(partials), merge.apply(partials)
    assert first.delta == second.delta
    merge.accept(first)
    assert merge.apply(partials).changed.rows() == [("a", 6)]


def test_results_come_sorted_by_key_with_null_first_and_match_the_delta() -> None:
    plan, merge = merge_of(n=count())
    merged = merge.apply(plan.stages[0].rows(frame_of(k=["z", None, "a", "é", "B", ""])))
    assert merged.changed["k"].to_list() == [None, "", "B", "a", "z", "é"]
    assert [key for key, _ in merged.delta] == [
        b"\x91\xc0",
        b"\x91\xa0",
        b"\x91\xa1B",
        b"\x91\xa1a",
        b"\x91\xa1z",
        b"\x91\xa2\xc3\xa9",
    ]


def test_state_of_another_declaration_is_refused() -> None:
    plan, merge = merge_of(total=sum_("x"))
    merge.accept(merge.apply(plan.stages[0].rows(frame_of(k=["a"], x=[3]))))
    _, other = merge_of(total=mean("x"))
    with pytest.raises(DeclaredDifferently, match="give the changed flow a new name"):
        other.restore(merge.snapshot())
    assert len(other) == 0


def test_state_of_another_column_is_refused() -> None:
    """A sum of one column that goes on as the sum of another is the sum of neither."""
    plan, merge = merge_of(total=sum_("x"))
    merge.accept(merge.apply(plan.stages[0].rows(frame_of(k=["a"], x=[3]))))
    whole = pl.col("f").cast(pl.Int64)
    for changed in (sum_(whole), sum_(pl.col("x") + whole)):
        _, other = merge_of(total=changed)
        with pytest.raises(DeclaredDifferently, match="give the changed flow a new name"):
            other.restore(merge.snapshot())


def test_state_that_was_written_before_the_columns_were_in_its_tag_is_read() -> None:
    _, merge = merge_of(total=sum_("x"))
    layout = merge_of(total=sum_("x"))[0].stages[-1].layout_in
    assert layout is not None
    old = msgspec.msgpack.encode([layout.tag_before, 3, 1])
    new = msgspec.msgpack.encode([layout.tag, 4, 1])
    keys = [msgspec.msgpack.encode(["a"]), msgspec.msgpack.encode(["b"])]
    merge.restore(list(zip(keys, [old, new], strict=True)))
    assert merge.results().to_dicts() == [{"k": "a", "total": 3}, {"k": "b", "total": 4}]


def test_state_far_above_the_compaction_size_stays_right() -> None:
    plan, merge = merge_of(n=count(), total=sum_("x"))
    keys = 3_000
    rounds = 60
    for turn in range(rounds):
        rows = frame_of(k=[str((turn * 7 + i) % keys) for i in range(keys)], x=[turn] * keys)
        merge.accept(merge.apply(plan.stages[0].rows(rows)))
    results = merge.results()
    assert results.height == keys
    assert results.select(pl.col("n", "total").unique()).rows() == [(rounds, sum(range(rounds)))]


PROBE = """
import sys, polars as pl, pyarrow as pa
from hashlib import sha256
from penstock.flow import Flow, FlowSpec, count, max_, mean, sum_
from penstock.flow.compile import compile_flow
schema = pa.schema([("k", pa.string()), ("f", pa.float64())])
flow = Flow(FlowSpec("f", "t")).by("k").agg(n=count(), s=sum_("f"), m=mean("f"), h=max_("f"))
plan = compile_flow(flow.spec, schema, None)
merge, digest = plan.stages[-1].new_merge(), sha256()
for turn in range(4):
    n = 60_000
    i = pl.int_range(n, eager=True)
    frame = pl.DataFrame({"k": (i * 7919 % 13).cast(pl.String), "f": (i * 0.1 + turn).sin() * 10.0 ** (i % 17)})
    merged = merge.apply(plan.stages[0].rows(frame))
    merge.accept(merged)
    for key, value in merged.delta:
        digest.update(key + value)
print(pl.thread_pool_size(), digest.hexdigest())
"""


def test_the_same_borders_give_the_same_bytes_whatever_threads_and_hash_seed() -> None:
    seen = set[str]()
    for threads, seed in (("1", "1"), ("4", "2")):
        env = {
            **os.environ,
            "POLARS_MAX_THREADS": threads,
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        run = subprocess.run([sys.executable, "-c", PROBE], env=env, capture_output=True, text=True, check=True)
        pool, digest = run.stdout.split()
        assert pool == threads
        seen.add(digest)
    assert len(seen) == 1
