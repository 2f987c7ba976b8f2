"""Runs the flights pipeline of examples/ on the real data, here or in another process, and looks at what it left."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import duckdb
import pyarrow as pa

from penstock.app.app import App

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "flights.py"

PROGRAM = """
import os, sys
from importlib.util import module_from_spec, spec_from_file_location
os.environ["PENSTOCK_DEMO_OUT"] = sys.argv[2]
spec = spec_from_file_location("flights", sys.argv[1])
module = module_from_spec(spec)
spec.loader.exec_module(module)
module.app.run(until_idle=True)
"""


def flights_app(out: Path) -> App:
    """The example's app with its results in `out`."""
    before = os.environ.get("PENSTOCK_DEMO_OUT")
    os.environ["PENSTOCK_DEMO_OUT"] = str(out)
    try:
        spec = spec_from_file_location("flights_example", EXAMPLE)
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.app
    finally:
        os.environ.pop("PENSTOCK_DEMO_OUT")
        if before is not None:
            os.environ["PENSTOCK_DEMO_OUT"] = before


@contextmanager
def flights_process(out: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The same in a process of its own, killed at the end of the block if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(EXAMPLE), str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def departures(out: Path) -> pa.Table:
    """The lake, as a reader globs it, in the oracle's order."""
    found = duckdb.sql(f"""
        select carrier, airline, flight, origin, dest, scheduled, departed, delay_min
        from read_parquet('{out}/lake/departures/**/*.parquet') order by carrier, flight, origin, scheduled
    """)
    assert found is not None
    return found.to_arrow_table()


def carrier_delay(out: Path) -> pa.Table:
    """The running aggregate as the target has it, in the oracle's order."""
    with duckdb.connect(str(out / "flights.duckdb"), read_only=True) as connection:
        return connection.sql("select * from carrier_delay order by carrier").to_arrow_table()
