"""Several processes on one directory: they share it, a stopped or dead one harms no other, nothing acked is dropped."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import apsw
import pytest

from penstock.errors import Closed, LogBusy, LogTruncated
from penstock.log import catalogue
from penstock.log.api import Appended
from penstock.log.log import Log, LogConfig
from tests.unit.log.logs import SYSTEM, append, block, contents, declare, opened

ROOT = Path(__file__).parents[3]
START = """
import os, sys, shutil
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.unit.log.logs import *
from penstock.system.points import hooked
place = Path(sys.argv[1])
def say(text):
    print(text, flush=True)
def wait():
    sys.stdin.readline()
"""


class Process:
    """Another process that runs a few lines; they say and wait."""

    def __init__(self, place: Path, lines: str) -> None:
        text = START.format(root=str(ROOT)) + textwrap.dedent(lines)
        command = [sys.executable, "-W", "error", "-c", text, str(place)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> int:
        self.process.communicate(timeout=60)
        return self.process.returncode


INSIDE = """
log = Log.open(place, SYSTEM)
def stop(name):
    if name == "log.commit":
        say("inside")
        wait()
with hooked(stop):
    say(log.apply(append(0, block(1, b"theirs"), producer="theirs")))
"""


def test_two_processes_publish_a_thousand_each(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        (pid,) = declare(log)
    lines = """
    with opened(place) as log:
        say("ready"); wait()
        name = sys.stdin.readline().strip()
        queued = [log.submit(append(n, block(1, f"{name}{n}".encode()), producer=name)) for n in range(1000)]
        offsets = [answer.result().first[0] for answer in queued]
    say(offsets == sorted(offsets))
    """
    both = [Process(tmp_path, lines), Process(tmp_path, lines)]
    for one in both:
        assert one.says() == "ready"
    for name, one in zip("ab", both, strict=True):
        one.go()
        assert one.process.stdin is not None
        one.process.stdin.write(f"{name}\n")
        one.process.stdin.flush()
    assert [one.says() for one in both] == ["True", "True"]
    assert [one.end() for one in both] == [0, 0]
    with opened(tmp_path) as log:
        found = contents(log, pid)
    for name in "ab":
        assert [b for b in found if b.startswith(name.encode())] == [f"{name}{n}".encode() for n in range(1000)]


def test_closing_while_another_process_is_stopped_inside_is_bounded(tmp_path: Path) -> None:
    log = Log.open(tmp_path, SYSTEM, LogConfig(lock_wait_s=0.05))
    (pid,) = declare(log)
    other = Process(tmp_path, INSIDE)
    assert other.says() == "inside"
    answer = log.submit(append(0, block(pid, b"x")))
    log.close()
    with pytest.raises(LogBusy):
        answer.result(timeout=10)
    other.go()
    assert other.says() == str(Appended([0]))
    assert other.end() == 0
    log._combiner._thread.join(10)
    assert not log._combiner._thread.is_alive()


def test_a_forked_child_is_refused_and_may_open_its_own(tmp_path: Path) -> None:
    other = Process(
        tmp_path,
        """
        import warnings
        warnings.simplefilter("ignore")  # the interpreter warns of forks beside threads, rightly
        log = Log.open(place, SYSTEM)
        pid, = declare(log)
        log.apply(append(0, block(pid, b"parent")))
        child = os.fork()
        if child == 0:
            for use in (lambda: log.apply(append(1, block(pid, b"x"))), lambda: log.read(pid, 0, events_max=1),
                        lambda: log.submit(append(1, block(pid, b"x"))), lambda: log.waiter([1])):
                try:
                    use()
                except Exception as exc:
                    say(type(exc).__name__)
            log.close()
            with opened(place) as own:
                say(own.apply(append(0, block(pid, b"child"), producer="child")))
            sys.exit(0)
        os.waitpid(child, 0)
        say(log.apply(append(1, block(pid, b"parent again"))))
        log.close()
        """,
    )
    assert [other.says() for _ in range(4)] == [Closed.__name__] * 4
    assert other.says() == str(Appended([1]))
    assert other.says() == str(Appended([2]))
    assert other.end() == 0
    with opened(tmp_path) as log:
        assert contents(log, 1) == [b"parent", b"child", b"parent again"]


MEDDLE = """
log = Log.open(place, SYSTEM)
pid, = declare(log)
for n in range(25):
    log.apply(append(n, block(pid, b"%d" % n)))
