"""Copies of a log in use: nothing that was acked before is missing, nothing is half, and older ones are told apart."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from penstock.errors import ConfigError, CorruptionError, LogFull, LogTruncated
from penstock.log import placed
from penstock.log.backup import back_up, restore
from penstock.log.log import Log
from penstock.log.verify import verify
from penstock.system.points import hooked
from penstock.system.ports import RealClock
from tests.faults import logwork
from tests.faults.report import FaultReport


class Stopped(RealClock):
    """A clock that always says the same."""

    def __init__(self, at_us: int) -> None:
        self._at_us = at_us

    def now_us(self) -> int:
        """See `Clock`."""
        return self._at_us


class Publisher:
    """Publishes one event after the other until it is stopped; knows what was acked."""

    def __init__(self, log: Log, pid: int) -> None:
        self.acked: list[bytes] = []
        self._log = log
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Publisher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            body = b"%d" % len(self.acked)
            logwork.publish(self._log, self._pid, len(self.acked), [body])
            self.acked.append(body)


def test_a_backup_while_others_publish(tmp_path: Path, fault_report: FaultReport) -> None:
    """Each holds all that was acked before it, none has a gap, and each opens as what its witness has seen."""
    tally = fault_report("A7")
    directory = tmp_path / "log"
    with logwork.opened(directory) as log, logwork.opened(directory) as other:
        [pid] = logwork.declare(log, "t", 1)
        with Publisher(other, pid) as publisher:
            for number in range(4):
                while len(publisher.acked) < 50 * (number + 1):
                    pass
                before = list(publisher.acked)
                copied = back_up(log, tmp_path / f"copy-{number}")
                with logwork.opened(copied.directory) as copy:
                    found = logwork.contents(copy, pid)
                    assert copy.identity == log.identity
                    tally.contradicts(f"copy {number}", [d.what for d in verify(copy.look).damages])
                tally.points += 1
                tally.compare(before, found[: len(before)], where=f"copy {number}")
                assert found == [b"%d" % n for n in range(len(found))]
        tally.compare(publisher.acked, logwork.contents(log, pid), where="the log itself")
    assert tally.clean, tally.told


def test_a_backup_that_dies_is_not_there_and_the_next_one_is(tmp_path: Path, fault_report: FaultReport) -> None:
    tally = fault_report("A13")
    directory, copy = tmp_path / "log", tmp_path / "copy"
    logwork.run(directory, logwork.Job(), lambda _: None)
    met: list[str] = []
    with logwork.opened(directory) as log:
        with hooked(met.append):
            back_up(log, tmp_path / "whole")
        assert {"log.backup.step", "log.backup.rename"} <= set(met)
        for at in range(len(met)):
            if not met[at].startswith(("log.", "files.")):
                continue
            count = iter(range(at + 1))

            def die(_: str, count: object = count) -> None:
                if next(count, None) is None:  # type: ignore[call-overload]
                    raise SystemExit("died here")

            with hooked(die), pytest.raises(SystemExit):
                back_up(log, copy)
            tally.points += 1
            tally.contradicts(met[at], [f"{copy} is there"] if copy.exists() and met[at] != met[-1] else [])
    assert logwork.look(tmp_path / "whole", logwork.Job(), []).complete
    assert tally.clean, tally.told


def test_a_restored_log_is_another_history(tmp_path: Path, fault_report: FaultReport) -> None:
    """Groups go on where they were; a target that knows more than the copy stops its sink."""
    tally = fault_report("A8")
    directory, copy, again = tmp_path / "log", tmp_path / "copy", tmp_path / "again"
    with logwork.opened(directory) as log:
        [pid] = logwork.declare(log, "t", 1)
        logwork.publish(log, pid, 0, [b"a", b"b"])
        back_up(log, copy)
        logwork.publish(log, pid, 1, [b"c"])
        older = log.identity
    restored = restore(copy, again, logwork.system())
    assert restored.identity.log == older.log
    assert restored.identity.incarnation > older.incarnation
    with logwork.opened(again) as log:
        assert logwork.contents(log, pid) == [b"a", b"b"]
        assert log.look(lambda db: placed.next_offset(db, pid)) == 2
    with pytest.raises(ConfigError, match="exists"):
        restore(copy, directory, logwork.system())
    replaced = restore(copy, directory, logwork.system(), replace=True)
    assert replaced.identity.incarnation > older.incarnation
    with logwork.opened(tmp_path / "log.before-1") as kept:
        assert logwork.contents(kept, pid) == [b"a", b"b", b"c"]
    tally.points += 2
    assert tally.clean, tally.told


@pytest.mark.parametrize("at_us", [0, 1 << 52])
def test_a_copy_that_is_restored_twice_makes_two_histories(tmp_path: Path, at_us: int) -> None:
    """Whatever the clock says: what a target was written from the one would be taken for the other's, and skipped."""
    with logwork.opened(tmp_path / "log") as log:
        back_up(log, tmp_path / "copy")
    system = replace(logwork.system(), clock=Stopped(at_us))
    made = [restore(tmp_path / "copy", tmp_path / name, system).identity for name in ("one", "other")]
    assert made[0].log == made[1].log
    assert made[0].incarnation != made[1].incarnation


