"""What users write becomes a configuration, or an error that says what to write."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from penstock.errors import ConfigError
from penstock.sink.api import Roll
from penstock.sink.duckdb import duckdb_table
from penstock.sink.parquet import parquet
from penstock.sink.roll import roll_of


@pytest.mark.parametrize(("text", "seconds"), [("60s", 60), ("1.5 m", 90), ("250ms", 0.25), ("2h", 7200), (3, 3)])
def test_rolls_are_durations(text: str | float, seconds: float) -> None:
    assert roll_of(text, path="x") == Roll(seconds=seconds)


@pytest.mark.parametrize("text", ["", "60", "1 week", "-1s", "0s", 0, -2.0, Roll(events_max=0)])
def test_other_rolls_are_refused(text: str | float | Roll) -> None:
    with pytest.raises(ConfigError, match=r"^sink\.roll: ") as caught:
        roll_of(text, path="sink.roll")
    assert caught.value.path == "sink.roll"


def test_parquet_options(tmp_path: Path) -> None:
    config = parquet(tmp_path / "lake", roll="60s", zstd_level=5)
    assert (config.path, config.roll.seconds, config.zstd_level) == (str(tmp_path / "lake"), 60.0, 5)
    assert not (tmp_path / "lake").exists(), "nothing is touched before the first claim"
    (tmp_path / "file").touch()
    for wrong in ({"path": ""}, {"path": tmp_path / "file"}, {"path": "x", "zstd_level": 0}):
        with pytest.raises(ConfigError, match=r"^parquet\."):
            parquet(**wrong)  # pyright: ignore[reportArgumentType]


def test_duckdb_options() -> None:
    config = duckdb_table("a.duckdb", table="carrier_delay", key="carrier", roll="5s")
    assert (config.table, config.key, config.roll.seconds) == ("carrier_delay", ("carrier",), 5.0)


@pytest.mark.parametrize("name", ['a"b', "a b", "", "1a", "a;drop table t", "x" * 129, "penstock_progress", "ä", "a\n"])
def test_identifiers_come_from_an_allow_list(name: str) -> None:
    with pytest.raises(ConfigError, match=r"duckdb_table\.table"):
        duckdb_table("a.duckdb", table=name)
    with pytest.raises(ConfigError, match=r"duckdb_table\.key"):
        duckdb_table("a.duckdb", table="t", key=[name])


def test_other_duckdb_options_are_refused() -> None:
    for wrong in ({"path": ":memory:"}, {"path": ""}, {"path": "a", "key": ("a", "A")}, {"path": "a", "wait_s": -1}):
        with pytest.raises(ConfigError, match=r"^duckdb_table\."):
            duckdb_table(**{"table": "t", **wrong})  # pyright: ignore[reportArgumentType]


def test_declaring_sinks_loads_no_heavy_library() -> None:
    code = (
        "import sys; from penstock.sink import ParquetSink, duckdb_table; from penstock.sink.parquet import parquet; "
        "parquet('x'); duckdb_table('x', table='t'); print([m for m in ('pyarrow', 'duckdb') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
