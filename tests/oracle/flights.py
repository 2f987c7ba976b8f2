"""What the demonstration must deliver, computed by DuckDB straight from the CSV files, without the product's code."""

from __future__ import annotations

import zipfile
from pathlib import Path

import duckdb
import pyarrow as pa

_FLIGHTS = """
create table flights as
select carrier || '-' || flight || '-' || origin || '-' || strftime(time_hour, '%Y%m%dT%H') as key,
       time_hour + to_minutes(minute) as scheduled,
       time_hour + to_minutes(minute + dep_delay) as departed,
       time_hour + to_minutes(minute + dep_delay + air_time) as arrived,
       * exclude (year, month, day, distance, hour)
from read_csv(?, header = true, nullstr = 'NA', types = {'time_hour': 'TIMESTAMPTZ', 'tailnum': 'VARCHAR'})
"""
_AIRLINES = "create table airlines as select carrier, name as airline from read_csv(?, header = true)"


def opened(data_dir: Path, scratch: Path) -> duckdb.DuckDBPyConnection:
    """A database in memory with the tables `flights` and `airlines`. The caller closes it.

    Args:
        data_dir: where flights.csv.zip and airlines.csv lie.
        scratch: an empty directory; flights.csv is unpacked into it, as DuckDB reads no zip files.
    """
    with zipfile.ZipFile(data_dir / "flights.csv.zip") as archive:
        unpacked = archive.extract("flights.csv", scratch)
    connection = duckdb.connect()
    connection.execute("set TimeZone = 'UTC'")
    connection.execute(_FLIGHTS, [unpacked])
    connection.execute(_AIRLINES, [str(data_dir / "airlines.csv")])
    return connection


def departures(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """One row per flight that left, in order of carrier, flight, origin, scheduled (which no two rows share)."""
    return connection.sql("""
        select carrier, airline, flight, origin, dest, scheduled, departed, dep_delay as delay_min
        from flights join airlines using (carrier)
        where dep_delay is not null
        order by carrier, flight, origin, scheduled
    """).to_arrow_table()


def carrier_delay(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """One row per carrier over the flights that left, in order of carrier."""
    return connection.sql("""
        select carrier, airline, count(*) as flights, avg(dep_delay) as mean_delay_min, max(dep_delay) as max_delay_min
        from flights join airlines using (carrier)
        where dep_delay is not null
        group by carrier, airline
        order by carrier
    """).to_arrow_table()


def rejected_keys(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """The keys of the flights that never left, in order of key."""
    return [key for (key,) in connection.sql("select key from flights where dep_delay is null order by key").fetchall()]
