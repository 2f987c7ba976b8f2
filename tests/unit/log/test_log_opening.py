"""Making and opening a log: complete or not there, whole or refused, and nothing changed by a refusal."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import apsw
import pytest

from penstock.errors import (
    Closed,
    ConfigError,
    IOFailed,
    LogFull,
    LogReplaced,
    LogTruncated,
    RecordDamaged,
    WitnessDamaged,
)
from penstock.log import opening
from penstock.log.connection import check_sqlite, connect, translate
from penstock.log.guard import FILES
from penstock.log.log import Log, LogConfig
from penstock.log.witness import Seen, Witness
from penstock.system.points import hooked
from tests.unit.log.logs import SYSTEM, append, block, contents, declare, opened


class Killed(BaseException):
    """The process dies here."""


def _points_of_creation(directory: Path) -> list[str]:
    seen: list[str] = []
    with hooked(seen.append), opened(directory):
        pass
    return seen


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A log with three commits, closed."""
    directory = tmp_path / "log"
    with opened(directory) as log:
        (pid,) = declare(log)
        for sequence in range(2):
            log.apply(append(sequence, block(pid, b"%d" % sequence)))
    return directory


def _bytes(directory: Path) -> dict[str, bytes]:
    names = ("log.db", "log.db-wal", "witness")
    return {name: (directory / name).read_bytes() for name in names if (directory / name).exists()}


def test_a_death_anywhere_while_it_is_made_leaves_a_log_that_opens_empty(tmp_path: Path) -> None:
    points = _points_of_creation(tmp_path / "first")
    assert len(points) > 8
    for number in range(len(points)):
        directory = tmp_path / f"log{number}"
        left = [number]

        def die(name: str, left: list[int] = left) -> None:
            if left[0] == 0:
                raise Killed(name)
            left[0] -= 1

        with hooked(die), pytest.raises(Killed):
            Log.open(directory, SYSTEM)
        with opened(directory) as log:
            (pid,) = declare(log)
            log.apply(append(0, block(pid, b"a")))
            assert contents(log, pid) == [b"a"]


def test_opening_writes_nothing(whole: Path) -> None:
    before = _bytes(whole)
    with opened(whole):
        pass
    assert _bytes(whole) == before


def test_its_creation_is_the_first_commit_so_a_database_that_is_gone_is_never_a_new_log(tmp_path: Path) -> None:
    directory = tmp_path / "log"
    with opened(directory):
        pass
    for name in ("log.db", "log.db-wal", "log.db-shm"):
        (directory / name).unlink()
    with pytest.raises(LogTruncated, match="1 commits"):
        Log.open(directory, SYSTEM)


def test_a_write_ahead_log_without_its_database_is_never_used_for_a_new_one(tmp_path: Path) -> None:
    directory = tmp_path / "log"
    directory.mkdir()
    (directory / "log.db-wal").write_bytes(b"left")
    with pytest.raises(LogTruncated, match="wal"):
        Log.open(directory, SYSTEM)
    assert (directory / "log.db-wal").read_bytes() == b"left"
    assert not (directory / "log.db").exists()


def test_an_emptied_database_is_refused_and_its_write_ahead_log_left_alone(whole: Path) -> None:
    """SQLite takes an empty file for a new database, and deletes the write-ahead log beside it."""
    data, wal = (whole / "log.db").read_bytes(), (whole / "log.db-wal").read_bytes()
    (whole / "log.db").write_bytes(b"")
    for create in (True, False):
        with pytest.raises(LogTruncated, match=r"log\.db is empty.*back"):
            Log.open(whole, SYSTEM, LogConfig(create=create))
    with pytest.raises(LogTruncated, match="is empty"):
        opening.accept_loss(whole, SYSTEM)
    assert (whole / "log.db-wal").read_bytes() == wal
    (whole / "log.db").write_bytes(data)
    with opened(whole) as log:
        assert contents(log, 1) == [b"0", b"1"]