for name in ("log.db", "log.db-shm", "log.db-wal"):
    with open(place / name, "rb") as file:  # a backup by hand: closing it drops this process's POSIX locks
        file.read()
say("meddled"); wait()
try:
    for n in range(25, 50):
        log.apply(append(n, block(pid, b"%d" % n)))
        say(n)
except LogReplaced:
    say("replaced")
say("done")
os._exit(0)
""".replace("log = Log", "from penstock.errors import LogReplaced\nlog = Log", 1)


@pytest.mark.parametrize("visitor", ["ours", "foreign"])
def test_nothing_acked_is_lost_when_the_files_were_opened_and_closed_in_the_same_process(
    tmp_path: Path, visitor: str
) -> None:
    """A visitor that sees no lock checkpoints and deletes the write-ahead log on closing, unless it is ours."""
    other = Process(tmp_path, MEDDLE)
    assert other.says() == "meddled"
    visit = {
        "ours": "with opened(place) as log:\n    say(len(contents(log, 1)))",
        "foreign": "import sqlite3\ndb = sqlite3.connect(place / 'log.db')\n"
        "say(db.execute('SELECT count(*) FROM block').fetchone()[0])\ndb.close()",
    }[visitor]
    guest = Process(tmp_path, visit)
    assert guest.says() == "25"
    assert guest.end() == 0
    other.go()
    acked = list(range(25))
    while (said := other.says()) not in {"done", "replaced"}:
        acked.append(int(said))
    other.end()
    with opened(tmp_path) as log:
        assert contents(log, 1) == [b"%d" % n for n in acked]


def test_without_the_guard_of_inodes_acked_commits_are_lost(tmp_path: Path) -> None:
    """The control of the test above: the guard is what keeps them."""
    other = Process(
        tmp_path, "from penstock.log.guard import FileGuard\nFileGuard.check = lambda self: None\n" + MEDDLE
    )
    assert other.says() == "meddled"
    guest = Process(tmp_path, "import sqlite3\ndb = sqlite3.connect(place / 'log.db')\ndb.execute('SELECT * FROM meta')"
                    ".fetchall()\ndb.close()\nsay('gone')")  # fmt: skip
    assert guest.says() == "gone"
    guest.end()
    other.go()
    acked = 25
    while other.says() != "done":
        acked += 1
    other.end()
    try:
        with opened(tmp_path) as log:
            kept = len(contents(log, 1))
    except LogTruncated:  # the witness has seen them
        kept = 0
    assert kept < acked


def test_what_is_read_at_once_is_of_one_commit(tmp_path: Path) -> None:
    """Else a topic that another process declares meanwhile is found without its partitions, and taken for damage."""
    with opened(tmp_path / "log") as log:
        declare(log, "before")
        other = Process(
            tmp_path / "log",
            """
            log = Log.open(place, SYSTEM)
            say("open")
            wait()
            declare(log, "meanwhile")
            say("declared")
            """,
        )
        assert other.says() == "open"

        def look(db: apsw.Connection) -> list[list[str]]:
            seen = [[row.name for row in catalogue.topics(db)]]
            partitions = db.execute("SELECT count(*) FROM partition WHERE pid > 0").get
            other.go()
            assert other.says() == "declared"
            assert db.execute("SELECT count(*) FROM partition WHERE pid > 0").get == partitions
            return [*seen, [row.name for row in catalogue.topics(db)]]

        assert log.look(look) == [["before"], ["before"]]
        assert [row.name for row in log.look(catalogue.topics)] == ["before", "meanwhile"]
        assert other.end() == 0
