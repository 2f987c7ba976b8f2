"""Workers that are told to stop, or die, and targets that several write to: nothing is lost or done twice."""

from __future__ import annotations

import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from penstock.channel.api import Owned
from penstock.sink.api import Claim, Staged
from penstock.sink.duckdb import duckdb_table
from penstock.sink.parquet import parquet
from tests.faults import appwork
from tests.faults import engineprogram as program
from tests.faults.report import FaultReport, Tally


def published(place: Path, count: int = program.EVENTS) -> None:
    """Put the program's events into its log."""
    with program.made(place).client() as client:
        client.publish_many("items", [program.Item(number) for number in range(count)])


def finished(place: Path, tally: Tally, dead: list[int] | None = None, count: int = program.EVENTS) -> None:
    """Run it to its end: every event is done once, in order, but for those that are dead letters."""
    dead = dead or []
    topics = appwork.contents(place / "log")
    wanted = [number for number in range(count) if number not in dead]
    tally.compare(wanted, [event["number"] for event in topics["done"]])
    tally.compare(dead, [event["number"] for event in topics.get("work.dead", [])])


def run_to_the_end(place: Path, kind: str = "slow") -> None:
    """Another process goes on where the last one was ended."""
    (place / "free").touch()
    with program.start(kind, place) as again:
        assert again.wait(60) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_with_an_event_in_hand(tmp_path: Path, number: int, fault_report: FaultReport) -> None:
    """It finishes what is in hand, commits it, and ends with 0."""
    tally = fault_report("B8")
    published(tmp_path)
    with program.start("slow", tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in hand\n"
        process.send_signal(number)
        process.communicate("go on\n", timeout=60)
        assert process.returncode == 0
    committed = [event["number"] for event in appwork.contents(tmp_path / "log")["done"]]
    assert program.SPECIAL in committed
    run_to_the_end(tmp_path)
    finished(tmp_path, tally)
    tally.points += 1
    assert tally.clean, tally.told


def test_told_to_stop_when_events_have_become_slow(tmp_path: Path, fault_report: FaultReport) -> None:
    """Whatever it was about to do while it was quick, it ends soon, and has committed what it did."""
    tally = fault_report("B8")
    published(tmp_path, program.MANY)
    with program.start("slower", tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "slow now\n"
        process.send_signal(signal.SIGTERM)
        told, _ = process.communicate(timeout=60)  # all that it had taken on would be minutes
        assert process.returncode == 0
    done = [event["number"] for event in appwork.contents(tmp_path / "log")["done"]]
    assert done == list(range(program.QUICK + 1 + told.count("slow now")))
    run_to_the_end(tmp_path, "slower")
    finished(tmp_path, tally, count=program.MANY)
    tally.points += 1
    tally.note(f"{told.count('slow now')} more events")
    assert tally.clean, tally.told


@pytest.mark.parametrize("numbers", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGKILL,)])
def test_ended_with_an_event_in_hand(tmp_path: Path, numbers: tuple[int, ...], fault_report: FaultReport) -> None:
    """A second SIGTERM does not wait, SIGKILL never did: what was in hand is handled by the next process."""
    tally = fault_report("B8", "B9")
    published(tmp_path)
    with program.start("slow", tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in hand\n"
        while process.poll() is None:  # two of one kind at once would be one
            process.send_signal(numbers[-1])
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
        assert process.returncode == -numbers[-1]
    run_to_the_end(tmp_path)
    finished(tmp_path, tally)
    tally.points += 1
    assert tally.clean, tally.told


def test_an_event_that_kills_its_worker(tmp_path: Path, fault_report: FaultReport) -> None:
    """Each death is an attempt, though nobody was left to write it down; after the last one it is a dead letter."""
    tally = fault_report("B9")
    published(tmp_path)
    codes: list[int] = []
    while len(codes) < program.ATTEMPTS + 3 and (not codes or codes[-1]):
        with program.start("deadly", tmp_path) as process:
            codes.append(process.wait(60))
        tally.points += 1
    assert codes == [9] * program.ATTEMPTS + [0]
    finished(tmp_path, tally, dead=[program.SPECIAL])
    assert tally.clean, tally.told


def _rows(sink: str, place: Path) -> list[tuple[str, int]]:
    if sink == "duckdb":
        with duckdb.connect(str(place / "x.duckdb")) as connection:
            return sorted(connection.execute("SELECT who, id FROM t").fetchall())
    with duckdb.connect() as connection:
        found = connection.execute("SELECT who, id FROM read_parquet(?)", [f"{place}/lake/**/*.parquet"]).fetchall()
    return sorted(found)


@pytest.mark.parametrize("kind", ["duckdb", "parquet"])
def test_two_pipelines_write_one_target(tmp_path: Path, kind: str, fault_report: FaultReport) -> None:
    """Each has a position of its own there, and neither takes the other's for its own after a crash."""
    tally = fault_report("G7")
    config = duckdb_table(tmp_path / "x.duckdb", table="t") if kind == "duckdb" else parquet(tmp_path / "lake")
    owned = Owned("t", 0, 1)
    ends = {"a": 0, "b": 0}
    for epoch, (who, size) in enumerate([("a", 5), ("b", 3), ("b", 4), ("a", 2), ("a", 6)], 1):
        sink = config.open()
        owned = Owned("t", 0, epoch)
        assert sink.claim(Claim(who, owned, "log", 1, floor=0, tip=100)) == ends[who]
        first, end = ends[who], ends[who] + size
        batch = pa.RecordBatch.from_pydict({"who": [who] * size, "id": list(range(first, end))})
        sink.write(Staged(owned, first, end, batch))
        assert sink.commit(owned) == end
        ends[who] = end
        sink.close()
        tally.points += 1
    wanted = sorted((who, number) for who, end in ends.items() for number in range(end))
    tally.compare(wanted, _rows(kind, tmp_path))
    assert tally.clean, tally.told
