"""The bytes of rows of columns, against a count of every value."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.channel.sizes import row_over

STRUCT = pa.struct([("b", pa.binary()), ("deep", pa.list_(pa.struct([("s", pa.large_string())])))])
FIELDS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "n": (pa.int64(), st.integers(0, 9)),
    "flag": (pa.bool_(), st.booleans()),
    "at": (pa.timestamp("us", "UTC"), st.just(datetime(2026, 1, 1, tzinfo=UTC))),
    "price": (pa.decimal128(10, 2), st.just(Decimal("1.25"))),
    "s": (pa.string(), st.text("aé", max_size=9)),
    "fixed": (pa.list_(pa.int16(), 2), st.just([1, 2])),
    "lists": (pa.list_(pa.list_(pa.string())), st.lists(st.lists(st.text("a", max_size=3), max_size=3), max_size=3)),
    "maps": (
        pa.map_(pa.string(), pa.int32()),
        st.dictionaries(st.text("k", max_size=3), st.just(1)).map(lambda found: list(found.items())),
    ),
    "struct": (
        STRUCT,
        st.fixed_dictionaries(
            {"b": st.binary(max_size=5), "deep": st.lists(st.fixed_dictionaries({"s": st.text("d", max_size=4)}))}
        ),
    ),
}
ROWS = st.lists(
    st.fixed_dictionaries({name: st.none() | values for name, (_, values) in FIELDS.items()}), min_size=1, max_size=8
)


def counted(kind: pa.DataType, value: Any) -> int:
    if pa.types.is_struct(kind):
        return sum(counted(field.type, None if value is None else value[field.name]) for field in kind)
    if pa.types.is_fixed_size_list(kind):
        return 2 * counted(kind.value_type, 0)
    if pa.types.is_map(kind):
        return sum(counted(kind.key_type, k) + counted(kind.item_type, v) for k, v in value or ())
    if pa.types.is_list(kind):
        return sum(counted(kind.value_type, item) for item in value or ())
    if isinstance(value, str | bytes):
        return len(value.encode() if isinstance(value, str) else value)
    return 0 if value is None and not pa.types.is_primitive(kind) and not pa.types.is_decimal(kind) else width(kind)


def width(kind: pa.DataType) -> int:
    return max(1, kind.bit_width // 8)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.data())
def test_the_longest_row_is_found_whatever_it_holds(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    kinds = {name: kind for name, (kind, _) in FIELDS.items()}
    whole = pa.RecordBatch.from_pylist(rows, schema=pa.schema(list(kinds.items())))
    start = data.draw(st.integers(0, len(rows) - 1))
    sizes = [sum(counted(kinds[name], value) for name, value in row.items()) for row in rows[start:]]
    longest = max(sizes)
    assert row_over(whole.slice(start), longest - 1) == (sizes.index(longest), longest)
    assert row_over(whole.slice(start), longest) is None


@pytest.mark.parametrize(
    "column", [pa.array(["abc", "abc", "d"]).dictionary_encode(), pa.array(["abc", "abc", "d"], pa.string())]
)
def test_repeated_values_count_wherever_they_stand(column: pa.Array) -> None:
    table = pa.RecordBatch.from_arrays([column, pa.nulls(3)], names=["s", "none"])
    assert row_over(table, 2) == (0, 3)
    assert row_over(table.slice(2), 2) is None
