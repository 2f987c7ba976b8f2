"""A disk that fails, fills up or stands still: said to the publisher as it is, and nothing acked is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

from penstock.errors import IOFailed, LogFull, OutcomeUnknown
from penstock.log.api import Append, Appended
from penstock.log.log import Log
from penstock.system.chance import seeded
from tests.faults import disk, logwork
from tests.faults.report import FaultReport


class Trouble:
    """An observer that fails, delays or only counts acts on a file, from the moment it is switched on."""

    def __init__(self, kind: str, name: str, trouble: Callable[[], None]) -> None:
        self.on = False
        self.struck = 0
        self._kind, self._name, self._trouble = kind, name, trouble

    def __call__(self, op: disk.Op) -> None:
        if self.on and op.kind == self._kind and Path(op.path).name == self._name:
            self.struck += 1
            self._trouble()


def _fails(error: type[apsw.Error], code: int) -> Callable[[], None]:
    def trouble() -> None:
        exc = error("planted")
        exc.extendedresult = code  # type: ignore[attr-defined]
        raise exc

    return trouble


EIO_ON_SYNC = _fails(apsw.IOError, apsw.SQLITE_IOERR_FSYNC)
EIO_ON_WRITE = _fails(apsw.IOError, apsw.SQLITE_IOERR_WRITE)
NO_ROOM = _fails(apsw.FullError, apsw.SQLITE_FULL)


@pytest.mark.parametrize(("kind", "fails"), [("sync", EIO_ON_SYNC), ("write", EIO_ON_WRITE)])
def test_an_io_error_stops_the_log_object_and_not_the_process(
    tmp_path: Path, kind: str, fails: Callable[[], None], fault_report: FaultReport
) -> None:
    """After it nobody knows what the disk holds (a second fsync may lie): unknown, until the log is opened again."""
    tally = fault_report("A9")
    trouble = Trouble(kind, "log.db-wal", fails)
    acked = [b"a%d" % number for number in range(3)]
    with disk.watched(trouble, tmp_path):
        with logwork.opened(tmp_path / "log") as log:
            (pid,) = logwork.declare(log, "t", 1)
            for number, body in enumerate(acked):
                logwork.publish(log, pid, number, [body], producer="p")
            trouble.on = True
            with pytest.raises(OutcomeUnknown, match=r"unknown.*open the log again"):
                logwork.publish(log, pid, 3, [b"unknown"], producer="p")
            trouble.on = False
            for _ in range(2):
                with pytest.raises((IOFailed, OutcomeUnknown), match="open the log again"):
                    logwork.publish(log, pid, 4, [b"later"], producer="p")
                tally.points += 1
        assert trouble.struck >= 1
        with logwork.opened(tmp_path / "log") as log:
            again = logwork.publish(log, pid, 3, [b"unknown"], producer="p")
            assert isinstance(again, Appended)
            tally.compare([*acked, b"unknown"], logwork.contents(log, pid))
    assert tally.clean, tally.told


def test_an_io_error_reaches_everybody_who_waits(tmp_path: Path, fault_report: FaultReport) -> None:
    tally = fault_report("A9")
    trouble = Trouble("sync", "log.db-wal", EIO_ON_SYNC)
    with disk.watched(trouble, tmp_path), logwork.opened(tmp_path / "log") as log:
        (pid,) = logwork.declare(log, "t", 1)
        trouble.on = True
        answers = [log.submit(logwork.append(pid, number, [b"x"], producer="p")) for number in range(20)]
        for answer in answers:
            with pytest.raises((OutcomeUnknown, IOFailed)):
                answer.result(timeout=30)
            tally.points += 1


def test_a_full_disk_refuses_and_the_log_goes_on(tmp_path: Path, fault_report: FaultReport) -> None:
    """Nothing is acked or stored, readers go on, and with room again the same sequence is stored once."""
    tally = fault_report("A10")
    trouble = Trouble("write", "log.db-wal", NO_ROOM)
    with disk.watched(trouble, tmp_path):
        with logwork.opened(tmp_path / "log") as log:
            (pid,) = logwork.declare(log, "t", 1)
            logwork.publish(log, pid, 0, [b"before"], producer="p")
            trouble.on = True
            for _ in range(3):
                with pytest.raises(LogFull, match=r"full.*nothing was stored.*free room"):
                    logwork.publish(log, pid, 1, [b"refused"], producer="p")
                assert logwork.contents(log, pid) == [b"before"]
                tally.points += 1
            trouble.on = False
            logwork.publish(log, pid, 1, [b"stored"], producer="p")
            tally.compare([b"before", b"stored"], logwork.contents(log, pid))
        with logwork.opened(tmp_path / "log") as log:
            tally.compare([b"before", b"stored"], logwork.contents(log, pid))
    assert tally.clean, tally.told


class SlowDisk:
    """A sync that does not come back until it is let go."""

    def __init__(self) -> None:
        self.stuck = threading.Event()
        self.go = threading.Event()
        self.on = False

    def __call__(self, op: disk.Op) -> None:
        if self.on and op.kind == "sync" and op.path.endswith("log.db-wal"):
            self.stuck.set()
            assert self.go.wait(60)


@contextmanager
def slow_log(place: Path) -> Generator[tuple[SlowDisk, Log, int]]:
    """A log on a slow disk, and a partition in it; whatever happens, the disk is let go in the end."""
    slow = SlowDisk()
    with disk.watched(slow, place), logwork.opened(place / "log") as log:
        (pid,) = logwork.declare(log, "t", 1)
        slow.on = True
        try:
            yield slow, log, pid
        finally:
            slow.on = False
            slow.go.set()


def test_a_slow_disk_makes_no_duplicates(tmp_path: Path, fault_report: FaultReport) -> None:
    """A publish that is given up while it waits is not stored; one that was taken up waits for the true answer."""
    tally = fault_report("A17")
    with slow_log(tmp_path) as (slow, log, pid):
        taken = log.submit(logwork.append(pid, 0, [b"taken"], producer="first"))
        assert slow.stuck.wait(60)
        withdrawn = log.submit(logwork.append(pid, 0, [b"withdrawn"], producer="second"))
        assert withdrawn.cancel()
        slow.on = False
        slow.go.set()
        assert isinstance(taken.result(timeout=60), Appended)
        logwork.publish(log, pid, 0, [b"last"], producer="third")
        tally.points += 1
        tally.compare([b"taken", b"last"], logwork.contents(log, pid))
    assert tally.clean, tally.told


def test_a_slow_disk_pushes_back(tmp_path: Path, fault_report: FaultReport) -> None:
    """What waits is bounded: `busy` says so, `submit` blocks, and everything is stored once in order in the end."""
    tally = fault_report("A17")
    with slow_log(tmp_path) as (slow, log, pid):
        requests = [_large(pid, number) for number in range(40)]
        answers: list[Future] = [log.submit(requests[0])]
        assert slow.stuck.wait(60)
        while not log.busy():
            answers.append(log.submit(requests[len(answers)]))
        more = threading.Thread(target=lambda: answers.append(log.submit(requests[len(answers)])))
        waiting = len(answers)
        more.start()
        more.join(0.05)
        blocked = more.is_alive()
        slow.on = False
        slow.go.set()
        more.join(60)
        assert blocked, "submit did not block"
        assert waiting * len(requests[0].blocks[0].data) < 20_000_000
        assert len(answers) == waiting + 1
        for answer in answers:
            assert isinstance(answer.result(timeout=60), Appended)
        tally.points += len(answers)
        wanted = [b"%d" % number for number in range(len(answers))]
        tally.compare(wanted, [body.partition(b":")[0] for body in logwork.contents(log, pid)])
    assert tally.clean, tally.told


def _large(pid: int, number: int) -> Append:
    """About a megabyte that does not compress."""
    noise = seeded(number, "noise").randbytes(1_000_000)
    return logwork.append(pid, number, [b"%d:" % number + noise], producer="p")
