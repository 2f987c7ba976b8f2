"""Locks between processes: exclusive, fair, bounded in time, and freed by death and by forks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

from penstock.system.locks import FairLock, FileLock

HOLD = """
import sys, pathlib
from penstock.system.locks import FairLock
lock = FairLock(pathlib.Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
sys.stdin.readline()
lock.release()
print("released", flush=True)
"""


class Holder:
    """Another process that holds the lock until it is told to let go, stopped or killed."""

    def __init__(self, directory: Path) -> None:
        command = [sys.executable, "-c", HOLD, str(directory)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "held\n"

    def release(self) -> None:
        assert self.process.stdin is not None
        self.process.communicate("go\n", timeout=30)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=30)


def test_one_holds_it_and_others_know_who(tmp_path: Path) -> None:
    lock = FairLock(tmp_path)
    assert lock.holder() == (0, 0.0)
    holder = Holder(tmp_path)
    assert not lock.try_acquire()
    pid, held_s = lock.holder()
    assert pid == holder.process.pid
    assert held_s >= 0
    holder.release()
    assert lock.try_acquire()
    assert lock.holder()[0] == os.getpid()
    lock.close()
    lock.close()


def test_death_frees_it(tmp_path: Path) -> None:
    lock = FairLock(tmp_path)
    holder = Holder(tmp_path)
    holder.kill()
    assert lock.acquire_within(10)
    lock.close()


def test_waiting_has_a_limit_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """The forsaken object closes itself when its turn comes, so the next one gets in."""
    holder = Holder(tmp_path)
    os.kill(holder.process.pid, signal.SIGSTOP)
    forsaken = FairLock(tmp_path)
    assert not forsaken.acquire_within(0.01)
    os.kill(holder.process.pid, signal.SIGCONT)
    waiting = FairLock(tmp_path)
    holder.release()
    assert waiting.acquire_within(10)
    waiting.close()


def test_who_waits_comes_before_who_had_it(tmp_path: Path) -> None:
    mine, theirs = FairLock(tmp_path), FairLock(tmp_path)
    turns: list[str] = []
    mine.acquire()

    def wait() -> None:
        theirs.acquire()
        turns.append("waited")
        theirs.release()

    thread = threading.Thread(target=wait)
    thread.start()
    turnstile = FileLock(tmp_path / "turn")
    while turnstile.try_acquire():  # until the other one stands in the turnstile
        turnstile.close()
    turnstile.close()
    mine.release()
    mine.acquire()
    turns.append("again")
    thread.join()
    assert turns == ["waited", "again"]
    mine.close()
    theirs.close()


def test_a_forked_child_holds_nothing_of_its_parent(tmp_path: Path) -> None:
    """An inherited flock would outlive the parent's death; here the parent lets go, and the child still lives."""
    fair, plain = FairLock(tmp_path), FileLock(tmp_path / "owner")
    fair.acquire()
    assert plain.try_acquire("parent")
    ready, go = os.pipe(), os.pipe()
    with warnings.catch_warnings(action="ignore"):  # later versions of Python warn of forks beside threads
        child = os.fork()
    if child == 0:
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    os.close(fair._lock)  # what the kernel does at the parent's death: closed, not unlocked
    os.close(plain._fd)  # type: ignore[arg-type]
    other, again = FairLock(tmp_path), FileLock(tmp_path / "owner")
    try:
        assert other.try_acquire()
        assert again.try_acquire("heir")
        assert again.label() == "heir"
    finally:
        os.write(go[1], b"x")
        os.waitpid(child, 0)
        fair._lock, plain._fd = -1, None
        for fd in (*ready, *go, fair._turn):
            os.close(fd)
        fair.close()
        plain.close()
        other.close()
        again.close()


def test_ownership_belongs_to_one_and_tells_its_name(tmp_path: Path) -> None:
    one, two = FileLock(tmp_path / "owner"), FileLock(tmp_path / "owner")
    assert two.label() == ""
    assert one.try_acquire("a longer name")
    assert one.try_acquire("one")
    assert not two.try_acquire("two")
    assert two.label() == "one"
    one.close()
    one.close()
    assert two.try_acquire("two")
    two.close()
