"""Committing: rounds, errors that concern one or everybody, what is unknown, and checkpoints."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import apsw
import pytest

from penstock.errors import IOFailed, LogFull, OutcomeUnknown, RecordDamaged
from penstock.log import log as module
from penstock.log.api import Append, Appended, Block
from penstock.log.log import Log
from penstock.log.store import Store
from penstock.system.points import hooked
from tests.unit.log.logs import SYSTEM, append, block, contents, declare, opened


def _together(log: Log, *requests: Append) -> list[Future[Any]]:
    """Queue requests while nobody may serve, so that rounds are as full as they can be."""
    with log._combiner._serving.held(log):
        answers = [log.submit(request) for request in requests]
    for answer in answers:
        answer.exception(timeout=10)
    return answers


def test_what_waits_is_committed_together(tmp_path: Path) -> None:
    with opened(tmp_path / "log") as log:
        (pid,) = declare(log)
        commits: list[str] = []
        with hooked(lambda name: commits.append(name) if name == "log.committed" else None):
            answers = _together(log, *[append(n, block(pid, b"%d" % n)) for n in range(20)])
        assert [a.result().first[0] for a in answers] == list(range(20))
        assert len(commits) == 1
        assert contents(log, pid) == [b"%d" % n for n in range(20)]


def test_a_round_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROUND_BYTES_MAX", 3_000)
    with opened(tmp_path / "log") as log:
        (pid,) = declare(log)
        commits: list[str] = []
        with hooked(lambda name: commits.append(name) if name == "log.committed" else None):
            _together(log, *[append(n, Block(pid, 1, 0, 1000, bytes(1000), 0)) for n in range(6)])
        assert len(commits) == 3


def test_a_request_that_breaks_harms_no_other_of_its_round(tmp_path: Path) -> None:
    with opened(tmp_path / "log") as log:
        (pid,) = declare(log)
        bad = Append("q", 0, 0, [Block(pid, 1, 2**70, 1, b"x", 0)])
        one, broken, two = _together(log, append(0, block(pid, b"a")), bad, append(1, block(pid, b"b")))
        assert one.result() == Appended([0])
        assert two.result() == Appended([1])
        assert isinstance(broken.exception(), OverflowError)
        assert contents(log, pid) == [b"a", b"b"]


def test_damage_of_one_producer_is_told_to_that_one_only(tmp_path: Path) -> None:
    with opened(tmp_path / "log") as log:
        (pid,) = declare(log)
        log.apply(append(0, block(pid, b"a"), producer="damaged"))
        log.write(lambda db: db.execute("UPDATE sequence SET content = content + 1")).result()
        bad, good = _together(log, append(1, block(pid, b"x"), producer="damaged"), append(0, block(pid, b"b")))
        assert isinstance(bad.exception(), RecordDamaged)
        assert good.result() == Appended([1])


def test_a_cancelled_request_that_waits_is_withdrawn(tmp_path: Path) -> None:
    with opened(tmp_path / "log") as log:
        (pid,) = declare(log)
        go = threading.Event()
        log.write(lambda db: go.wait(10))
        cancelled, other = (
            log.submit(append(0, block(pid, b"a"))),
            log.submit(append(0, block(pid, b"b"), producer="q")),
        )
        assert cancelled.cancel()
        go.set()
        assert other.result(timeout=10) == Appended([0])
        assert contents(log, pid) == [b"b"]


class FailingDb:
    """A connection that fails at one statement, before or after it is run."""

    def __init__(self, db: apsw.Connection, statement: str, error: Exception, *, after: bool = False) -> None:
        self._db = db
        self._statement = statement
        self._error = error
        self._after = after

    def execute(self, sql: str, *args: Any) -> Any:
        if not sql.lstrip().startswith(self._statement):
            return self._db.execute(sql, *args)
        if self._after:
            self._db.execute(sql, *args)
        raise self._error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


def _failing(log: Log, statement: str, error: Exception, *, after: bool = False) -> None:
    log._store = Store(FailingDb(log._db, statement, error, after=after))  # type: ignore[arg-type]


@pytest.mark.parametrize("statement", ["INSERT INTO block", "COMMIT"])
def test_a_full_disk_stores_nothing_and_the_log_goes_on(tmp_path: Path, statement: str) -> None:
    with opened(tmp_path / "log") as log:
        (pid,) = declare(log)
        _failing(log, statement, apsw.FullError("database or disk is full"))
        answers = _together(log, append(0, block(pid, b"a")), append(0, block(pid, b"b"), producer="q"))
        assert all(isinstance(a.exception(), LogFull) for a in answers)
        assert contents(log, pid) == []
        log._store = Store(log._db)
        assert log.apply(append(0, block(pid, b"a"))) == Appended([0])


def test_a_full_disk_where_sqlite_has_rolled_back_by_itself(tmp_path: Path) -> None:
    with opened(tmp_path / "log") as log:
        (pid,) = declare(log)

        class Rolled(FailingDb):
            def execute(self, sql: str, *args: Any) -> Any:
                if sql.lstrip().startswith("INSERT INTO block"):
                    self._db.execute("ROLLBACK")
                return super().execute(sql, *args)

        log._store = Store(Rolled(log._db, "INSERT INTO block", apsw.FullError("full")))  # type: ignore[arg-type]
        with pytest.raises(LogFull):
            log.apply(append(0, block(pid, b"a")))
        log._store = Store(log._db)
        assert log.apply(append(0, block(pid, b"a"))) == Appended([0])


@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize("error", [apsw.IOError("disk I/O error"), apsw.NoMemError("out of memory")])
def test_a_failed_commit_is_unknown_tried_once_and_ends_the_log_object(
    tmp_path: Path, after: bool, error: Exception
) -> None:
    directory = tmp_path / "log"
    log = Log.open(directory, SYSTEM)
    (pid,) = declare(log)
    _failing(log, "COMMIT", error, after=after)
    answers = _together(log, append(0, block(pid, b"a")), append(0, block(pid, b"b"), producer="q"))
    assert all(isinstance(a.exception(), OutcomeUnknown) for a in answers)
    with pytest.raises(IOFailed, match="open the log again"):
        log.apply(append(0, block(pid, b"a")))
    log.close()
    with opened(directory) as again:
        assert contents(again, pid) == ([b"a", b"b"] if after else [])
        answer = again.apply(append(0, block(pid, b"a")))
        assert answer == Appended([0], repeated=after)


def test_an_interrupted_caller_lets_the_lock_go(tmp_path: Path) -> None:
    with opened(tmp_path / "log") as log:
        (pid,) = declare(log)

        def interrupt(name: str) -> None:
            if name == "log.commit":
                raise KeyboardInterrupt

        with hooked(interrupt), pytest.raises(KeyboardInterrupt):
            log.apply(append(0, block(pid, b"a")))
        with opened(tmp_path / "log") as other:
            assert other.apply(append(0, block(pid, b"a"))) == Appended([0])


def test_acks_do_not_wait_for_the_checkpoint_and_its_failed_sync_ends_the_log_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECKPOINT_PAGES", 1)
    log = Log.open(tmp_path / "log", SYSTEM)
    (pid,) = declare(log)
    answers: list[Future[Any]] = []
    answered: list[bool] = []

    def fail(_db: apsw.Connection) -> bool:
        answered.extend(answer.done() for answer in answers)
        raise apsw.IOError("disk I/O error")

    monkeypatch.setattr(module, "checkpoint", fail)
    with log._combiner._serving.held(log):
        answers.append(log.submit(append(0, block(pid, b"a"))))
    assert answers[0].result(timeout=10) == Appended([0])
    log.close()
    assert answered == [True]
    assert isinstance(log.failure, IOFailed)


def test_a_checkpoint_bounds_the_write_ahead_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECKPOINT_PAGES", 20)
    with opened(tmp_path / "log") as log:
        (pid,) = declare(log)
        for n in range(60):
            log.apply(append(n, block(pid, b"x" * 10)))
        assert (tmp_path / "log" / "log.db-wal").stat().st_size < 40 * 16384
        assert len(contents(log, pid)) == 60


def test_a_lost_wake_directory_costs_no_commit(tmp_path: Path) -> None:
    with opened(tmp_path / "log") as log:
        (pid,) = declare(log)
        (tmp_path / "log" / "wake").rmdir()
        assert log.apply(append(0, block(pid, b"a"))) == Appended([0])
        assert log.apply(append(1, block(pid, b"b"))) == Appended([1])


def test_closing_serves_what_is_queued(tmp_path: Path) -> None:
    log = Log.open(tmp_path / "log", SYSTEM)
    (pid,) = declare(log)
    answers = [log.submit(append(n, block(pid, b"%d" % n))) for n in range(30)]
    log.close()
    assert [a.result().first[0] for a in answers] == list(range(30))  # type: ignore[union-attr]
