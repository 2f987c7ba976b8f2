"""The DuckDB table beyond the contract: last offset wins, types, drift, who holds the file, a lost reply."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from penstock.channel.api import Owned
from penstock.errors import (
    ConfigError,
    CorruptionError,
    Fenced,
    LogRegressed,
    PenstockError,
    RefusedByTarget,
    TransientError,
)
from penstock.sink.api import Claim, Sink, Staged
from penstock.sink.duckdb import duckdb_table, wire
from penstock.sink.duckdb.driver import DuckDBTable
from penstock.sink.duckdb.errors import DUCKDB
from penstock.system.points import hooked

OWNED = Owned("delays", 0, 1)


def claim(epoch: int = 1, *, topic: str = "delays") -> Claim:
    return Claim("p", Owned(topic, 0, epoch), "log", 1, 0, 1000)


def opened(place: Path, *, key: tuple[str, ...] = ("id",), table: str = "t") -> Sink:
    sink = duckdb_table(place / "x.duckdb", table=table, key=key, wait_s=0).open()
    sink.claim(claim())
    return sink


def batch(**columns: Any) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(columns)


def put(sink: Sink, first: int, *batches: pa.RecordBatch) -> int:
    for one in batches:
        sink.write(Staged(OWNED, first, first + one.num_rows, one))
        first += one.num_rows
    return sink.commit(OWNED)


def query(place: Path, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(place / "x.duckdb")) as connection:
        return connection.execute(sql).fetchall()


def test_the_last_offset_of_a_key_wins(tmp_path: Path) -> None:
    sink = opened(tmp_path)
    put(sink, 0, batch(id=["a", "b", "a", None], v=[1, 2, 3, 4]), batch(id=["b", None], v=[5, 6]))
    assert query(tmp_path, "SELECT * FROM t ORDER BY id NULLS LAST") == [("a", 3), ("b", 5), (None, 6)]
    put(sink, 6, batch(id=["a", None, "c"], v=[None, 8, 9]))
    assert query(tmp_path, "SELECT * FROM t ORDER BY id NULLS LAST") == [("a", None), ("b", 5), ("c", 9), (None, 8)]


def test_a_commit_rewrites_nothing_of_the_file(tmp_path: Path) -> None:
    """DuckDB's checkpoint does, blocks that are in use, and who is killed in it leaves a file that nobody can open."""
    sink = opened(tmp_path)
    put(sink, 0, batch(id=["a"], v=[1]))
    before = (tmp_path / "x.duckdb").read_bytes()
    for number in range(1, 20):
        put(sink, number, batch(id=["a"], v=[number]))
    assert (tmp_path / "x.duckdb").read_bytes() == before
    sink.close()
    assert not (tmp_path / "x.duckdb.wal").exists(), "a file that is whole by itself"
    assert query(tmp_path, "SELECT * FROM t") == [("a", 19)]


def test_the_write_ahead_log_does_not_grow_without_end(tmp_path: Path) -> None:
    """Every commit reads all of it."""
    sink, most = opened(tmp_path), 0
    for number in range(100):
        put(sink, number, batch(id=[str(number)], v=["x" * 20_000]))
        most = max(most, (tmp_path / "x.duckdb.wal").stat().st_size if (tmp_path / "x.duckdb.wal").exists() else 0)
    assert 100_000 < most < 400_000


def test_a_file_named_by_a_link_is_whole_when_the_sink_is_closed(tmp_path: Path) -> None:
    """DuckDB's write-ahead log lies beside the file, in a directory that is to be synced."""
    (tmp_path / "real").mkdir()
    (tmp_path / "x.duckdb").symlink_to(tmp_path / "real" / "y.duckdb")
    synced: set[str] = set()
    with hooked(lambda point: synced.add(point.removeprefix("files.sync_directory:"))):
        sink = opened(tmp_path)
        put(sink, 0, batch(id=["a"], v=[1]))
    assert (tmp_path / "real" / "y.duckdb.wal").exists()
    assert "real" in synced
    sink.close()
    assert not (tmp_path / "real" / "y.duckdb.wal").exists(), "a file that is whole by itself"


def test_what_is_left_of_a_file_that_was_removed_is_not_taken_for_the_new_one_s(tmp_path: Path) -> None:
    put(opened(tmp_path), 0, batch(id=["a"], v=[1]))
    assert (tmp_path / "x.duckdb.wal").exists()
    (tmp_path / "x.duckdb").unlink()
    put(opened(tmp_path), 0, batch(id=["b"], v=[2]))
    assert query(tmp_path, "SELECT * FROM t") == [("b", 2)]