def test_a_second_copy_to_the_same_place_lets_the_first_one_end(tmp_path: Path) -> None:
    """As two runs of a job that overlap: the second one says so, and takes nothing from under the first."""
    copy, refused = tmp_path / "copy", list[str]()
    with logwork.opened(tmp_path / "log") as log, logwork.opened(tmp_path / "log") as other:
        [pid] = logwork.declare(log, "t", 1)
        logwork.publish(log, pid, 0, [b"a"])

        def meet(point: str) -> None:
            if point in ("log.backup.step", "log.backup.rename"):
                with hooked(lambda _: None), pytest.raises(ConfigError, match="another process") as error:
                    back_up(other, copy)
                refused.append(str(error.value))

        with hooked(meet):
            back_up(log, copy)
    with logwork.opened(copy) as made:
        assert logwork.contents(made, pid) == [b"a"]
    assert len(refused) >= 2, refused
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "log"]


def test_only_a_log_is_ever_put_aside(tmp_path: Path) -> None:
    """A mistyped directory is a project, a home, or the disk: it stays as it is."""
    with logwork.opened(tmp_path / "log") as log:
        back_up(log, tmp_path / "copy")
    project, file = tmp_path / "project", tmp_path / "file"
    project.mkdir()
    (project / "mine").touch()
    file.touch()
    before = sorted(tmp_path.rglob("*"))
    for target in (project, file, Path("/")):
        with pytest.raises(ConfigError, match="no log"):
            restore(tmp_path / "copy", target, logwork.system(), replace=True)
    assert [path for path in sorted(tmp_path.rglob("*")) if path.parent.name != "copy"] == [
        path for path in before if path.parent.name != "copy"
    ]


def test_a_log_without_its_database_is_put_aside(tmp_path: Path) -> None:
    with logwork.opened(tmp_path / "log") as log:
        back_up(log, tmp_path / "copy")
    (tmp_path / "log" / "log.db").unlink()
    restore(tmp_path / "copy", tmp_path / "log", logwork.system(), replace=True)
    assert (tmp_path / "log.before-1" / "witness").exists()


def test_a_copy_that_nobody_can_write_to_is_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a read-only disk; a log in use there, or a copy that is not whole, is refused."""
    copy, database, witness = tmp_path / "a copy?", tmp_path / "a copy?/log.db", tmp_path / "a copy?/witness"
    with logwork.opened(tmp_path / "log") as log:
        [pid] = logwork.declare(log, "t", 1)
        logwork.publish(log, pid, 0, [b"a", b"b"])
        back_up(log, copy)
        logwork.publish(log, pid, 1, [b"c"])
        back_up(log, tmp_path / "newer")
    database.with_name("log.db-wal").touch()  # as somebody leaves it who has looked into the copy before
    monkeypatch.setattr(os, "access", lambda path, mode: not (mode & os.W_OK and Path(path).is_relative_to(copy)))
    before = {path.name: path.stat().st_mtime_ns for path in copy.iterdir()}
    assert restore(copy, tmp_path / "again", logwork.system()).commits > 0
    assert {path.name: path.stat().st_mtime_ns for path in copy.iterdir()} == before
    with logwork.opened(tmp_path / "again") as log:
        assert logwork.contents(log, pid) == [b"a", b"b"]
        assert not verify(log.look).damages
    database.with_name("log.db-wal").write_bytes(b"x")
    with pytest.raises(ConfigError, match="copy it to a directory that can"):
        restore(copy, tmp_path / "third", logwork.system())
    database.with_name("log.db-wal").unlink()
    witness.write_bytes((tmp_path / "newer/witness").read_bytes())
    with pytest.raises(LogTruncated, match="lost"):
        restore(copy, tmp_path / "third", logwork.system())
    database.write_bytes(b"x" * 8192)
    with pytest.raises(CorruptionError):
        restore(copy, tmp_path / "third", logwork.system())
    assert not (tmp_path / "third").exists()


def test_no_backup_is_left_half_when_there_is_no_room(tmp_path: Path) -> None:
    logwork.run(tmp_path / "log", logwork.Job(), lambda _: None)

    def full(point: str) -> None:
        if point == "log.backup.step":
            raise OSError(28, "No space left on device")

    with logwork.opened(tmp_path / "log") as log:
        with hooked(full), pytest.raises(LogFull):
            back_up(log, tmp_path / "copy")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["log"]
        back_up(log, tmp_path / "copy")
