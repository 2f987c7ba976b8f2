"""Damage: a flipped bit anywhere in the log's files is an error that names it, or harmless; it is never used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from penstock.errors import BlockDamaged, LogTruncated, PenstockError, RecordDamaged, WitnessDamaged
from penstock.log import catalogue
from penstock.log.api import Claim
from penstock.log.witness import NAME as WITNESS
from tests.faults import flips, logwork
from tests.faults.report import FaultReport

FLIPS = 40


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A log with a finished job in it."""
    directory = tmp_path / "log"
    logwork.run(directory, logwork.Job(), lambda _: None)
    return directory


def flip(path: Path, at: int) -> None:
    """Flip the lowest bit of one byte."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def copied(whole: Path, name: str) -> Path:
    """A copy of the files that are the log."""
    copy = whole.with_name(name)
    copy.mkdir()
    for file in ("log.db", "log.db-wal", WITNESS):
        (copy / file).write_bytes((whole / file).read_bytes())
    return copy


def edit(directory: Path, sql: str) -> None:
    """Change a row behind the log's back, as a failing disk would; the file's own structure stays whole."""
    code = (
        "import apsw, sys; db = apsw.Connection(sys.argv[1]); db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1); "
        "db.execute(sys.argv[2]).fetchall(); assert db.changes() or 'PRAGMA' in sys.argv[2]"
    )
    subprocess.run([sys.executable, "-c", code, str(directory / "log.db"), sql], check=True)


@pytest.mark.parametrize(("file", "fault"), [("log", "A5"), ("wal", "A4"), ("witness", "A19")])
def test_bit_flips(file: str, fault: str, seed: int, fault_report: FaultReport) -> None:
    tally = fault_report(fault)
    outcome = flips.flipped(flips.Plan(file, FLIPS, seed))
    tally.points += outcome.flips
    tally.contradicts(f"{file}: used although damaged", outcome.wrong)
    assert sum(outcome.named.values()) + outcome.harmless == outcome.flips - len(outcome.wrong)
    assert tally.clean, tally.told


def test_a_flip_in_the_write_ahead_log_is_a_truncated_log(whole: Path, fault_report: FaultReport) -> None:
    """SQLite stops reading there and says that all is well; the witness knows better, and says the way out."""
    tally = fault_report("A4")
    wal = whole / "log.db-wal"
    for at in range(40, wal.stat().st_size, wal.stat().st_size // 10):
        flip(wal, at)
        with pytest.raises(LogTruncated, match=r"commits.*--accept-loss"), logwork.opened(whole):
            pass
        flip(wal, at)
        tally.points += 1
    assert flips.read_all(whole)


@pytest.mark.parametrize("change", ["CAST(data || x'00' AS BLOB)", "CAST(data AS TEXT)", "x''", "7"])
def test_a_damaged_block_is_named_and_the_others_are_read(whole: Path, change: str, fault_report: FaultReport) -> None:
    tally = fault_report("A5")
    edit(whole, f"UPDATE block SET data = {change} WHERE at = (SELECT max(at) FROM block WHERE at < 2 << 46)")
    tally.points += 1
    with logwork.opened(whole) as log:
        pid, other = log.look(catalogue.topics)[1].pids
        with pytest.raises(BlockDamaged, match=rf"partition id {pid}, offsets 15 to 19.*checksum.*backup"):
            log.read(pid, 15, events_max=5)
        assert len(log.read(pid, 0, events_max=15)) == 3
        assert logwork.contents(log, other) == logwork.expected(8, 1)


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE progress SET floor = floor - 5 WHERE pid = 1",
        "UPDATE progress SET epoch = epoch + 1 WHERE pid = 1",
        "UPDATE ledger SET value = x'30' WHERE pid = 1",
        "UPDATE step SET after = after + 1 WHERE pid = 1 AND number = 1",
        "UPDATE sequence SET ranges = x'90' WHERE number = 2",
        "UPDATE sequence SET content = content + 1 WHERE number = 2",
        "UPDATE partition SET next = next + 1 WHERE pid = 1",
        "UPDATE partition SET next = next + 1 WHERE pid = 0",
        "UPDATE topic SET spec = x'7b7d20' WHERE name = 'in'",
        "UPDATE meta SET key = 'incarnatioo' WHERE key = 'incarnation'",
        "UPDATE meta SET value = CAST(value AS BLOB) WHERE key = 'log'",
    ],
)
def test_a_changed_row_is_never_used(whole: Path, sql: str, fault_report: FaultReport) -> None:
    tally = fault_report("A6")
    edit(whole, sql)
    tally.points += 1
    with pytest.raises(RecordDamaged, match=r"(checksum|damaged).*backup"):
        flips.read_all(whole)


def test_a_row_whose_key_was_changed_is_missed(whole: Path, fault_report: FaultReport) -> None:
    """The row is not found under its key any more; that must not look as if it had never been there."""
    tally = fault_report("A6")
    truth = flips.read_all(copied(whole, "truth"))
    statements = [
        "UPDATE progress SET pid = pid + 64 WHERE pid = 1",
        "UPDATE ledger SET pid = pid + 64 WHERE pid = 1",
        "UPDATE step SET number = number + 64 WHERE pid = 1 AND number = 3",
        "UPDATE sequence SET number = number + 64 WHERE number = 7",
    ]
    for sql in statements:
        copy = copied(whole, f"copy-{tally.points}")
        edit(copy, sql)
        tally.points += 1
        try:
            read = flips.read_all(copy)
        except PenstockError:
            continue
        tally.contradicts(sql, ["used as if it had never been there"] if read != truth else [])
    assert tally.clean, tally.told


def test_a_name_damaged_in_an_index_is_missed(whole: Path, fault_report: FaultReport) -> None:
    """The producer is not found by its name any more: what it publishes again must not be stored a second time."""
    tally = fault_report("A6", "B11")
    edit(whole, "PRAGMA wal_checkpoint(TRUNCATE)")
    code = "import apsw, sys; print(*apsw.Connection(sys.argv[1]).execute(sys.argv[2]).fetchone())"
    sql = "SELECT rootpage, (SELECT page_size FROM pragma_page_size) FROM sqlite_schema WHERE name = ?1"
    command = [sys.executable, "-c", code, str(whole / "log.db"), sql.replace("?1", "'sqlite_autoindex_producer_1'")]
    page, size = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    at = (whole / "log.db").read_bytes().index(b"source", (page - 1) * size)
    assert at < page * size
    flip(whole / "log.db", at)
    tally.points += 1
    with pytest.raises(PenstockError, match="restore a backup"):
        flips.read_all(whole)


def test_a_damaged_witness_is_not_a_truncated_log(whole: Path, fault_report: FaultReport) -> None:
    tally = fault_report("A19")
    flip(whole / WITNESS, 20)
    with logwork.opened(whole):
        tally.points += 1
    flip(whole / WITNESS, 20)
    flip(whole / WITNESS, 512 + 20)
    with logwork.opened(whole):
        tally.points += 1
    flip(whole / WITNESS, 20)
    with pytest.raises(WitnessDamaged, match=r"witness.*--accept-loss"), logwork.opened(whole):
        pass
    tally.points += 1


def test_a_lost_witness_is_not_a_new_log(whole: Path, fault_report: FaultReport) -> None:
    """Without it nobody knows how many commits there were: that is never taken for none."""
    tally = fault_report("A19")
    (whole / WITNESS).rename(whole / "aside")
    with pytest.raises(WitnessDamaged, match=r"missing.*--accept-loss"), logwork.opened(whole):
        pass
    tally.points += 1
    (whole / "aside").rename(whole / WITNESS)
    with logwork.opened(whole) as log:
        group = log.look(catalogue.groups)[0].id
        pid = log.look(catalogue.topics)[1].pids[0]
        log.apply(Claim(group, [pid]))


def test_a_database_that_is_gone_is_not_a_new_log(whole: Path, fault_report: FaultReport) -> None:
    tally = fault_report("A19")
    (whole / "log.db").unlink()
    (whole / "log.db-wal").unlink()
    with pytest.raises(LogTruncated, match=r"log\.db is missing, though its.*put the file back"), logwork.opened(whole):
        pass
    tally.points += 1