@pytest.mark.parametrize("beside", ["log.db-wal", "log.db-shm", "witness"])
def test_who_looks_at_a_log_whose_database_is_gone_is_told(whole: Path, beside: str) -> None:
    for name in ("log.db", "log.db-wal", "log.db-shm"):
        if name != beside:
            (whole / name).unlink()
    with pytest.raises(LogTruncated, match=r"log\.db is missing.*back"):
        Log.open(whole, SYSTEM, LogConfig(create=False))


def test_a_log_whose_maker_was_killed_is_none_for_who_looks(tmp_path: Path) -> None:
    """Its witness has seen nothing; whoever publishes makes it."""
    opening.create_if_missing(tmp_path, SYSTEM)
    (tmp_path / "log.db").rename(tmp_path / "log.new")
    with pytest.raises(ConfigError, match="holds no log"):
        Log.open(tmp_path, SYSTEM, LogConfig(create=False))
    with opened(tmp_path):
        assert (tmp_path / "log.db").exists()


@pytest.mark.parametrize("way", ["gone", "empty", "flipped"])
def test_a_write_ahead_log_that_lost_commits_is_refused_and_left_alone(whole: Path, way: str) -> None:
    wal = whole / "log.db-wal"
    data = wal.read_bytes()
    (whole / "log.db-shm").unlink()
    if way == "gone":
        wal.unlink()
    else:
        wal.write_bytes(b"" if way == "empty" else data[:40] + bytes([data[40] ^ 4]) + data[41:])
    with pytest.raises(LogTruncated, match=r"holds 1 commits.*has seen 4.*--accept-loss"):
        Log.open(whole, SYSTEM)
    wal.write_bytes(data)
    with opened(whole) as log:
        assert contents(log, 1) == [b"0", b"1"]


def test_a_loss_that_is_accepted_raises_the_incarnation_above_all_that_were_seen(whole: Path) -> None:
    with opened(whole) as log:
        first = log.identity
    shutil.copytree(whole, whole.with_name("older"))
    seen = first.incarnation
    for _ in range(2):
        raised = opening.accept_loss(whole, SYSTEM).incarnation
        assert raised > seen
        seen = raised
    (whole / "log.db").write_bytes((whole.with_name("older") / "log.db").read_bytes())
    (whole / "log.db-wal").write_bytes((whole.with_name("older") / "log.db-wal").read_bytes())
    (whole / "log.db-shm").unlink()
    with pytest.raises(LogReplaced, match=f"incarnation {seen}"):
        Log.open(whole, SYSTEM)
    raised = opening.accept_loss(whole, SYSTEM).incarnation
    assert raised > seen
    with opened(whole) as log:
        assert (log.identity.log, log.identity.incarnation) == (first.log, raised)
        assert contents(log, 1) == [b"0", b"1"]


def test_a_loss_accepted_of_two_copies_makes_two_histories(whole: Path) -> None:
    """A target that the first one was written to would be taken for one of the second, and events skipped."""
    shutil.copytree(whole, whole.with_name("same"))
    made = [opening.accept_loss(directory, SYSTEM) for directory in (whole, whole.with_name("same"))]
    assert made[0].log == made[1].log
    assert made[0].incarnation != made[1].incarnation


def test_accepting_where_there_is_nothing_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no log\.db"):
        opening.accept_loss(tmp_path, SYSTEM)
    assert not (tmp_path / "log.db").exists()


def test_a_witness_of_another_log_is_refused(whole: Path, tmp_path: Path) -> None:
    with opened(tmp_path / "other"):
        pass
    shutil.copy(tmp_path / "other" / "witness", whole / "witness")
    with pytest.raises(LogReplaced, match="belongs to log"):
        Log.open(whole, SYSTEM)


