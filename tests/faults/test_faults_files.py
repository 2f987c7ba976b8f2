"""Files that are not what they should be: refused with what is wrong and the way out, and nothing half made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from unittest import mock

import apsw
import pyarrow as pa
import pytest

from penstock.channel.api import Owned
from penstock.errors import ConfigError, LogRegressed, LogReplaced, LogTruncated
from penstock.log import opening, placed
from penstock.log.api import Appended, Refusal
from penstock.log.checks import row_check
from penstock.log.connection import check_sqlite
from penstock.log.ddl import OFFSET_BITS, OFFSET_MAX
from penstock.log.log import Log
from penstock.log.witness import NAME as WITNESS
from penstock.sink.api import Claim, Staged
from penstock.sink.duckdb import duckdb_table
from penstock.sink.parquet import parquet
from penstock.system import real_system
from tests.faults import logwork
from tests.faults.report import FaultReport

FILES = ("log.db", "log.db-wal", WITNESS)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A log with a finished job in it."""
    directory = tmp_path / "log"
    logwork.run(directory, logwork.Job(), lambda _: None)
    return directory


@pytest.fixture
def public() -> Generator[Path]:
    """A directory that any user may reach, for tests that give up root's powers."""
    with tempfile.TemporaryDirectory(prefix="penstock-public-") as name:
        Path(name).chmod(0o777)
        yield Path(name)


def test_a_write_ahead_log_that_is_gone_is_noticed(whole: Path, fault_report: FaultReport) -> None:
    """As when `-wal` was left out of a backup: SQLite itself would open what is left without a word."""
    tally = fault_report("A7")
    aside = whole.with_name("aside")
    (whole / "log.db-wal").rename(aside)
    with pytest.raises((LogTruncated, LogReplaced), match=r"commits|not a Penstock log"), logwork.opened(whole):
        pass
    tally.points += 1
    (whole / "log.db-wal").unlink(missing_ok=True)
    aside.rename(whole / "log.db-wal")
    assert logwork.look(whole, logwork.Job(), []).complete


def test_a_write_ahead_log_of_another_copy_is_noticed(whole: Path, fault_report: FaultReport) -> None:
    tally = fault_report("A7")
    other = whole.with_name("other")
    logwork.run(other, logwork.Job(batches=3), lambda _: None)
    shutil.copy(other / "log.db-wal", whole / "log.db-wal")
    with pytest.raises((LogReplaced, LogTruncated)), logwork.opened(whole):
        pass
    tally.points += 1


@pytest.mark.parametrize("name", FILES[:2])
def test_a_file_removed_under_an_open_log_stops_its_commits(whole: Path, name: str, fault_report: FaultReport) -> None:
    """A commit into a file without a name would be acked and lost with the last handle."""
    tally = fault_report("A7")
    with logwork.opened(whole) as log:
        (pid,) = logwork.declare(log, "more", 1)
        logwork.publish(log, pid, 0, [b"before"], producer="p")
        (whole / name).unlink()
        with pytest.raises(LogReplaced, match=r"is gone.*nothing was committed.*open the log again"):
            logwork.publish(log, pid, 1, [b"after"], producer="p")
        tally.points += 1


def test_an_older_copy_beside_a_newer_witness_is_noticed(tmp_path: Path, fault_report: FaultReport) -> None:
    tally = fault_report("A8")
    directory = tmp_path / "log"
    logwork.run(directory, logwork.Job(batches=3), lambda _: None)
    older = {name: (directory / name).read_bytes() for name in FILES[:2]}
    logwork.run(directory, logwork.Job(), lambda _: None)
    for name, data in older.items():
        (directory / name).write_bytes(data)
    (directory / "log.db-shm").unlink(missing_ok=True)
    with (
        pytest.raises(LogTruncated, match=r"holds \d+ commits.*has seen \d+.*--accept-loss"),
        logwork.opened(directory),
    ):
        pass
    tally.points += 1


