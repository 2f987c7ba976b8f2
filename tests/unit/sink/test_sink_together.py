"""Several tables of one DuckDB file in one program: they take turns, whoever else looks at the file."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import msgspec
import polars as pl
import pyarrow as pa
import pytest

from penstock import App, duckdb_table
from penstock.channel.api import Owned
from penstock.errors import TransientError
from penstock.sink.api import Claim, Staged
from penstock.sink.duckdb.turns import turn_at
from penstock.system.points import hooked

TABLES = ("a", "b", "c")


class Reading(msgspec.Struct):
    id: int
    text: str


def program(place: Path) -> App:
    """Three tables in one file, each by a sink of its own."""
    app = App("together", path=place / "log")
    readings = app.topic("readings", Reading, key="id")
    for name in TABLES:
        app.flow(name, readings).filter(pl.col("id") >= 0).to(duckdb_table(place / "o.duckdb", table=name, key="id"))
    return app


def grow(place: Path, start: int, stop: int) -> None:
    app = program(place)
    with app.client() as client:
        client.publish_many(app.topics["readings"], [Reading(n, f"text {n}") for n in range(start, stop)])


def ids_of(place: Path, table: str) -> list[int]:
    with duckdb.connect(str(place / "o.duckdb"), read_only=True) as connection:
        return [row[0] for row in connection.execute(f"SELECT id FROM {table} ORDER BY id").fetchall()]


_LOOK = """
import duckdb, sys, threading
while not sys.stdin.closed:
    try:
        with duckdb.connect(sys.argv[1], read_only=True) as connection:
            connection.execute("SHOW TABLES").fetchall()
            print("looked", flush=True)
            if not sys.stdin.readline():
                break
    except duckdb.Error:
        continue
"""


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh file", "existing file"])
def test_tables_of_one_file_in_one_program(tmp_path: Path, fresh: bool) -> None:
    if not fresh:
        duckdb.connect(str(tmp_path / "o.duckdb")).close()
    for run in range(4):
        grow(tmp_path, run * 300, run * 300 + 300)
        program(tmp_path).run(until_idle=True)
        for table in TABLES:
            assert ids_of(tmp_path, table) == list(range(run * 300 + 300))
    assert {path.name for path in tmp_path.iterdir()} <= {"log", "o.duckdb", "o.duckdb.wal"}


def test_with_a_reader_that_comes_and_goes(tmp_path: Path) -> None:
    duckdb.connect(str(tmp_path / "o.duckdb")).close()
    command = [sys.executable, "-c", _LOOK, str(tmp_path / "o.duckdb")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        grow(tmp_path, 0, 300)
        assert reader.stdout.readline() == "looked\n"  # it holds the file, until told to go on
        waits = threading.Event()
        running = ThreadPoolExecutor(1).submit(_run_until, tmp_path, waits)
        assert waits.wait(60), "no sink has met the reader"
        reader.communicate()
        running.result()
    for table in TABLES:
        assert ids_of(tmp_path, table) == list(range(300))


def _run_until(place: Path, waits: threading.Event) -> None:
    tries: list[str] = []

    def see(point: str) -> None:
        if point == "duckdb.open":
            tries.append(point)
            if len(tries) > 2 * len(TABLES):  # more than each has at first: somebody waits
                waits.set()

    with hooked(see):
        program(place).run(until_idle=True)


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh file", "existing file"])
def test_tables_claimed_and_committed_from_threads(tmp_path: Path, fresh: bool) -> None:
    path = tmp_path / "x.duckdb"
    if not fresh:
        duckdb.connect(str(path)).close()
    start = threading.Barrier(4)

    def work(number: int) -> int:
        sink = duckdb_table(path, table=f"t{number}", wait_s=0).open()
        owned = Owned("delays", 0, 1)
        start.wait()
        at = sink.claim(Claim(f"p{number}", owned, "log", 1, 0, 1000))
        for first in range(at, at + 50, 10):
            rows = pa.RecordBatch.from_pydict({"id": list(range(first, first + 10))})
            sink.write(Staged(owned, first, first + 10, rows))
            at = sink.commit(owned)
        sink.close()
        return at

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [50] * 4
    with duckdb.connect(str(path)) as connection:
        for number in range(4):
            assert connection.execute(f"SELECT count(*), sum(id) FROM t{number}").fetchall() == [(50, 1225)]


def test_who_waits_for_another_process_does_not_keep_the_others(tmp_path: Path) -> None:
    """Each would keep a thread, and the program has few."""
    turn = turn_at(tmp_path / "x.duckdb")
    taken, go = threading.Event(), threading.Event()

    def first() -> None:
        with turn.taken():
            turn.held_by = "x.duckdb is held by process 7"
            taken.set()
            assert go.wait(60)
            turn.held_by = ""

    thread = threading.Thread(target=first)
    thread.start()
    assert taken.wait(60)
    with pytest.raises(TransientError, match="held by process 7"), turn.taken():
        pass
    go.set()
    thread.join()
    with turn.taken(), turn.taken():
        pass


def test_one_file_has_one_turn_under_every_name(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert turn_at(tmp_path / "link" / "x.duckdb") is turn_at(tmp_path / "real" / ".." / "real" / "x.duckdb")
    assert turn_at(tmp_path / "real" / "y.duckdb") is not turn_at(tmp_path / "real" / "x.duckdb")
