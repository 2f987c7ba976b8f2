"""A full disk under a sink: the sink waits, everything else goes on, and with room again nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import polars as pl
import pyarrow as pa
import pytest

from penstock import App, duckdb_table, parquet
from penstock.channel.api import Owned
from penstock.errors import Fenced, SinkFull, TransientError
from penstock.sink.api import Claim, Roll, Sink, Staged
from penstock.sink.duckdb.errors import translated
from penstock.sink.parquet.errors import io_failed
from penstock.system.points import hooked

SIZE = 4 << 20
ROW_BYTES = 1000


@pytest.fixture
def small(tmp_path: Path) -> Generator[Path]:
    """A file system of its own, with room for 4 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount here")
    if done.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path, *, leave: int = 0) -> Path:
    """Take all room but `leave` bytes."""
    taken = place / "taken"
    for size in (1 << 16, 1 << 9):
        with suppress(OSError), taken.open("ab", buffering=0) as file:
            while file.write(b"x" * size) == size:
                pass
    assert os.statvfs(place).f_bavail == 0
    os.truncate(taken, max(0, taken.stat().st_size - leave))
    return taken


def made(kind: str, place: Path) -> Sink:
    return (parquet(place / "lake") if kind == "parquet" else duckdb_table(place / "x.duckdb", table="t")).open()


def claim(epoch: int, partition: int = 0) -> Claim:
    return Claim("p", Owned("delays", partition, epoch), "log", 1, 0, 100_000)


def staged(owned: Owned, first: int, end: int) -> Staged:
    rows = {"id": list(range(first, end)), "noise": [os.urandom(ROW_BYTES) for _ in range(first, end)]}
    return Staged(owned, first, end, pa.RecordBatch.from_pydict(rows))


def ids_in(kind: str, place: Path) -> list[int]:
    if kind == "parquet":
        return sorted(pl.read_parquet(place / "lake" / "**/*.parquet")["id"].to_list())
    with duckdb.connect(str(place / "x.duckdb")) as connection:
        return [row[0] for row in connection.execute("SELECT id FROM t ORDER BY id").fetchall()]


@pytest.mark.parametrize("leave", [0, 4096, 40_000, 700_000, 1_500_000])
@pytest.mark.parametrize("kind", ["parquet", "duckdb"])
def test_a_real_full_disk(small: Path, kind: str, leave: int) -> None:
    sink = made(kind, small)
    assert sink.claim(claim(1)) == 0
    owned = Owned("delays", 0, 1)
    sink.write(staged(owned, 0, 10))
    assert sink.commit(owned) == 10
    taken = fill(small, leave=leave)
    with pytest.raises(TransientError, match=r"No space left on device.*free room") as caught:
        _write_and_commit(sink, owned, 10, 2510)
    assert str(small) in str(caught.value)
    if isinstance(caught.value, SinkFull):
        assert list(small.glob("lake/**/*.part")) == [], "it keeps the room that it asks others to free"
    else:
        with pytest.raises(TransientError, match="free room"):
            sink.commit(owned)
    assert ids_in(kind, small) == list(range(10))
    taken.unlink()
    owned = Owned("delays", 0, 2)
    assert sink.claim(claim(2)) == 10
    sink.write(staged(owned, 10, 1000))
    assert sink.commit(owned) == 1000
    sink.close()
    assert ids_in(kind, small) == list(range(1000))


def _write_and_commit(sink: Sink, owned: Owned, first: int, end: int) -> None:
    for number in range(first, end, 250):
        sink.write(staged(owned, number, number + 250))
    sink.commit(owned)