@pytest.mark.parametrize("kind", ["parquet", "duckdb"])
def test_a_target_that_is_ahead_of_the_log_stops_it(tmp_path: Path, kind: str, fault_report: FaultReport) -> None:
    """The whole log was restored from an older backup, witness included: only the target knows."""
    tally = fault_report("A8")
    config = parquet(tmp_path / "lake") if kind == "parquet" else duckdb_table(tmp_path / "x.duckdb", table="t")
    sink = config.open()
    owned = Owned("t", 0, 1)
    sink.claim(Claim("p", owned, "log", 1, floor=0, tip=10))
    sink.write(Staged(owned, 0, 10, pa.RecordBatch.from_pydict({"id": list(range(10))})))
    assert sink.commit(owned) == 10
    sink.close()
    for claim in (
        Claim("p", Owned("t", 0, 2), "log", 1, floor=0, tip=7),
        Claim("p", Owned("t", 0, 2), "log", 2, floor=0, tip=10),
        Claim("p", Owned("t", 0, 2), "other", 1, floor=0, tip=10),
    ):
        sink = config.open()
        with pytest.raises(LogRegressed, match=r"nothing was changed"):
            sink.claim(claim)
        sink.close()
        tally.points += 1


def _listed(directory: Path) -> list[str]:
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*"))


def test_a_directory_that_is_a_file_or_a_link(tmp_path: Path, whole: Path, fault_report: FaultReport) -> None:
    tally = fault_report("A15")
    (tmp_path / "file").write_text("text")
    (tmp_path / "link").symlink_to(whole)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    before = _listed(tmp_path)
    for name, complaint in (("file", "is a file"), ("link", "symbolic link"), ("dangling", "symbolic link")):
        with pytest.raises(ConfigError, match=complaint), logwork.opened(tmp_path / name):
            pass
        with pytest.raises(ConfigError), logwork.opened(tmp_path / "file" / "below"):
            pass
        tally.points += 1
    assert _listed(tmp_path) == before


@pytest.mark.parametrize("name", FILES[::2])
def test_a_file_that_is_a_link_or_has_two_names(
    tmp_path: Path, whole: Path, name: str, fault_report: FaultReport
) -> None:
    """Another name leads another program to the same bytes, past every lock."""
    tally = fault_report("A15")
    os.link(whole / name, tmp_path / "second")
    with pytest.raises(ConfigError, match=r"2 hard links"), logwork.opened(whole):
        pass
    (whole / name).unlink()
    (whole / name).symlink_to(tmp_path / "second")
    with pytest.raises(ConfigError, match="symbolic link"), logwork.opened(whole):
        pass
    (whole / name).unlink()
    (whole / name).mkdir()
    with pytest.raises(ConfigError, match="not a file"), logwork.opened(whole):
        pass
    tally.points += 3


_AS_NOBODY = """
import os, sys
from pathlib import Path
from penstock.errors import ConfigError
from penstock.log.log import Log, LogConfig
from penstock.system import real_system
import tests.faults.logwork
if os.getuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
try:
    Log.open(Path(sys.argv[1]), real_system()).close()
except ConfigError as exc:
    print(exc)
"""


