"""Readers made from what the log recorded, without the Python types; and topics that exist only as columns."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import msgspec
import pyarrow as pa
import pytest

from penstock.errors import ConfigError, DecodeError, Unsupported
from penstock.schema import ColumnsSchema, Invalid, RecordedSchema, schema_from_description, schema_of
from tests.unit.schema.kinds import KINDS, Kind
from tests.unit.schema.test_schema_types import events_of


@pytest.mark.parametrize("kind", KINDS, ids=[k.python for k in KINDS])
def test_a_reader_without_the_type_reads_the_same(kind: Kind) -> None:
    schema, events = events_of(kind)
    recorded = msgspec.json.decode(msgspec.json.encode(schema.describe()))
    reader = schema_from_description(recorded, schema.arrow_bytes())
    assert isinstance(reader, RecordedSchema)
    assert reader.name == "Event"
    assert reader.arrow.equals(schema.arrow)
    bodies = schema.encode_all(events)
    body, table = b"\n".join(bodies), schema.to_columns(events)
    assert reader.lines_to_columns(body, len(bodies)).equals(table)
    assert reader.columns_to_lines(table) == schema.columns_to_lines(table)
    dicts = [msgspec.json.decode(b) for b in schema.columns_to_lines(table)]
    assert reader.from_columns(table) == dicts
    assert reader.decode_lines(body, len(bodies)) == [reader.decode(b) for b in bodies]
    assert [set(d) for d in reader.decode_lines(body, len(bodies))] == [{"one", "maybe", "many", "named"}] * len(bodies)
    assert not isinstance(reader.validate_lines(bodies), Invalid)


class Made(msgspec.Struct, rename="camel", tag="made", forbid_unknown_fields=True, kw_only=True):
    order_id: int
    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    tags: list[str] = []
    limits: dict[str, int] = msgspec.field(default_factory=lambda: {"a": 1})
    trace: str = msgspec.field(default_factory=lambda: str(uuid.UUID(int=7)))


def test_defaults_tags_and_strictness_are_recorded() -> None:
    schema = schema_of(Made)
    reader = schema_from_description(msgspec.json.decode(msgspec.json.encode(schema.describe())), None)
    body = b'{"type":"made","orderId":5}'
    # What a factory makes only the program with the type knows.
    expected = {"type": "made", "orderId": 5, "at": "2026-01-01T00:00:00Z", "tags": [], "limits": None, "trace": None}
    assert reader.decode(body) == expected
    assert reader.lines_to_columns(body, 1).column("limits").to_pylist() == [None]
    for bad in (
        b'{"orderId":"5"}',
        b'{"orderId":5,"x":1}',
        b'{"type":"other","orderId":5}',
        b'{"orderId":9223372036854775808}',
    ):
        with pytest.raises(DecodeError, match="Made"):
            reader.decode_strict(bad)  # pyright: ignore[reportAttributeAccessIssue]


def test_descriptions_of_another_kind() -> None:
    with pytest.raises(ConfigError, match="'protobuf'"):
        schema_from_description({"kind": "protobuf"}, None)
    with pytest.raises(ConfigError, match="Arrow schema"):
        schema_from_description({"kind": "columns", "fields": []}, None)


COLUMNS = {"k": pa.string(), "n": pa.uint32(), "mean": pa.float64(), "at": pa.timestamp("ns", "UTC")}
VALUES = {"k": ["a", "b"], "n": [1, None], "mean": [0.5, float("nan")], "at": [1_700_000_000_000_000_001, None]}
ARROW = pa.schema([pa.field(name, kind, nullable=name != "k") for name, kind in COLUMNS.items()])
ROWS = pa.RecordBatch.from_pydict(VALUES, schema=ARROW)


def test_columns_without_a_type_are_read_as_dicts() -> None:
    schema = ColumnsSchema("totals", ARROW)
    reader = schema_from_description(schema.describe(), schema.arrow_bytes())
    assert isinstance(reader, ColumnsSchema)
    assert reader.fingerprint == schema.fingerprint
    at = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert reader.from_columns(ROWS)[0] == {"k": "a", "n": 1, "mean": 0.5, "at": at}
    lines = reader.columns_to_lines(ROWS)
    assert lines == [
        b'{"k":"a","n":1,"mean":0.5,"at":"2023-11-14T22:13:20Z"}',
        b'{"k":"b","n":null,"mean":null,"at":null}',
    ]
    assert reader.decode(lines[1]) == {"k": "b", "n": None, "mean": None, "at": None}
    with pytest.raises(DecodeError, match="columns"):
        reader.decode(b"[1]")


def test_columns_without_a_type_take_no_json() -> None:
    schema = ColumnsSchema("totals", ARROW)
    for call in (
        lambda: schema.encode({}),
        lambda: schema.validate_lines([b"{}"]),
        lambda: schema.decode_lines(b"{}", 1),
        lambda: schema.lines_to_columns(b"{}", 1),
        lambda: schema.field("k"),
    ):
        with pytest.raises(Unsupported, match="totals exists only as columns"):
            call()
