"""Blocks: what goes in comes out, and a layout that contradicts itself is found."""

from __future__ import annotations

import math
from array import array
from typing import Any

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from hypothesis import given, settings

from penstock.errors import BlockDamaged
from penstock.event.batch import Columns, Rows
from penstock.log import blocks

BODIES = st.lists(st.binary(max_size=40) | st.binary(min_size=600, max_size=700), min_size=1, max_size=20)
VALUES = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=5) | st.binary(max_size=5)


@given(bodies=BODIES, data=st.data())
@settings(max_examples=60)
def test_rows_come_back_as_they_were(bodies: list[bytes], data: st.DataObject) -> None:
    count = len(bodies)
    values = data.draw(st.lists(VALUES, min_size=count, max_size=count))
    integers = data.draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=count, max_size=count))
    attributes: dict[str, Any] = {"x": values, "cause": array("q", integers)}
    valid = data.draw(st.booleans())
    encoded, size = blocks.encode_rows(Rows.of(bodies, attributes, valid=valid))
    for block in (encoded, blocks.plain(encoded)):
        decoded = blocks.decode(block, arrow=None)
        assert isinstance(decoded, Rows)
        assert decoded.bodies() == bodies
        assert decoded.attributes == attributes
        assert decoded.valid == valid
    assert size == sum(map(len, bodies)) + count - 1 + 4 * count


def test_integers_take_eight_bytes_each_and_no_list() -> None:
    causes = array("q", range(2**40, 2**40 + 1000))
    encoded, _ = blocks.encode_rows(Rows.of([b""] * 1000, {"cause": causes}))
    plain, _ = blocks.encode_rows(Rows.of([b""] * 1000))
    assert len(encoded) - len(plain) < 8 * 1000 + 32


TABLE = pa.RecordBatch.from_pydict({"n": [1, None, 3], "s": ["a", "b", None], "x": [0.5, math.nan, -0.0]})
ARROW = TABLE.schema.serialize().to_pybytes()


def test_columns_come_back_whole_and_in_part() -> None:
    encoded, _ = blocks.encode_columns(Columns(TABLE, {"id": ["1", "2", "3"]}))
    whole = blocks.decode(encoded, arrow=ARROW)
    assert isinstance(whole, Columns)
    assert repr(whole.table.to_pylist()) == repr(TABLE.to_pylist())
    assert whole.attributes == {"id": ["1", "2", "3"]}
    part = blocks.decode(encoded, arrow=ARROW, columns=["s", "n", "unknown"])
    assert isinstance(part, Columns)
    assert part.table.equals(TABLE.select(["n", "s"]))
    none = blocks.decode(encoded, arrow=ARROW, columns=[])
    assert isinstance(none, Columns)
    assert (none.table.num_rows, none.table.num_columns) == (3, 0)


def test_a_slice_of_columns_is_stored_without_the_rest() -> None:
    table = pa.RecordBatch.from_pydict({"n": list(range(100_000))})
    encoded, _ = blocks.encode_columns(Columns(table.slice(50_000, 2)))
    assert len(encoded) < 1000
    decoded = blocks.decode(encoded, arrow=table.schema.serialize().to_pybytes())
    assert isinstance(decoded, Columns)
    assert decoded.table.to_pylist() == [{"n": 50_000}, {"n": 50_001}]


@pytest.mark.parametrize("change", ["kind", "count", "lengths"])
def test_a_layout_that_contradicts_itself_is_damage(change: str) -> None:
    data = bytearray(blocks.encode_rows(Rows.of([b"ab", b"cd"]))[0])
    if change == "kind":
        data[0:1] = b"X"
    elif change == "count":
        data[12] = 3
    else:
        data[16] ^= 1
    with pytest.raises(BlockDamaged):
        blocks.decode(bytes(data), arrow=None)


def test_columns_need_the_schema_they_were_written_with() -> None:
    encoded, _ = blocks.encode_columns(Columns(TABLE))
    with pytest.raises(BlockDamaged, match="schema"):
        blocks.decode(encoded, arrow=None)


def test_same_compares_events_and_not_their_encoding() -> None:
    other = pa.RecordBatch.from_pydict(TABLE.to_pydict(), schema=TABLE.schema)
    sliced = pa.concat_batches([TABLE, TABLE]).slice(3)
    for same in (other, sliced):
        assert blocks.same(Columns(TABLE), Columns(same))
    assert not blocks.same(Columns(TABLE), Columns(TABLE.slice(1)))
    assert not blocks.same(Columns(TABLE), Columns(TABLE.rename_columns(["n", "s", "y"])))
    assert not blocks.same(Columns(TABLE), Columns(TABLE, {"id": [1, 2, 3]}))
    assert not blocks.same(Columns(TABLE), Rows.of([b"a"]))
    assert blocks.same(Rows.of([b"a", b"b"]), Rows.of([b"a", b"b"]))
    assert not blocks.same(Rows(b"a\nb\nc", array("I", [1, 3])), Rows(b"a\nb\nc", array("I", [3, 1])))
    zero, minus = (pa.RecordBatch.from_pydict({"x": [z, math.nan]}) for z in (0.0, -0.0))
    assert not blocks.same(Columns(zero), Columns(minus))