def test_a_file_that_is_removed_while_it_is_written_is_filled_again(tmp_path: Path) -> None:
    """Also for the tables that come to it when another one has made the new file."""
    first, second = opened(tmp_path, table="t"), opened(tmp_path, table="u")
    put(first, 0, batch(id=["a"], v=[1]))
    put(second, 0, batch(id=["a"], v=[1]))
    (tmp_path / "x.duckdb").unlink()
    for sink in (first, second):
        with pytest.raises(Fenced, match="the file was removed meanwhile; it is filled from the beginning"):
            put(sink, 1, batch(id=["b"], v=[2]))
        assert sink.claim(claim()) == 0
        assert put(sink, 0, batch(id=["a", "b"], v=[1, 2])) == 2
    assert query(tmp_path, "SELECT * FROM t UNION ALL SELECT * FROM u ORDER BY id") == [("a", 1)] * 2 + [("b", 2)] * 2


def test_a_file_whose_write_was_torn_is_named_with_the_way_out(tmp_path: Path) -> None:
    """As a kill in the middle of a checkpoint leaves it: half of a block is new."""
    sink = opened(tmp_path)
    put(sink, 0, batch(id=["a"], v=[1]))
    sink.close()
    body = bytearray((tmp_path / "x.duckdb").read_bytes())
    body[12_288 + 100] ^= 1
    (tmp_path / "x.duckdb").write_bytes(body)
    with pytest.raises(CorruptionError, match="remove both, and it fills a new file from the log's beginning"):
        opened(tmp_path)


def test_keys_of_several_columns_and_nothing_else(tmp_path: Path) -> None:
    sink = opened(tmp_path, key=("a", "b"))
    put(sink, 0, batch(a=[1, 1, 2], b=["x", "y", "x"]))
    put(sink, 3, batch(a=[1, 3], b=["x", "x"]))
    assert query(tmp_path, "SELECT * FROM t ORDER BY ALL") == [(1, "x"), (1, "y"), (2, "x"), (3, "x")]


def test_types_arrive_as_they_are(tmp_path: Path) -> None:
    moment = datetime(2013, 1, 1, 5, 15, 0, 123456, tzinfo=UTC)
    row = pa.RecordBatch.from_arrays(
        [
            pa.array([1]),
            pa.array([Decimal("-12.30")], pa.decimal128(10, 2)),
            pa.array([moment], pa.timestamp("us", "UTC")),
            pa.array([[1, None, 3]], pa.list_(pa.int64())),
            pa.array([{"x": 1, "y": ["a"]}], pa.struct({"x": pa.int64(), "y": pa.list_(pa.string())})),
            pa.array([date(2013, 1, 1)]),
            pa.array([b"\0\xff"]),
            pa.array(["nul\0inside"]),
            pa.array(["red"]).dictionary_encode(),
            pa.array([True]),
            pa.array([-0.0]),
        ],
        names=["id", "dec", "at", "list", "struct", "day", "raw", "text", "colour", "flag", "num"],
    )
    sink = opened(tmp_path)
    put(sink, 0, row)
    put(sink, 1, row)  # an update of nested columns too
    with duckdb.connect(str(tmp_path / "x.duckdb")) as connection:
        found = connection.sql("SELECT * FROM t").to_arrow_table()
        types = dict(connection.execute(wire.TABLE_COLUMNS, ["t"]).fetchall())
    assert found.num_rows == 1
    expected = row.to_pylist()[0]
    assert {name: found[name].to_pylist()[0] for name in found.schema.names} == expected
    assert str(found["num"].to_pylist()[0]) == "-0.0"
    assert found["at"].cast(pa.int64()).to_pylist() == [1357017300123456]
    assert (types["dec"], types["at"], types["colour"]) == ("DECIMAL(10,2)", "TIMESTAMP WITH TIME ZONE", "VARCHAR")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": ["x"], "v": ["text"]}, "column v is VARCHAR, in table t .* it is BIGINT"),
        ({"id": ["x"]}, "column v of table t .* is not among"),
        ({"id": ["x"], "v": [1], "w": [1]}, r"column w \(BIGINT\) is not in table t"),
        ({"v": [1]}, "the key column id is missing"),
        ({"id": ["x"], "v": [None]}, "column v has no type"),
        ({"id": ["x"], "v": [1], "V": [1]}, "columns v and V are one"),
        ({"id": ["x"], 'v"; DROP TABLE t; --': [1]}, "DROP TABLE t"),
        ({"id": ["x"], "penstock_row": [1]}, "penstock_"),
    ],
)
def test_drift_names_the_column(tmp_path: Path, columns: dict[str, list[Any]], message: str) -> None:
    first = opened(tmp_path)
    put(first, 0, batch(id=["a"], v=[1]))
    with pytest.raises(RefusedByTarget, match=message):
        put(first, 1, batch(**columns))
    first.close()
    later = duckdb_table(tmp_path / "x.duckdb", table="t", key=["id"]).open()
    assert later.claim(claim(2)) == 1
    with pytest.raises(RefusedByTarget, match=message):
        later.write(Staged(Owned("delays", 0, 2), 1, 2, batch(**columns)))
    assert query(tmp_path, "SELECT * FROM t") == [("a", 1)]


