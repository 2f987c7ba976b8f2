"""Several processes on one directory, and programs that meddle with its files: nothing acked is lost or doubled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from penstock.channel.api import GroupSpec, Subscription, TopicSpec
from penstock.channel.drivers.embedded import EmbeddedChannel
from penstock.errors import ConfigError, DeclaredDifferently, LogBusy, LogReplaced, OutcomeUnknown, PenstockError
from penstock.log.api import Appended
from penstock.log.log import Log, LogConfig
from penstock.log.witness import NAME as WITNESS
from penstock.system import real_system
from penstock.system.points import hooked
from tests.faults import logwork, publisher
from tests.faults.report import FaultReport
from tests.unit.log.logs import SYSTEM, append, block, contents, declare, opened
from tests.unit.log.test_log_processes import INSIDE, Process


def read_and_close(directory: Path) -> None:
    """What a copy for a backup does: closing any descriptor of a file drops all POSIX locks this process has on it."""
    for name in ("log.db", "log.db-wal", "log.db-shm", WITNESS):
        if (directory / name).exists():
            (directory / name).read_bytes()


def foreign_program(directory: Path) -> None:
    """Another program that opens the file with plain SQLite, thinks itself alone, and cleans up at its close."""
    code = (
        "import apsw, sys; db = apsw.Connection(sys.argv[1]); db.execute('SELECT * FROM meta').fetchall(); db.close()"
    )
    subprocess.run([sys.executable, "-c", code, str(directory / "log.db")], check=True)


def publish_some(log: Log, pid: int, numbers: range) -> list[bytes]:
    """Publish one by one until an error; the acked ones."""
    acked: list[bytes] = []
    for number in numbers:
        body = b"here-%d" % number
        try:
            answer = logwork.publish(log, pid, number, [body], producer="here")
        except PenstockError as exc:
            assert isinstance(exc, LogReplaced | OutcomeUnknown), exc  # noqa: PT017 - every other error is a finding
            break
        assert isinstance(answer, Appended)
        acked.append(body)
    return acked


def test_a_foreign_program_that_cleans_up(tmp_path: Path, fault_report: FaultReport) -> None:
    """It deletes the write-ahead log under us: what we acked is there, what comes after is refused and not acked."""
    tally = fault_report("A20")
    directory = tmp_path / "log"
    with logwork.opened(directory) as log:
        (pid,) = logwork.declare(log, publisher.TOPIC, 1)
        acked = publish_some(log, pid, range(20))
        assert len(acked) == 20
        read_and_close(directory)
        foreign_program(directory)
        acked += publish_some(log, pid, range(20, 40))
    with logwork.opened(directory) as log:
        found = logwork.contents(log, pid)
        tally.compare(acked, [body for body in found if body in acked])
        again = publish_some(log, pid, range(40))
        tally.compare(again, logwork.contents(log, pid))
    tally.points += 2
    assert len(again) == 40
    assert tally.clean, tally.told


def test_our_own_program_that_comes_and_goes(tmp_path: Path, fault_report: FaultReport) -> None:
    """After a copy was made, another publisher opens, publishes and closes: both go on, nothing is lost."""
    tally = fault_report("A20", "B3")
    directory = tmp_path / "log"
    with logwork.opened(directory) as log:
        (pid,) = logwork.declare(log, publisher.TOPIC, 1)
        acked = publish_some(log, pid, range(10))
        for turn in range(3):
            read_and_close(directory)
            acked += [line.encode() for line in publisher.ended(publisher.start(directory, f"there{turn}", 5))]
            here = range(10 * (turn + 1), 10 * (turn + 2))
            mine = publish_some(log, pid, here)
            assert len(mine) == len(here), "the other's close made our commits impossible"
            acked += mine
            tally.points += 1
        tally.compare(acked, logwork.contents(log, pid))
    with logwork.opened(directory) as log:
        tally.compare(acked, logwork.contents(log, pid))
    assert len(acked) == 55
    assert tally.clean, tally.told


def test_a_second_writer_is_kept_out_even_without_sqlite_s_locks(tmp_path: Path, fault_report: FaultReport) -> None:
    """SQLite's locks are gone, and a transaction is open: only the writers' lock stands between the two."""
    tally = fault_report("B3")
    directory = tmp_path / "log"
    said: list[str] = []

    def meddle(name: str) -> None:
        if name == "log.commit" and not said:
            said.append("")
            read_and_close(directory)
            said[0] = publisher.ended(publisher.start(directory, "there", 3, wait_s=0.2))[-1]

    with logwork.opened(directory) as log:
        (pid,) = logwork.declare(log, publisher.TOPIC, 1)
        acked = publish_some(log, pid, range(5))
        with hooked(meddle):
            acked += publish_some(log, pid, range(5, 10))
        tally.compare(acked, logwork.contents(log, pid))
    with logwork.opened(directory) as log:
        tally.compare(acked, logwork.contents(log, pid))
    tally.points += 1
    assert len(acked) == 10
    assert said[0].startswith("LogBusy"), said
    assert tally.clean, tally.told


_FORK = """
import json, os, sys
from pathlib import Path
from penstock.errors import Closed, PenstockError
from tests.faults import logwork
directory = Path(sys.argv[1])
told = {}
with logwork.opened(directory) as log:
    (pid,) = logwork.declare(log, "t", 1)
    logwork.publish(log, pid, 0, [b"parent-0"], producer="parent")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        answers = []
        for attempt in range(2):
            try:
                logwork.publish(log, pid, 1, [b"inherited"], producer="parent")
                answers.append("published through the inherited handle")
            except PenstockError as exc:
                answers.append(f"{type(exc).__name__}: {exc}")
        log.close()
        with logwork.opened(directory) as own:
            logwork.publish(own, pid, 0, [b"child-0"], producer="child")
        os.write(writer, json.dumps(answers).encode())
        os._exit(0)
    os.close(writer)
    told["child"] = json.loads(os.fdopen(reader).read())
    told["status"] = os.waitpid(child, 0)[1]
    logwork.publish(log, pid, 1, [b"parent-1"], producer="parent")
    told["events"] = [body.decode() for body in logwork.contents(log, pid)]