def test_every_flip_in_the_witness_is_told_from_a_lost_commit(whole: Path) -> None:
    """One slot is enough; with both damaged nobody knows, and that is said."""
    data = (whole / "witness").read_bytes()
    witness = Witness.open(whole)
    newest = witness.read()
    used = [at for at in range(len(data)) if at % 512 < 60]
    for at in used:
        for bit in range(8):
            changed = bytearray(data)
            changed[at] ^= 1 << bit
            (whole / "witness").write_bytes(changed)
            seen = witness.read()
            assert (seen.log, seen.incarnation) == (newest.log, newest.incarnation)
            assert newest.commits - 1 <= seen.commits <= newest.commits
    (whole / "witness").write_bytes(b"\0" * len(data))
    with pytest.raises(WitnessDamaged, match="accept-loss"):
        witness.read()
    (whole / "witness").write_bytes(data[:100])
    assert witness.read().commits >= newest.commits - 1
    witness.close()
    witness.close()


def test_the_witness_never_writes_over_its_newest_slot(tmp_path: Path) -> None:
    Witness.create(tmp_path, Seen("log", 1, 0))
    witness = Witness.open(tmp_path)
    for commits in (2, 4, 6, 7, 9):
        before = witness.read()
        newest = (tmp_path / "witness").read_bytes()
        witness.write(Seen("log", 1, commits))
        now = (tmp_path / "witness").read_bytes()
        changed = [slot for slot in (0, 512) if newest[slot : slot + 512] != now[slot : slot + 512]]
        assert len(changed) == 1
        torn = bytearray(now)
        torn[changed[0] : changed[0] + 512] = b"\xff" * 512
        (tmp_path / "witness").write_bytes(torn)
        assert witness.read() == before
        (tmp_path / "witness").write_bytes(now)
        assert witness.read().commits == commits
    witness.close()


def test_at_normal_only_a_checkpoint_is_witnessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def seen() -> int:
        witness = Witness.open(tmp_path / "log")
        try:
            return witness.read().commits
        finally:
            witness.close()

    with opened(tmp_path / "log", LogConfig(durability="normal")) as log:
        (pid,) = declare(log)
        log.apply(append(0, block(pid, b"a")))
        assert seen() == 1
        monkeypatch.setattr("penstock.log.log.CHECKPOINT_PAGES", 1)
        log.apply(append(1, block(pid, b"b")))
        assert log.apply(append(1, block(pid, b"b"))).repeated  # type: ignore[union-attr]
        assert seen() >= 3


@pytest.mark.parametrize("name", FILES)
def test_files_that_were_swapped_under_an_open_log_stop_it(whole: Path, name: str) -> None:
    log = Log.open(whole, SYSTEM)
    data = (whole / name).read_bytes()
    (whole / f"{name}.aside").write_bytes(data)
    os.replace(whole / f"{name}.aside", whole / name)
    with pytest.raises(LogReplaced, match=f"{name} was replaced"):
        log.apply(append(2, block(1, b"x")))
    with pytest.raises(LogReplaced):
        log.apply(append(2, block(1, b"x")))
    log.close()


def test_a_log_that_was_closed_says_so(whole: Path) -> None:
    log = Log.open(whole, SYSTEM)
    log.close()
    log.close()
    for use in (lambda: log.apply(append(2, block(1, b"x"))), lambda: log.read(1, 0, events_max=1)):
        with pytest.raises(Closed, match="open it again"):
            use()


# -- what cannot hold a log --------------------------------------------------------------------------------------------


def test_a_file_a_link_and_another_database_are_refused_and_nothing_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for name, text in (("file", "expected a directory"), ("link", "symbolic link"), ("file/below", "not writable")):
        with pytest.raises(ConfigError, match=text):
            Log.open(tmp_path / name, SYSTEM)
    assert list((tmp_path / "real").iterdir()) == []
    with pytest.raises(ConfigError, match="holds no log"):
        Log.open(tmp_path / "real", SYSTEM, LogConfig(create=False))
    assert list((tmp_path / "real").iterdir()) == []