@pytest.mark.parametrize("kind", ["parquet", "duckdb"])
def test_a_claim_on_a_full_disk(small: Path, kind: str) -> None:
    taken = fill(small)
    sink = made(kind, small)
    for _ in range(2):
        with pytest.raises(TransientError, match=r"No space left on device.*free room"):
            sink.claim(claim(1))
    taken.unlink()
    assert sink.claim(claim(1)) == 0
    sink.write(staged(Owned("delays", 0, 1), 0, 10))
    assert sink.commit(Owned("delays", 0, 1)) == 10
    sink.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_every_partition_gives_its_room_back(tmp_path: Path, number: int) -> None:
    """What one partition needs may be what another one of the same sink has taken."""

    def full(point: str) -> None:
        if point.startswith("parquet.create:") and "armed" in state:
            raise OSError(number, os.strerror(number))

    state = set[str]()
    sink = made("parquet", tmp_path)
    with hooked(full):
        for partition in range(3):
            assert sink.claim(claim(1, partition)) == 0
        for partition in range(2):
            sink.write(staged(Owned("delays", partition, 1), 0, 40_000 // ROW_BYTES))
        assert len(list(tmp_path.rglob("*.part"))) == 2
        state.add("armed")
        with pytest.raises(SinkFull, match=os.strerror(number)):
            sink.write(staged(Owned("delays", 2, 1), 0, 1))
    assert list(tmp_path.rglob("*.part")) == []
    for partition in range(3):
        with pytest.raises(Fenced):
            sink.commit(Owned("delays", partition, 1))
    sink.close()


def test_a_commit_that_got_through_is_found_at_the_next_claim(tmp_path: Path) -> None:
    """The manifest is linked, its directory could not be synced: the files stay, whoever claims finishes them."""

    def full(point: str) -> None:
        if point == "files.sync_directory:0" and any(tmp_path.rglob("2.json")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    sink = made("parquet", tmp_path)
    sink.claim(claim(1))
    sink.write(staged(Owned("delays", 0, 1), 0, 10))
    with hooked(full), pytest.raises(SinkFull):
        sink.commit(Owned("delays", 0, 1))
    assert sink.claim(claim(2)) == 10
    sink.close()
    assert ids_in("parquet", tmp_path) == list(range(10))


def test_other_errors_of_a_disk_are_not_waited_for() -> None:
    assert not isinstance(io_failed(OSError(errno.EIO, os.strerror(errno.EIO)), "lake"), TransientError)
    assert not isinstance(translated(duckdb.IOException("Input/output error"), "x"), TransientError)
    assert isinstance(translated(duckdb.FatalException(f"wal: {os.strerror(errno.EDQUOT)}"), "x"), TransientError)


# -- a program -----------------------------------------------------------------------------------------------------


class Reading(msgspec.Struct):
    id: int
    noise: bytes


def program(log: Path, sinks: dict[str, Any], handled: list[int]) -> App:
    app = App("full", path=log)
    readings = app.topic("readings", Reading)

    @app.handle(readings)
    def seen(event: Reading) -> None:
        handled.append(event.id)

    for name, sink in sinks.items():
        app.flow(name, readings).filter(pl.col("id") >= 0).to(sink)
    return app


async def until(true: Callable[[], bool], running: asyncio.Future[Any]) -> None:
    while not true():
        assert not running.done(), running.exception()
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("kind", ["parquet", "duckdb"])
def test_the_rest_of_the_program_goes_on(tmp_path: Path, small: Path, kind: str) -> None:
    """Until there is room again; then the sink has each event once."""
    roll = Roll(seconds=0.1)
    full = parquet(small / "lake", roll=roll) if kind == "parquet" else duckdb_table(small / "x.duckdb", table="t")
    other = duckdb_table(tmp_path / "other.duckdb", table="t", roll=roll)
    handled: list[int] = []
    app = program(tmp_path / "log", {"full": full, "other": other}, handled)
    states: dict[str, Any] = {}

    def publish(start: int, stop: int) -> None:
        with app.client() as client:
            client.publish_many(app.topics["readings"], [Reading(n, os.urandom(ROW_BYTES)) for n in range(start, stop)])

    async def scenario() -> None:
        stop = asyncio.Event()
        running = asyncio.ensure_future(
            app.serve(stop, on_progress=lambda found: states.update({s.name: s for s in found}))
        )
        sunk = f"full.{kind}"
        await until(lambda: sunk in states and states[sunk].events >= 100, running)
        taken = fill(small, leave=100_000)
        await asyncio.to_thread(publish, 100, 1600)
        await until(lambda: len(handled) == 1600 and _count(tmp_path / "other.duckdb") == 1600, running)
        await until(lambda: kind == "duckdb" or "free room" in states[sunk].reason, running)
        assert states[sunk].events < 1600
        taken.unlink()
        await until(lambda: states[sunk].events == 1600, running)
        stop.set()
        await running

    publish(0, 100)
    asyncio.run(scenario())
    assert sorted(handled) == list(range(1600))
    assert ids_in(kind, small) == list(range(1600))


def _count(path: Path) -> int:
    try:
        with duckdb.connect(str(path), read_only=True) as connection:
            return connection.execute("SELECT count(*) FROM t").fetchall()[0][0]
    except duckdb.Error:
        return 0
