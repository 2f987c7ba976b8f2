"""A file of every older format is opened as what it was, or not changed at all."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from penstock.errors import RecordDamaged
from penstock.log import catalogue, placed, progress
from penstock.log.api import Span
from penstock.log.connection import connect
from penstock.log.ddl import FORMAT_VERSION, OFFSET_MAX
from penstock.log.guard import DATABASE
from penstock.log.store import FORMATS
from penstock.system.points import hooked
from tests.unit.log.logs import opened

DATA = Path(__file__).parents[2] / "data"
OLDER = [version for version in FORMATS if version != FORMAT_VERSION]


def unpacked(version: int, directory: Path) -> Path:
    """The log that a program of that format left: two typed topics, a raw one, a handler with one dead letter."""
    with zipfile.ZipFile(DATA / f"log-format-{version}.zip") as archive:
        archive.extractall(directory)
    return directory


@pytest.mark.parametrize("version", OLDER)
def test_an_older_log_is_opened_whole(version: int, tmp_path: Path) -> None:
    for _ in range(2):  # the second time it is of the newest format
        with opened(unpacked(version, tmp_path) if _ == 0 else tmp_path) as log:
            assert log.identity.format_version == FORMAT_VERSION
            topics = {row.name: row for row in log.look(catalogue.topics)}
            assert set(topics) == {"orders", "bookings", "raw", "book.dead"}
            counts = {
                name: sum(
                    block.count
                    for pid in row.pids
                    for block in log.look(
                        lambda db, p=pid: placed.read(db, Span(p, 0, OFFSET_MAX), events_max=10**6, bytes_max=10**9)
                    )
                )
                for name, row in topics.items()
            }
            assert counts == {"orders": 130, "bookings": 128, "raw": 1, "book.dead": 2}
            rows = log.look(progress.all_progress)
            assert sum(row.floor for row in rows) == 130
            assert {(row.oldest, row.kept, row.seen_us) for row in rows} == {(None, 0, 0)}
            assert {log.look(lambda db, p=p: placed.known(db, p).begin) for r in topics.values() for p in r.pids} == {0}
            assert [group.warned_us for group in log.look(catalogue.groups)] == [0]


@pytest.mark.parametrize("version", OLDER)
def test_a_migration_that_dies_leaves_the_older_format(version: int, tmp_path: Path) -> None:
    directory = unpacked(version, tmp_path)
    met: list[str] = []

    def die(point: str) -> None:
        met.append(point)
        if point == "log.migrate":
            msg = "died here"
            raise SystemExit(msg)

    with hooked(die), pytest.raises(SystemExit), opened(directory):
        pass
    assert "log.migrate" in met
    with_db = connect(directory / DATABASE, "full")
    assert with_db.execute("SELECT value FROM meta WHERE key = 'format'").fetchall() == [(version,)]
    with_db.close()
    with opened(directory) as log:
        assert log.identity.format_version == FORMAT_VERSION


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("UPDATE progress SET floor = floor - 1 WHERE pid = (SELECT max(pid) FROM progress)", "progress of group id"),
        ("UPDATE partition SET next = next + 1 WHERE pid = 2", "partition id 2"),
        ("UPDATE grp SET partitions = 0", "group id 1"),
    ],
)
def test_a_damaged_row_is_not_given_a_new_checksum(damage: str, named: str, tmp_path: Path) -> None:
    directory = unpacked(1, tmp_path)
    db = connect(directory / DATABASE, "full")
    db.execute(damage)
    db.close()
    with pytest.raises(RecordDamaged, match=named), opened(directory):
        pass
    db = connect(directory / DATABASE, "full")
    assert db.execute("SELECT value FROM meta WHERE key = 'format'").fetchall() == [(1,)]
    db.close()