print(json.dumps(told))
"""


def test_a_forked_child_does_not_write_through_the_handle_it_inherited(
    tmp_path: Path, fault_report: FaultReport
) -> None:
    tally = fault_report("B4")
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", _FORK, str(tmp_path / "log")]
    done = subprocess.run(command, cwd=logwork.ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    told = msgspec.json.decode(done.stdout)
    assert told["status"] == 0
    for answer in told["child"]:
        assert answer.startswith("Closed: "), answer
        assert "open the log again in the child" in answer
    tally.compare(["parent-0", "child-0", "parent-1"], told["events"])
    tally.points += 1
    assert tally.clean, tally.told


_HOLD = """
import os, signal, sys
from pathlib import Path
from penstock.system.points import hooked
from tests.faults import logwork
with logwork.opened(Path(sys.argv[1])) as log:
    (pid,) = logwork.declare(log, "t", 1)
    def fork(name):
        if name != "log.commit":
            return
        if os.fork():
            os.kill(os.getpid(), signal.SIGKILL)
        print("forked", flush=True)
        sys.stdin.read()
        os._exit(0)
    with hooked(fork):
        logwork.publish(log, pid, 0, [b"held"], producer="parent")
"""


def test_a_child_that_outlives_a_killed_writer_does_not_keep_its_lock(
    tmp_path: Path, fault_report: FaultReport
) -> None:
    """A flock is held until its last copy is closed: the child must close the one that it was born with."""
    tally = fault_report("B4")
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", _HOLD, str(tmp_path / "log")]
    with subprocess.Popen(
        command, cwd=logwork.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "forked\n"
        assert parent.wait(60) == -9
        said = publisher.ended(publisher.start(tmp_path / "log", "other", 2, wait_s=10))
        parent.communicate("")
    tally.compare(["other-0", "other-1"], said)
    tally.points += 1
    assert tally.clean, tally.told


def test_several_programs_publish_at_once(tmp_path: Path, fault_report: FaultReport) -> None:
    tally = fault_report("B5")
    directory = tmp_path / "log"
    with logwork.opened(directory) as log:
        (pid,) = logwork.declare(log, publisher.TOPIC, 1)
        started = [publisher.start(directory, name, 40) for name in ("a", "b", "c")]
        mine = publish_some(log, pid, range(40))
        acked = [publisher.ended(process) for process in started]
        found = [body.decode() for body in logwork.contents(log, pid)]
    for name, wanted in zip(("a", "b", "c"), acked, strict=True):
        assert len(wanted) == 40
        tally.compare(wanted, [body for body in found if body.startswith(f"{name}-")], where=name)
    tally.compare([body.decode() for body in mine], [body for body in found if body.startswith("here-")], where="here")
    tally.points += 4
    assert len(found) == 160
    assert tally.clean, tally.told


async def _open(directory: Path, spec: TopicSpec, group: GroupSpec | None = None) -> None:
    channel = EmbeddedChannel(directory, system=real_system())
    await channel.open([spec])
    try:
        if group is not None:
            await (await channel.join(Subscription(group))).leave()
    finally:
        await channel.close()


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (TopicSpec("orders", partitions=4, key="id"), r"partitions"),
        (TopicSpec("orders", partitions=2), r"key"),
        (TopicSpec("Orders", partitions=2, key="id"), r"case"),
    ],
)
async def test_a_topic_declared_differently_is_refused(
    tmp_path: Path, other: TopicSpec, named: str, fault_report: FaultReport
) -> None:
    tally = fault_report("B5")
    first = TopicSpec("orders", partitions=2, key="id")
    await _open(tmp_path / "log", first)
    with pytest.raises(DeclaredDifferently, match=named):
        await _open(tmp_path / "log", other)
    await _open(tmp_path / "log", first)
    tally.points += 1


async def test_a_group_declared_differently_is_refused(tmp_path: Path, fault_report: FaultReport) -> None:
    tally = fault_report("B5")
    orders, bills = TopicSpec("orders", partitions=1), TopicSpec("bills", partitions=1)
    await _open(tmp_path / "log", orders, GroupSpec("check", "orders"))
    with pytest.raises(DeclaredDifferently, match=r"group check.*orders.*bills"):
        await _open(tmp_path / "log", bills, GroupSpec("check", "bills"))
    tally.points += 1


def test_another_format_version_is_refused(tmp_path: Path, fault_report: FaultReport) -> None:
    tally = fault_report("B5")
    with logwork.opened(tmp_path / "log") as log:
        logwork.write(log, lambda db: db.execute("UPDATE meta SET value = 99 WHERE key = 'format'"))
    with pytest.raises(ConfigError, match=r"format 99.*reads format"), logwork.opened(tmp_path / "log"):
        pass
    tally.points += 1


def test_a_copy_restored_underneath_is_refused(tmp_path: Path, fault_report: FaultReport) -> None:
    """An older copy is put over the open log's files: its next commit is refused, not acked into another history."""
    tally = fault_report("B5")
    directory = tmp_path / "log"
    with logwork.opened(directory) as log:
        (pid,) = logwork.declare(log, publisher.TOPIC, 1)
        publish_some(log, pid, range(5))
        older = {name: (directory / name).read_bytes() for name in ("log.db", "log.db-wal")}
        publish_some(log, pid, range(5, 10))
        for name, data in older.items():
            new = directory / f"{name}.restored"
            new.write_bytes(data)
            new.replace(directory / name)
        with pytest.raises(LogReplaced, match="was replaced"):
            logwork.publish(log, pid, 10, [b"here-10"], producer="here")
        tally.points += 1