def test_a_table_altered_while_rows_are_staged(tmp_path: Path) -> None:
    sink = opened(tmp_path)
    put(sink, 0, batch(id=["a"], v=[1]))
    sink.write(Staged(OWNED, 1, 2, batch(id=["b"], v=[2])))
    query(tmp_path, "ALTER TABLE t RENAME v TO w")
    with pytest.raises(RefusedByTarget, match="column v"):
        sink.commit(OWNED)
    assert query(tmp_path, 'SELECT "offset" FROM penstock_progress') == [(1,)]
    query(tmp_path, "ALTER TABLE t RENAME w TO v")
    assert sink.commit(OWNED) == 2


def test_columns_in_another_order_fit(tmp_path: Path) -> None:
    sink = opened(tmp_path)
    put(sink, 0, batch(id=["a"], v=[1]), batch(v=[2], id=["b"]))
    put(sink, 2, batch(v=[3], id=["c"]))
    assert query(tmp_path, "SELECT id, v FROM t ORDER BY ALL") == [("a", 1), ("b", 2), ("c", 3)]


def test_a_constraint_refuses_the_commit_as_a_whole(tmp_path: Path) -> None:
    query(tmp_path, "CREATE TABLE t(id VARCHAR, v BIGINT CHECK (v < 10))")
    sink = opened(tmp_path)
    with pytest.raises(RefusedByTarget, match="CHECK"):
        put(sink, 0, batch(id=["a", "b"], v=[1, 11]))
    assert query(tmp_path, "SELECT * FROM t") == []
    assert query(tmp_path, 'SELECT "offset" FROM penstock_progress') == [(0,)]


def test_two_tables_of_one_pipeline_have_two_positions(tmp_path: Path) -> None:
    put(opened(tmp_path, table="t"), 0, batch(id=[1, 2]))
    other = opened(tmp_path, table="u")
    assert other.commit(OWNED) == 0
    assert put(other, 0, batch(id=[1])) == 1


def test_a_table_that_was_removed_is_filled_again_by_everybody(tmp_path: Path) -> None:
    def filled(epoch: int) -> list[int]:
        """Where each partition of each pipeline began; every one is claimed when others have filled it already."""
        begun: list[int] = []
        for pipeline, number in (("p", 0), ("p", 1), ("q", 0), ("q", 1)):
            sink = duckdb_table(tmp_path / "x.duckdb", table="T", key=("id",), wait_s=0).open()
            owned = Owned("delays", number, epoch)
            begun.append(sink.claim(Claim(pipeline, owned, "log", 1, 0, 1000)))
            if begun[-1] == 0:
                sink.write(Staged(owned, 0, 1, batch(id=[f"{pipeline}{number}"])))
                sink.commit(owned)
        return begun

    assert filled(1) == [0, 0, 0, 0]
    assert filled(2) == [1, 1, 1, 1]
    query(tmp_path, "DROP TABLE t")
    assert filled(3) == [0, 0, 0, 0]
    assert query(tmp_path, "SELECT id FROM t ORDER BY id") == [("p0",), ("p1",), ("q0",), ("q1",)]
    assert filled(4) == [1, 1, 1, 1]


def test_who_writes_beside_a_table_that_is_filled_again_begins_again_too(tmp_path: Path) -> None:
    sink, other = opened(tmp_path), Owned("delays", 1, 1)
    sink.claim(Claim("p", other, "log", 1, 0, 1000))
    put(sink, 0, batch(id=["a"], v=[1]))
    sink.write(Staged(other, 0, 1, batch(id=["b"], v=[2])))
    sink.commit(other)
    sink.write(Staged(other, 1, 2, batch(id=["c"], v=[3])))
    query(tmp_path, "DROP TABLE t")
    again = duckdb_table(tmp_path / "x.duckdb", table="t", key=("id",), wait_s=0).open()
    assert again.claim(claim(2)) == 0
    with pytest.raises(Fenced):
        sink.commit(other)
    assert sink.claim(Claim("p", Owned("delays", 1, 2), "log", 1, 0, 1000)) == 0


def test_a_table_that_is_removed_while_rows_are_staged_is_not_begun_in_the_middle(tmp_path: Path) -> None:
    sink = opened(tmp_path)
    put(sink, 0, batch(id=["a"], v=[1]))
    sink.write(Staged(OWNED, 1, 2, batch(id=["b"], v=[2])))
    query(tmp_path, "DROP TABLE t")
    with pytest.raises(Fenced, match="removed"):
        sink.commit(OWNED)
    assert sink.claim(claim()) == 0
    assert put(sink, 0, batch(id=["a", "b"], v=[1, 2])) == 2
    assert query(tmp_path, "SELECT id, v FROM t ORDER BY ALL") == [("a", 1), ("b", 2)]