def test_a_path_that_sqlite_cannot_take_is_refused_and_nothing_is_made(tmp_path: Path) -> None:
    long = tmp_path.resolve() / ("a" * 200) / ("b" * 200)
    longest = long / ("c" * (opening.PATH_BYTES_MAX - len(os.fsencode(long)) - 1))
    with opened(longest):
        pass
    with (
        pytest.raises(ConfigError, match=r"log\.path: .* is 497 bytes long; SQLite takes up to 496"),
        opened(longest.with_name(longest.name + "c")),
    ):
        pass
    with (
        pytest.raises(ConfigError, match="is not UTF-8, and SQLite takes no other names"),
        opened(tmp_path / os.fsdecode(b"\xff")),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["a" * 200]
    assert [path.name for path in long.iterdir()] == [longest.name]


def test_links_to_its_files_are_refused(whole: Path) -> None:
    os.link(whole / "log.db", whole / "again")
    with pytest.raises(ConfigError, match="hard links"):
        Log.open(whole, SYSTEM)
    (whole / "again").unlink()
    (whole / "log.db-wal").rename(whole / "aside")
    (whole / "log.db-wal").symlink_to(whole / "aside")
    with pytest.raises(ConfigError, match="symbolic link"):
        Log.open(whole, SYSTEM)


def test_another_format_and_another_database_are_refused(whole: Path, tmp_path: Path) -> None:
    db = apsw.Connection(str(whole / "log.db"))
    db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    db.execute("UPDATE meta SET value = 99 WHERE key = 'format'")
    db.close()
    with pytest.raises(ConfigError, match="format 99"):
        Log.open(whole, SYSTEM)
    other = tmp_path / "other"
    with opened(other):
        pass
    for name in ("log.db", "log.db-wal", "log.db-shm"):
        (other / name).unlink()
    db = apsw.Connection(str(other / "log.db"))
    db.execute("CREATE TABLE mine(x)")
    db.close()
    with pytest.raises(ConfigError, match="not a Penstock log"):
        Log.open(other, SYSTEM)


@pytest.mark.parametrize("version", ["3.40.1", "3.51.2", "3.7.0"])
def test_affected_versions_of_sqlite_are_refused(version: str) -> None:
    with pytest.raises(ConfigError, match=version):
        check_sqlite(version)
    check_sqlite("3.51.3")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ConfigError, match="not writable"):
            Log.open(tmp_path / "log", SYSTEM)
    finally:
        tmp_path.chmod(0o700)


def test_a_disk_that_is_mounted_read_only_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither an owner nor a mode is the way out."""
    found = os.statvfs(tmp_path)
    read_only = os.statvfs_result((*found[:8], found.f_flag | os.ST_RDONLY, found.f_namemax))
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(os, "statvfs", lambda _: read_only)
    with pytest.raises(ConfigError, match=r"mounted read-only.* mount it for writing, or copy the log"):
        Log.open(tmp_path / "log", SYSTEM)


def test_pragmas_are_read_back(tmp_path: Path) -> None:
    db = apsw.Connection(str(tmp_path / "x"))
    db.execute("PRAGMA page_size = 4096; CREATE TABLE t(x)")
    db.close()
    with pytest.raises(ConfigError, match="page_size"):
        connect(tmp_path / "x", "full")


def test_every_error_of_sqlite_has_one_of_ours(tmp_path: Path) -> None:
    for name in dir(apsw):
        theirs = getattr(apsw, name)
        if isinstance(theirs, type) and issubclass(theirs, apsw.Error):
            assert str(tmp_path) in str(translate(theirs("text"), tmp_path))
    assert isinstance(translate(apsw.FullError("x"), tmp_path), LogFull)
    assert isinstance(translate(OSError(28, "no space"), tmp_path), LogFull)
    assert isinstance(translate(OSError(30, "read-only"), tmp_path), ConfigError)
    assert isinstance(translate(OSError(5, "I/O"), tmp_path), IOFailed)
    assert isinstance(translate(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"), tmp_path), RecordDamaged)
