"""Many times at once come out of a column as they went in, wherever they lie and however the column is cut."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.schema import schema_of

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
END_US = 2**34 * 1_000_000
FIRST_US, LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999


class Moment(msgspec.Struct):
    at: datetime


def column(us: list[int]) -> Any:
    return pa.array(us, pa.timestamp("us", "UTC"))


@given(
    st.lists(st.integers(0, END_US - 1) | st.integers(FIRST_US, LAST_US), min_size=1, max_size=20), st.integers(0, 9)
)
def test_many_times(some: list[int], cut: int) -> None:
    us = some * (1200 // len(some))
    batch = pa.RecordBatch.from_arrays([column(us)], schema=schema_of(Moment).arrow).slice(cut)
    found = [moment.at for moment in schema_of(Moment).from_columns(batch)]
    assert found == [EPOCH + timedelta(microseconds=n) for n in us[cut:]]
    assert all(at.utcoffset() == timedelta(0) for at in found)


@pytest.mark.parametrize("edge", [0, 1, 999_999, 1_000_000, END_US - 1, END_US, -1, FIRST_US, LAST_US])
def test_times_at_the_edges_of_what_is_read_fast(edge: int) -> None:
    batch = pa.RecordBatch.from_arrays([column([0, edge] * 600)], schema=schema_of(Moment).arrow)
    assert schema_of(Moment).from_columns(batch)[-1].at == EPOCH + timedelta(microseconds=edge)
