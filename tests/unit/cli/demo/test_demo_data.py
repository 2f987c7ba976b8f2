"""The demonstration's events: how many, in what order, in what columns, and equal to what DuckDB reads."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, get_args, get_type_hints

import duckdb
import msgspec
import polars as pl
import pyarrow as pa
import pytest

from penstock.cli.demo.data import DemoData
from penstock.cli.demo.flights import FlightArrived, FlightDeparted, FlightScheduled
from tests.oracle import flights

FRAMES: list[tuple[str, type[msgspec.Struct]]] = [
    ("scheduled", FlightScheduled),
    ("departed", FlightDeparted),
    ("arrived", FlightArrived),
]
COLUMNS = {str: pl.String(), int: pl.Int64(), datetime: pl.Datetime("us", "UTC")}


def frame_of(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def test_counts_are_those_of_the_year(demo: DemoData) -> None:
    heights = [demo.scheduled.height, demo.departed.height, demo.arrived.height]
    assert heights == [336_776, 336_776, 327_346]
    assert sum(heights) == 1_000_898
    assert demo.departed["departed"].null_count() == 8_255
    assert demo.departed["departed"].count() == 328_521
    assert demo.airlines.height == 16


@pytest.mark.parametrize(("name", "kind"), FRAMES)
def test_columns_are_the_fields_of_the_type(demo: DemoData, name: str, kind: type[msgspec.Struct]) -> None:
    frame: pl.DataFrame = getattr(demo, name)
    hints = get_type_hints(kind)
    bare: dict[str, Any] = {
        field: next((t for t in get_args(hint) if t in COLUMNS), hint) for field, hint in hints.items()
    }
    assert list(frame.schema.items()) == [(field, COLUMNS[bare[field]]) for field in kind.__struct_fields__]
    for field, hint in hints.items():
        assert (frame[field].null_count() > 0) == (type(None) in get_args(hint)), field


@pytest.mark.parametrize(("name", "kind"), FRAMES)
def test_rows_convert_strictly_to_the_type(demo: DemoData, name: str, kind: type[msgspec.Struct]) -> None:
    frame: pl.DataFrame = getattr(demo, name)
    for row in frame.gather_every(frame.height // 200).iter_rows(named=True):
        event = msgspec.convert(row, kind, strict=True)
        assert msgspec.json.decode(msgspec.json.encode(event), type=kind) == event


@pytest.mark.parametrize(("name", "kind"), FRAMES)
def test_the_key_identifies_the_flight(demo: DemoData, name: str, kind: type[msgspec.Struct]) -> None:
    frame: pl.DataFrame = getattr(demo, name)
    assert frame["key"].n_unique() == frame.height
    assert frame["key"].str.contains(r"^[0-9A-Z]{2}-\d+-[A-Z]{3}-201[34]\d{4}T\d\d$").all()
    assert (
        frame.join(demo.scheduled, on=["key", "carrier", "flight", "origin", "dest", "scheduled"]).height
        == frame.height
    )
    assert kind.__struct_fields__[0] == "key"


def test_events_come_as_they_happen_and_the_key_breaks_ties(demo: DemoData) -> None:
    assert demo.scheduled.equals(demo.scheduled.sort("scheduled", "key"))
    assert demo.departed.equals(demo.departed.sort(pl.coalesce("departed", "scheduled"), "key"))
    assert demo.arrived.equals(demo.arrived.sort("arrived", "key"))
    for frame, moment in ((demo.scheduled, "scheduled"), (demo.arrived, "arrived")):
        assert frame[moment].n_unique() < frame.height, "without ties this test would show nothing"


def test_departures_are_out_of_order_by_up_to_21_7_hours(demo: DemoData) -> None:
    behind = demo.departed.select(behind=pl.col("scheduled").cum_max() - pl.col("scheduled"))["behind"]
    assert behind.max() == timedelta(hours=21, minutes=40)
    assert (behind > timedelta(0)).sum() > 100_000


def test_delays_are_differences_of_the_moments(demo: DemoData) -> None:
    left = demo.departed.with_columns(minutes=(pl.col("departed") - pl.col("scheduled")).dt.total_minutes())
    assert left["minutes"].equals(left["delay_min"].rename("minutes"), null_equal=True)
    flown = demo.arrived.select(minutes=(pl.col("arrived") - pl.col("departed")).dt.total_minutes())["minutes"]
    assert flown.equals(demo.arrived["air_time_min"].rename("minutes"))


def test_moments_agree_with_the_clocks_in_new_york(demo: DemoData, oracle: duckdb.DuckDBPyConnection) -> None:
    """The files also hold wall-clock times, which neither the product nor the oracle computes with."""
    clocks = frame_of(oracle.sql("select key, sched_dep_time, dep_time from flights").to_arrow_table())
    both = demo.departed.join(clocks, on="key")
    assert both.height == demo.departed.height
    for moment, clock in (("scheduled", "sched_dep_time"), ("departed", "dep_time")):
        local = pl.col(moment).dt.convert_time_zone("America/New_York")
        told = local.dt.hour().cast(pl.Int64) * 100 + local.dt.minute()
        wrong = both.filter(told.ne_missing(pl.col(clock) % 2400))
        assert wrong.height == 0, wrong


def test_frames_hold_what_the_oracle_reads(demo: DemoData, oracle: duckdb.DuckDBPyConnection) -> None:
    wanted = {
        "scheduled": """select key, carrier, flight, origin, dest, tailnum, scheduled
            from flights order by scheduled, key""",
        "departed": """select key, carrier, flight, origin, dest, scheduled, departed, dep_delay as delay_min
            from flights order by coalesce(departed, scheduled), key""",
        "arrived": """select key, carrier, flight, origin, dest, scheduled, departed, arrived,
            arr_delay as arr_delay_min, air_time as air_time_min
            from flights where air_time is not null order by arrived, key""",
        "airlines": "select carrier, airline as name from airlines order by carrier",
    }
    for name, query in wanted.items():
        assert getattr(demo, name).equals(frame_of(oracle.sql(query).to_arrow_table()), null_equal=True), name


def test_departures_with_airlines_equal_the_oracle(demo: DemoData, oracle: duckdb.DuckDBPyConnection) -> None:
    joined = (
        demo.departed.drop_nulls("departed")
        .join(demo.airlines.rename({"name": "airline"}), on="carrier")
        .select("carrier", "airline", "flight", "origin", "dest", "scheduled", "departed", "delay_min")
        .sort("carrier", "flight", "origin", "scheduled")
    )
    assert joined.height == 328_521
    assert joined.equals(frame_of(flights.departures(oracle)))


def test_carrier_delay_equals_the_oracle(demo: DemoData, oracle: duckdb.DuckDBPyConnection) -> None:
    totals = (
        demo.departed.drop_nulls("departed")
        .join(demo.airlines.rename({"name": "airline"}), on="carrier")
        .group_by("carrier", "airline")
        .agg(
            flights=pl.len().cast(pl.Int64),
            mean_delay_min=pl.col("delay_min").sum() / pl.len(),
            max_delay_min=pl.col("delay_min").max(),
        )
        .sort("carrier")
    )
    assert totals.equals(frame_of(flights.carrier_delay(oracle)))
    assert totals["flights"].sum() == 328_521


def test_rejected_keys_equal_the_oracle(demo: DemoData, oracle: duckdb.DuckDBPyConnection) -> None:
    rejected = sorted(demo.departed.filter(pl.col("departed").is_null())["key"])
    assert len(rejected) == 8_255
    assert rejected == flights.rejected_keys(oracle)
