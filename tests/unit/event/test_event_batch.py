"""Keys and partitions are fixed for good; rows give back the bytes they were made of."""

from __future__ import annotations

from uuid import UUID

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.event import Columns, Delivered, Rows, canonical_key, partition_of
from penstock.event.partition import KEY_BYTES_MAX, partitions_of


@pytest.mark.parametrize(
    ("key", "raw"),
    [
        ("Zürich", "Zürich".encode()),
        ("", b""),
        (b"\x00\xff", b"\x00\xff"),
        (-7, b"-7"),
        (UUID(int=1), b"00000000-0000-0000-0000-000000000001"),
        (None, None),
    ],
)
def test_canonical_bytes(key: str | bytes | int | UUID | None, raw: bytes | None) -> None:
    assert canonical_key(key) == raw


@pytest.mark.parametrize("key", [True, 1.5, "\ud800", b"x" * (KEY_BYTES_MAX + 1), ["a"]])
def test_what_is_no_key(key: object) -> None:
    with pytest.raises(ValueError, match="a key"):
        canonical_key(key)  # type: ignore[arg-type]


def test_the_hash_is_fixed_for_good() -> None:
    """These numbers are on disks and in brokers: they may never change."""
    keys = [b"", b"a", b"UA-1545-EWR-20130101T10", b"\xff" * 9]
    assert [partition_of(key, 4) for key in keys] == [0, 3, 1, 3]
    assert [partition_of(key, 4096) for key in keys] == partitions_of(keys, 4096)
    assert partitions_of([None, b"a"], 4) == [0, partition_of(b"a", 4)]


@given(st.binary(), st.integers(1, 4096))
def test_every_key_has_a_partition(key: bytes, partitions: int) -> None:
    assert 0 <= partition_of(key, partitions) < partitions


@given(st.lists(st.binary(max_size=6)))
def test_rows_give_back_their_bodies(bodies: list[bytes]) -> None:
    assert Rows.of(bodies).bodies() == bodies


@given(st.lists(st.sampled_from([b"", b"a", b"\n", b"b\nc"]), min_size=1, max_size=6), st.integers(0, 6))
def test_a_tail_is_the_rest(bodies: list[bytes], cut: int) -> None:
    cut = min(cut, len(bodies) - 1)
    whole = Delivered("t", 0, 10, len(bodies), Rows.of(bodies, {"id": list(range(len(bodies)))}), 0)
    rest = whole.tail(10 + cut)
    assert isinstance(rest.payload, Rows)
    assert rest.payload.bodies() == bodies[cut:]
    assert rest.payload.attributes["id"] == list(range(cut, len(bodies)))
    assert (rest.first, rest.end) == (10 + cut, whole.end)


@given(st.lists(st.sampled_from([b"", b"a", b"\n", b"b\nc"]), min_size=1, max_size=9), st.integers(1, 10))
def test_parts_put_together_are_the_batch(bodies: list[bytes], count_max: int) -> None:
    whole = Delivered("t", 0, 10, len(bodies), Rows.of(bodies, {"id": list(range(len(bodies)))}), 0)
    parts = list(whole.parts(count_max))
    assert [part.first for part in parts] == list(range(10, whole.end, count_max))
    assert all(part.count == part.end - part.first <= count_max for part in parts)
    rows = [part.payload for part in parts if isinstance(part.payload, Rows)]
    assert [body for payload in rows for body in payload.bodies()] == bodies
    assert [i for payload in rows for i in payload.attributes["id"]] == list(range(len(bodies)))


def test_parts_of_columns_are_slices() -> None:
    table = pa.RecordBatch.from_pydict({"n": [1, 2, 3, 4, 5]})
    parts = list(Delivered("t", 0, 7, 5, Columns(table, {"id": [*"abcde"]}), 0).parts(2))
    payloads = [part.payload for part in parts if isinstance(part.payload, Columns)]
    assert [part.first for part in parts] == [7, 9, 11]
    assert [payload.table["n"].to_pylist() for payload in payloads] == [[1, 2], [3, 4], [5]]
    assert [payload.attributes["id"] for payload in payloads] == [["a", "b"], ["c", "d"], ["e"]]
