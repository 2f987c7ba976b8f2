"""Real deaths: the process leaves by os._exit at a point of its work, and the next one ends with every event once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

_WORK = """
import os, sys
import pyarrow as pa
from penstock.channel.api import Owned
from penstock.sink.api import Claim, Staged
from penstock.sink.duckdb import duckdb_table
from penstock.sink.parquet import parquet
from penstock.system.points import hooked

place, kind, epoch, deadly = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
config = parquet(place + "/lake") if kind == "parquet" else duckdb_table(place + "/x.duckdb", table="t")

def die(name):
    if deadly and name.split(":")[0] == deadly and "armed" in state:
        os._exit(9)

state, sink, owned = set(), config.open(), Owned("delays", 0, epoch)
with hooked(die):
    at = sink.claim(Claim("p", owned, "log", 1, 0, 1000))
    while at < 1000:
        if at >= 500:
            state.add("armed")
        sink.write(Staged(owned, at, at + 250, pa.RecordBatch.from_pydict({"id": list(range(at, at + 250))})))
        at = sink.commit(owned)
sink.close()
"""

POINTS = {
    "parquet": ["parquet.write", "files.sync", "files.write", "files.link", "files.sync_directory", "files.remove"],
    "duckdb": ["duckdb.open", "duckdb.rows", "duckdb.commit.commit", "duckdb.commit.committed"],
}


@pytest.mark.parametrize(("kind", "point"), [(kind, point) for kind, points in POINTS.items() for point in points])
def test_killed_and_run_again(tmp_path: Path, kind: str, point: str) -> None:
    def work(epoch: int, deadly: str) -> int:
        command = [sys.executable, "-c", _WORK, str(tmp_path), kind, str(epoch), deadly]
        return subprocess.run(command, check=False).returncode

    assert work(1, point) == 9
    assert work(2, "") == 0
    if kind == "parquet":
        found = duckdb.sql(f"SELECT id FROM read_parquet('{tmp_path}/lake/**/*.parquet') ORDER BY id").fetchall()  # pyright: ignore[reportOptionalMemberAccess]
    else:
        with duckdb.connect(str(tmp_path / "x.duckdb")) as connection:
            found = connection.execute("SELECT id FROM t ORDER BY id").fetchall()
    assert found == [(number,) for number in range(1000)]