def test_the_answer_is_lost_and_the_publisher_tries_again(tmp_path: Path, fault_report: FaultReport) -> None:
    """The commit went through, the answer did not: the same sequence gets the same offset, and there is one event."""
    tally = fault_report("B11")
    directory = tmp_path / "log"

    class Cut(OSError):
        pass

    def cut(name: str) -> None:
        if name == "log.committed":
            raise Cut

    with logwork.opened(directory) as log:
        (pid,) = logwork.declare(log, publisher.TOPIC, 1)
        logwork.publish(log, pid, 0, [b"first"], producer="p")
        with hooked(cut), pytest.raises(OutcomeUnknown):
            logwork.publish(log, pid, 1, [b"second"], producer="p")
    with logwork.opened(directory, LogConfig()) as log:
        for _ in range(3):
            again = logwork.publish(log, pid, 1, [b"second"], producer="p")
            assert isinstance(again, Appended)
            assert (list(again.first), again.repeated) == ([1], True)
            tally.points += 1
        tally.compare([b"first", b"second"], logwork.contents(log, pid))
    assert tally.clean, tally.told


def test_a_writer_stopped_inside_its_transaction_is_named_and_readers_go_on(
    tmp_path: Path, fault_report: FaultReport
) -> None:
    """Stopped while it writes: others are refused within a bound, by a message that names it; readers go on."""
    tally = fault_report("B2")
    config = LogConfig(lock_wait_s=0.05)
    with opened(tmp_path, config) as log:
        (pid,) = declare(log)
        log.apply(append(0, block(pid, b"mine")))
        other = Process(tmp_path, INSIDE)
        assert other.says() == "inside"
        os.kill(other.process.pid, signal.SIGSTOP)
        named = rf"process {other.process.pid} took the log's writer lock .* s ago"
        with pytest.raises(LogBusy, match=named):
            log.apply(append(1, block(pid, b"late")))
        with pytest.raises(LogBusy, match=named):
            log.submit(append(1, block(pid, b"late"))).result(timeout=10)
        with pytest.raises(LogBusy, match=named):
            log.write(lambda db: None).result(timeout=10)
        with pytest.raises(LogBusy, match=named):
            Log.open(tmp_path, SYSTEM, config)
        assert contents(log, pid) == [b"mine"]
        other.process.kill()
        other.end()
        assert log.submit(append(1, block(pid, b"late"))).result(timeout=10) == Appended([1])
        tally.compare([b"mine", b"late"], contents(log, pid))
    tally.points += 4
    assert tally.clean, tally.told