def _as_nobody(directory: Path) -> str:
    """What a user without root's powers is told who opens the log; empty when it opens."""
    command = [sys.executable, "-c", _AS_NOBODY, str(directory)]
    done = subprocess.run(command, cwd=logwork.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_files_of_another_owner_or_mode(public: Path, fault_report: FaultReport) -> None:
    tally = fault_report("A15")
    directory = public / "log"
    logwork.run(directory, logwork.Job(batches=2), lambda _: None)
    nobody = 65534 if os.getuid() == 0 else os.getuid()
    for path in (directory, *directory.rglob("*")):
        os.chown(path, nobody, -1)
    assert _as_nobody(directory) == ""
    for name, mode in (("log.db", 0o444), ("log.db", 0o200), (WITNESS, 0o444), (".", 0o555)):
        path = directory / name
        kept = path.stat().st_mode
        path.chmod(mode)
        before = _listed(directory)
        assert "writable by this user" in _as_nobody(directory), (name, oct(mode))
        assert _listed(directory) == before
        path.chmod(kept)
        tally.points += 1
    (public / "shut").mkdir(mode=0o555)
    os.chown(public / "shut", nobody, -1)
    assert "not writable" in _as_nobody(public / "shut" / "log")
    assert _as_nobody(directory) == ""


@pytest.mark.parametrize("version", ["3.7.0", "3.40.1", "3.51.2"])
def test_a_version_of_sqlite_that_loses_commits_is_refused(version: str, fault_report: FaultReport) -> None:
    tally = fault_report("A16")
    with pytest.raises(ConfigError, match=rf"SQLite {version}.*expected 3\.51\.3.*upgrade"):
        check_sqlite(version)
    check_sqlite("3.51.3")
    check_sqlite("3.100.0")
    tally.points += 1


def test_the_version_is_asked_before_a_file_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault_report: FaultReport
) -> None:
    tally = fault_report("A16")
    monkeypatch.setattr("apsw.sqlite_lib_version", lambda: "3.50.0")
    with pytest.raises(ConfigError, match=r"SQLite 3\.50\.0"), logwork.opened(tmp_path / "log"):
        pass
    assert not (tmp_path / "log" / "log.db").exists()
    tally.points += 1


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p"])
def test_a_network_file_system(
    tmp_path: Path, kind: str, fault_report: FaultReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its locks and syncs cannot be trusted: refused before anything is made, unless the user says so."""
    tally = fault_report("A14")
    with mock.patch.object(opening, "file_system", return_value=kind):
        with pytest.raises(ConfigError, match=rf"network.*{kind}.*a disk of this machine, as in App"):
            Log.open(tmp_path / "log", real_system())
        assert not (tmp_path / "log").exists()
        monkeypatch.setenv("PENSTOCK_NETWORK_FILE_SYSTEM", "1")
        Log.open(tmp_path / "log", real_system()).close()
    tally.points += 1


def test_offsets_near_their_end(tmp_path: Path, fault_report: FaultReport) -> None:
    """A partition that is nearly full takes what fits, names its limit, and wraps nothing around; others go on."""
    tally = fault_report("A18")
    directory = tmp_path / "log"
    with logwork.opened(directory) as log:
        full, other = logwork.declare(log, "t", 2)
        log.write(lambda db: _move_tip(db, full, OFFSET_MAX - 3)).result()
        assert isinstance(logwork.publish(log, full, 0, [b"1", b"2"]), Appended)
        for sequence, bodies in ((1, [b"3", b"4"]), (1, [b"x"] * 1000)):
            answer = logwork.publish(log, full, sequence, bodies)
            assert isinstance(answer, Refusal)
            assert f"limit of 2^{OFFSET_BITS}" in answer.reason
            tally.points += 1
        assert isinstance(logwork.publish(log, full, 1, [b"3"]), Appended)
        assert isinstance(logwork.publish(log, full, 2, [b"4"]), Refusal)
        assert isinstance(logwork.publish(log, other, 2, [b"elsewhere"]), Appended)
        tip = log.look(lambda db: placed.known(db, full))
        assert (tip.offset, tip.begin) == (OFFSET_MAX, OFFSET_MAX - 3)
        found = log.read(full, OFFSET_MAX - 3, events_max=10)
        assert [(stored.first, stored.count) for stored in found] == [(OFFSET_MAX - 3, 2), (OFFSET_MAX - 1, 1)]


def _move_tip(db: apsw.Connection, pid: int, offset: int) -> None:
    """As if so many events had been there and were trimmed."""
    found = placed.known(db, pid)
    values = (pid, found.topic_id, found.number, offset, offset)
    db.execute(
        "UPDATE partition SET next = ?, begin = ?, chk = ? WHERE pid = ?", (offset, offset, row_check(*values), pid)
    )