def test_a_pipeline_keeps_its_topic(tmp_path: Path) -> None:
    opened(tmp_path)
    with pytest.raises(ConfigError, match="writes topic delays here, not arrivals"):
        duckdb_table(tmp_path / "x.duckdb", table="t").open().claim(claim(2, topic="arrivals"))


@pytest.mark.parametrize("edit", ['UPDATE penstock_progress SET "offset" = 7', "DELETE FROM penstock_progress"])
def test_a_position_edited_behind_our_back(tmp_path: Path, edit: str) -> None:
    """The rows are there, and would be there twice."""
    sink = opened(tmp_path)
    put(sink, 0, batch(id=[1]))
    sink.write(Staged(OWNED, 1, 2, batch(id=[2])))
    query(tmp_path, edit)
    with pytest.raises(LogRegressed, match="replaced or edited"):
        sink.commit(OWNED)
    assert query(tmp_path, "SELECT * FROM t") == [(1,)]


@pytest.mark.parametrize(("point", "rows"), [("duckdb.commit.committed", 1), ("duckdb.rows", 0)])
def test_a_lost_reply_is_read_from_the_row(tmp_path: Path, point: str, rows: int) -> None:
    def lose(name: str) -> None:
        if name == point:
            msg = "injected: the reply is lost"
            raise duckdb.IOException(msg)

    sink = opened(tmp_path, key=())
    sink.write(Staged(OWNED, 0, 1, batch(id=[1])))
    with hooked(lose):
        if rows:
            assert sink.commit(OWNED) == 1
        else:
            with pytest.raises(PenstockError, match="injected"):
                sink.commit(OWNED)
    assert sink.commit(OWNED) == 1
    assert query(tmp_path, "SELECT count(*) FROM t") == [(1,)]


_HOLD = """
import duckdb, sys
connection = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "read")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("mode", ["read", "write"])
def test_the_process_that_holds_the_file_is_named(tmp_path: Path, mode: str) -> None:
    sink = opened(tmp_path)
    sink.write(Staged(OWNED, 0, 1, batch(id=[1])))
    command = [sys.executable, "-c", _HOLD, str(tmp_path / "x.duckdb"), mode]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(TransientError, match=f"held by process {holder.pid}"):
            sink.commit(OWNED)
        holder.communicate()
    assert sink.commit(OWNED) == 1


def test_waiting_is_bounded_and_ends_when_the_file_is_free(tmp_path: Path) -> None:
    pauses: list[float] = []
    reader: list[duckdb.DuckDBPyConnection] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 30:
            reader.pop().close()

    config = duckdb_table(tmp_path / "x.duckdb", table="t", wait_s=1.0)
    sink = DuckDBTable(config, pause=pause)
    sink.claim(claim())
    sink.write(Staged(OWNED, 0, 1, batch(id=[1])))
    reader.append(duckdb.connect(str(tmp_path / "x.duckdb"), read_only=True))
    with pytest.raises(TransientError, match=f"held by process {os.getpid()}, for 1"):
        sink.commit(OWNED)
    assert 1.0 <= sum(pauses) < 1.5
    while len(pauses) < 29:  # the reader goes at the 30th pause, which is the next commit's first
        pauses.append(0.0)
    assert sink.commit(OWNED) == 1


def test_other_processes_read_between_commits(tmp_path: Path) -> None:
    sink = opened(tmp_path)
    put(sink, 0, batch(id=[1, 2]))
    code = "import duckdb, sys; print(duckdb.connect(sys.argv[1], read_only=True).sql('FROM t ORDER BY 1').fetchall())"
    command = [sys.executable, "-c", code, str(tmp_path / "x.duckdb")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[(1,), (2,)]"


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.duckdb"
    path.write_bytes(b"something else" * 1000)
    with pytest.raises(PenstockError, match=r"x\.duckdb"):
        opened(tmp_path)
    assert path.read_bytes() == b"something else" * 1000


def test_the_storage_version_of_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "x.duckdb"
    sink = duckdb_table(path, table="t", storage="v1.0.0").open()
    sink.claim(claim())
    assert put(sink, 0, batch(id=[1])) == 1
    assert query(tmp_path, "FROM t") == [(1,)]


def test_every_duckdb_error_has_a_meaning() -> None:
    names = {n for n, value in vars(duckdb).items() if isinstance(value, type) and issubclass(value, duckdb.Error)}
    assert names <= set(DUCKDB), f"unmapped: {names - set(DUCKDB)}"
    assert all(issubclass(meaning, PenstockError) for meaning in DUCKDB.values())
