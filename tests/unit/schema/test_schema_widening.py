"""Which columns may be stored as which types: the same values, or they are refused."""

from __future__ import annotations

import pyarrow as pa
import pytest

from penstock.schema.widening import difference

UTC_US = pa.timestamp("us", "UTC")


def _struct(kind: pa.DataType) -> pa.DataType:
    return pa.struct([("at", kind), ("n", pa.int64())])


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (pa.int32(), pa.int64()),
        (pa.uint64(), pa.int64()),
        (pa.int64(), pa.float64()),
        (pa.float32(), pa.float64()),
        (pa.large_string(), pa.string()),
        (pa.string_view(), pa.string()),
        (pa.dictionary(pa.uint32(), pa.large_string()), pa.string()),
        (pa.large_binary(), pa.binary()),
        (pa.binary(16), pa.binary()),
        (pa.timestamp("ms", "Europe/Paris"), UTC_US),
        (pa.timestamp("ns"), pa.timestamp("us")),
        (pa.date64(), pa.date32()),
        (pa.decimal128(10, 2), pa.decimal128(20, 4)),
        (pa.duration("ms"), pa.duration("us")),
        (pa.null(), UTC_US),
        (pa.large_list(pa.large_string()), pa.list_(pa.string())),
        (_struct(pa.timestamp("ns", "UTC")), _struct(UTC_US)),
        (pa.map_(pa.large_string(), pa.int32()), pa.map_(pa.string(), pa.int64())),
    ],
    ids=str,
)
def test_values_that_stay_what_they_are(found: pa.DataType, wanted: pa.DataType) -> None:
    assert difference(found, wanted) == ""
    assert difference(wanted, wanted) == ""


@pytest.mark.parametrize(
    ("found", "wanted", "way_out"),
    [
        (pa.timestamp("us"), UTC_US, "replace_time_zone"),
        (UTC_US, pa.timestamp("us"), r"replace_time_zone\(None\)"),
        (_struct(pa.timestamp("us")), _struct(UTC_US), "field at: times without a zone"),
        (pa.list_(pa.timestamp("us")), pa.list_(UTC_US), "without a zone"),
        (pa.int64(), UTC_US, "cast"),
        (pa.large_string(), UTC_US, "cast"),
        (pa.date32(), UTC_US, "cast"),
        (pa.bool_(), pa.int64(), "cast"),
        (pa.bool_(), pa.float64(), "cast"),
        (pa.int64(), pa.bool_(), "cast"),
        (pa.float64(), pa.int64(), "cast"),
        (pa.float64(), pa.float32(), "cast"),
        (pa.string(), pa.int64(), "cast"),
        (pa.int64(), pa.string(), "cast"),
        (pa.binary(), pa.string(), "cast"),
        (pa.string(), pa.binary(), "cast"),
        (pa.int64(), pa.decimal128(10, 2), "cast"),
        (pa.dictionary(pa.uint32(), pa.large_string()), pa.int64(), "cast"),
        (pa.struct([("n", pa.int64())]), _struct(UTC_US), "same fields"),
    ],
    ids=str,
)
def test_values_that_would_become_others(found: pa.DataType, wanted: pa.DataType, way_out: str) -> None:
    import re  # noqa: PLC0415

    assert re.search(way_out, difference(found, wanted))
