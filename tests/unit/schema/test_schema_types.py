"""Every Python type to JSON, Arrow, Parquet, DuckDB and Polars and back; the page that says so cannot drift."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.schema import Invalid, Schema, schema_of
from tests.unit.schema.kinds import KINDS, Kind

PAGE = Path(__file__).resolve().parents[3] / "docs/reference/types.md"
each_kind = pytest.mark.parametrize("kind", KINDS, ids=[k.python for k in KINDS])


def schema_for(kind: Kind) -> Schema[Any]:
    """One field as the kind is, one that may be None, one list of it and one dict."""
    fields = [
        ("one", kind.hint),
        ("maybe", kind.hint | None),
        ("many", list[kind.hint]),
        ("named", dict[str, kind.hint]),
    ]
    return schema_of(msgspec.defstruct("Event", fields))


def events_of(kind: Kind) -> tuple[Schema[Any], list[Any]]:
    schema = schema_for(kind)
    events = [schema.type(v, v, [v], {"k": v}) for v in kind.values]
    return schema, [*events, schema.type(kind.values[0], None, [], {}), schema.type(*_all(kind))]


def _all(kind: Kind) -> tuple[Any, Any, Any, Any]:
    return kind.values[-1], None, kind.values, {str(i): v for i, v in enumerate(kind.values)}


def same(found: list[Any], expected: list[Any]) -> bool:
    """Equal, zeros with their sign; times by their instant, for Python finds those of a repeated hour equal to none."""
    if _instants(found) != _instants(expected):
        return False
    return repr(_zeros(found)) == repr(_zeros(expected))


def _instants(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    if isinstance(value, list):
        return [_instants(v) for v in value]
    if isinstance(value, dict):
        return {k: _instants(v) for k, v in value.items()}
    if isinstance(value, msgspec.Struct) and hasattr(value, "maybe"):
        return [_instants(getattr(value, name)) for name in value.__struct_fields__]
    return value


def _zeros(events: list[Any]) -> list[Any]:
    return [str(v) if isinstance(v := e.one, float) else None for e in events]


@each_kind
def test_json_both_ways(kind: Kind) -> None:
    schema, events = events_of(kind)
    bodies = [schema.encode(e) for e in events]
    assert bodies == schema.encode_all(events)
    assert not any(b"\n" in body for body in bodies)
    assert same([schema.decode(b) for b in bodies], events)
    assert same([schema.decode_strict(b) for b in bodies], events)
    assert same(schema.decode_lines(b"\n".join(bodies), len(bodies)), events)
    valid = schema.validate_lines(bodies)
    assert not isinstance(valid, Invalid)
    assert all(isinstance(e, schema.type) for e in valid)
    assert same([schema.decode(schema.encode(e)) for e in valid], events)


@each_kind
def test_arrow_both_ways(kind: Kind) -> None:
    schema, events = events_of(kind)
    assert schema.arrow.field("one") == pa.field("one", kind.arrow, nullable=False)
    assert schema.arrow.field("maybe") == pa.field("maybe", kind.arrow)
    batch = schema.to_columns(events)
    batch.validate(full=True)
    schema.check(batch)
    assert same(schema.from_columns(batch), events)
    assert same(schema.from_columns(batch.slice(1, 1)), events[1:2])
    assert schema.from_columns(batch.slice(len(events))) == []
    assert schema.to_columns([]).equals(batch.slice(0, 0))


@each_kind
def test_lines_to_columns_and_back(kind: Kind) -> None:
    schema, events = events_of(kind)
    bodies = schema.encode_all(events)
    batch = schema.lines_to_columns(b"\n".join(bodies), len(bodies))
    assert batch.equals(schema.to_columns(events))
    lines = schema.columns_to_lines(batch)
    assert same([schema.decode(line) for line in lines], events)
    assert schema.lines_to_columns(b"\n".join(lines), len(lines)).equals(batch)


@each_kind
def test_parquet_both_ways(kind: Kind, tmp_path: Path) -> None:
    schema, events = events_of(kind)
    path = tmp_path / "events.parquet"
    pq.write_table(pa.Table.from_batches([schema.to_columns(events)]), path)
    stored = str(pq.ParquetFile(path).schema).splitlines()
    assert any(_parquet_name(kind.parquet) in line for line in stored), stored
    found = pq.read_table(path)
    assert found.schema.equals(schema.arrow)
    assert same(schema.from_columns(_one(found)), events)


def _parquet_name(name: str) -> str:
    # How Parquet prints a type: logical names in mixed case, physical ones in lower case.
    names = {
        "STRING": "(String)",
        "DATE": "(Date)",
        "LIST": "(List)",
        "MAP": "(Map)",
        "TIMESTAMP(MICROS, UTC)": "Timestamp(isAdjustedToUTC=true, timeUnit=microseconds",
        "DECIMAL(38, 2)": "Decimal(precision=38, scale=2)",
        "BYTE_ARRAY": "binary ",
    }
    return names.get(name, name.lower())


@each_kind
def test_duckdb_both_ways(kind: Kind, tmp_path: Path) -> None:
    """Scanned as Arrow, stored in a table, and read back; and what DuckDB makes of the Parquet file."""
    schema, events = events_of(kind)
    events_table = pa.Table.from_batches([schema.to_columns(events)])
    path = tmp_path / "events.parquet"
    pq.write_table(events_table, path)
    with duckdb.connect() as db:
        db.register("events_view", events_table)
        db.execute("CREATE TABLE stored AS SELECT * FROM events_view")
        assert _column_type(db, "stored") == kind.duckdb
        assert _column_type(db, f"read_parquet('{path}')") == (kind.from_parquet or kind.duckdb)
        for source in ("stored", f"read_parquet('{path}')"):
            back = db.sql(f"SELECT * FROM {source}").to_arrow_table()
            assert same(schema.from_columns(_one(back)), events)


def _column_type(db: duckdb.DuckDBPyConnection, source: str) -> str:
    return db.execute(f"DESCRIBE SELECT one FROM {source}").fetchall()[0][1]


@each_kind
def test_polars_both_ways(kind: Kind) -> None:
    """What a flow does with a batch: into a frame and back, whose Arrow types differ in widths."""
    schema, events = events_of(kind)
    frame = pl.from_arrow(schema.to_columns(events))
    assert isinstance(frame, pl.DataFrame)
    assert same(schema.from_columns(_one(frame.to_arrow())), events)


def _one(table: pa.Table) -> pa.RecordBatch:
    return table.combine_chunks().to_batches()[0]


def test_columns_hold_instants_and_json_keeps_the_offset() -> None:
    schema = schema_of(msgspec.defstruct("Seen", [("at", datetime)]))
    event = schema.decode(b'{"at":"2026-07-01T12:00:00+02:00"}')
    assert schema.encode(event) == b'{"at":"2026-07-01T12:00:00+02:00"}'
    back = schema.from_columns(schema.to_columns([event]))[0]
    assert back == event
    assert back.at.tzinfo is UTC  # pyright: ignore[reportAttributeAccessIssue]
    assert schema.columns_to_lines(schema.to_columns([event])) == [b'{"at":"2026-07-01T10:00:00Z"}']


def test_the_page_says_what_is_tested() -> None:
    """Each row of docs/reference/types.md is a kind as it was tested above, and each kind has its row."""
    rows = [line for line in PAGE.read_text().partition("\n## ")[0].splitlines() if line.startswith("| `")]
    assert rows == [_row(kind) for kind in KINDS]


def _row(kind: Kind) -> str:
    duckdb_type = kind.duckdb if kind.from_parquet is None else f"{kind.duckdb} ({kind.from_parquet} in a file)"
    cells = (kind.json, str(kind.arrow), kind.parquet, duckdb_type)
    return f"| `{kind.python}` | " + " | ".join(f"`{c}`" if i else c for i, c in enumerate(cells)) + " |"
