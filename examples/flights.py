"""Flights that left New York in 2013: what departed, with its airline, as Parquet; delays per carrier in DuckDB."""

import os
from datetime import datetime
from pathlib import Path

import polars as pl
from msgspec import Struct

from penstock import App, Reject, count, duckdb_table, max_, mean, parquet
from penstock.cli.demo.source import airlines, nycflights

OUT = Path(os.environ.get("PENSTOCK_DEMO_OUT", "build/demo")).absolute()
app = App("flights", path=OUT / "log")


class FlightScheduled(Struct):
    key: str
    carrier: str
    flight: int
    origin: str
    dest: str
    tailnum: str | None
    scheduled: datetime


class FlightDeparted(Struct):
    key: str
    carrier: str
    flight: int
    origin: str
    dest: str
    scheduled: datetime
    departed: datetime | None
    delay_min: int | None


class FlightArrived(Struct):
    key: str
    carrier: str
    flight: int
    origin: str
    dest: str
    scheduled: datetime
    departed: datetime
    arrived: datetime
    arr_delay_min: int
    air_time_min: int


class Departure(Struct):
    key: str
    carrier: str
    flight: int
    origin: str
    dest: str
    scheduled: datetime
    departed: datetime
    delay_min: int


scheduled = app.topic("flight_scheduled", FlightScheduled, key="key", time="scheduled")
departed = app.topic("flight_departed", FlightDeparted, key="key", time="scheduled", disorder="24h")
arrived = app.topic("flight_arrived", FlightArrived, key="key", time="arrived")
departures = app.topic("departures", Departure, key="key", time="scheduled", disorder="24h")

app.read(nycflights("scheduled"), into=scheduled)
app.read(nycflights("departed"), into=departed)
app.read(nycflights("arrived"), into=arrived)


@app.handle(departed, into=departures)
def check(flight: FlightDeparted) -> Departure:
    if flight.departed is None or flight.delay_min is None:
        raise Reject("never departed")
    return Departure(
        flight.key,
        flight.carrier,
        flight.flight,
        flight.origin,
        flight.dest,
        flight.scheduled,
        flight.departed,
        flight.delay_min,
    )


named = (
    app.flow("named", departures)
    .join(airlines(), on="carrier")
    .select(
        "carrier", pl.col("name").alias("airline"), "flight", "origin", "dest", "scheduled", "departed", "delay_min"
    )
    .to(parquet(OUT / "lake/departures"))
)
carrier_delay = (
    app.flow("carrier_delay", named)
    .by("carrier", "airline")
    .agg(flights=count(), mean_delay_min=mean("delay_min"), max_delay_min=max_("delay_min"))
    .to(duckdb_table(OUT / "flights.duckdb", table="carrier_delay", key=("carrier",)))
)
