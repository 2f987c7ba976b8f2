"""Locks between processes: a fair writers' lock of two flocks, released by the kernel when the holder dies.

Plain flock is unfair: a process that releases and takes again wins nearly always. Here everybody first takes the
turnstile, then the lock, then lets the turnstile go: whoever waits for the lock holds the turnstile, so the last
holder queues behind it.

An inherited flock is held until the last copy of its descriptor is closed, so a forked child closes its copies at once.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

_HOLDER_BYTES = 41


class FairLock:
    """One exclusive lock per directory of files `turn` and `lock`; owned by one thread at a time.

    flock has no time-out: `acquire` may block as long as another process holds the lock; `try_acquire` never does, and
    `acquire_within` gives up.
    """

    def __init__(self, directory: Path) -> None:
        flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC
        self._turn = os.open(directory / "turn", flags, 0o644)
        try:
            self._lock = os.open(directory / "lock", flags, 0o644)
        except OSError:
            os.close(self._turn)
            raise
        _OPEN.add(self)

    def acquire(self) -> None:
        """Wait for the lock, in order of arrival as far as flock is fair among waiters of the turnstile."""
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        finally:
            fcntl.flock(self._turn, fcntl.LOCK_UN)
        self._publish_holder()

    def try_acquire(self) -> bool:
        """Take the lock if nobody holds it and nobody waits for it; never blocks."""
        try:
            fcntl.flock(self._turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            fcntl.flock(self._turn, fcntl.LOCK_UN)
        self._publish_holder()
        return True

    def acquire_within(self, wait_s: float) -> bool:
        """Queue for the lock for `wait_s` seconds at most.

        Returns:
            False: given up. Then this object is of no more use: it closes itself when its place in the queue comes up.
        """
        if self.try_acquire():
            return True
        mutex = threading.Lock()
        state = {"got": False, "forsaken": False}

        def queue() -> None:
            self.acquire()
            with mutex:
                state["got"] = True
                if state["forsaken"]:
                    self.close()

        thread = threading.Thread(target=queue, name="penstock-lock", daemon=True)
        thread.start()
        thread.join(wait_s)
        with mutex:
            state["forsaken"] = not state["got"]
            return state["got"]

    def release(self) -> None:
        """Let the next one in."""
        fcntl.flock(self._lock, fcntl.LOCK_UN)

    def leave(self) -> None:
        """Let go of whatever is held, also of what an interrupted `try_acquire` has left; nothing when nothing is."""
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        fcntl.flock(self._turn, fcntl.LOCK_UN)

    def holder(self) -> tuple[int, float]:
        """The process that took the lock last, and how many seconds ago; (0, 0.0) when none ever did."""
        words = os.pread(self._lock, _HOLDER_BYTES, 0).split()
        if len(words) != 2 or not all(word.isdigit() for word in words):  # noqa: PLR2004  pid and time
            return 0, 0.0
        return int(words[0]), max(0.0, (time.monotonic_ns() - int(words[1])) / 1e9)

    def close(self) -> None:
        """Close both descriptors; a held lock is released. May be called twice."""
        _OPEN.discard(self)
        if self._lock >= 0:
            lock, turn, self._lock, self._turn = self._lock, self._turn, -1, -1
            os.close(lock)
            os.close(turn)

    def _publish_holder(self) -> None:
        """Only messages need it: the monotonic clock is the machine's, so other processes can tell how long it is."""
        with suppress(OSError):
            os.pwrite(self._lock, b"%020d %020d" % (os.getpid(), time.monotonic_ns()), 0)


class FileLock:
    """A plain exclusive flock on one file, for ownership that lasts (a group's owner, a worker's life)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def try_acquire(self, label: str = "") -> bool:
        """Take it if it is free, and write `label` for others to read; never blocks."""
        if self._fd is None:
            self._fd = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
            _OPEN.add(self)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, label.encode(), 0)
        return True

    def label(self) -> str:
        """What the present or last holder wrote; empty when nobody ever held it."""
        try:
            return self._path.read_text()
        except FileNotFoundError:
            return ""

    def close(self) -> None:
        """Release and close; may be called twice."""
        _OPEN.discard(self)
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)


class DirectoryLock:
    """A plain exclusive flock on a directory itself: it leaves nothing behind, and follows the directory's renames."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        _OPEN.add(self)

    def try_acquire(self) -> bool:
        """Take it if it is free, and if the directory still has the name it was opened by; never blocks."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return self.is_at(self._path)

    def is_at(self, path: Path) -> bool:
        """Whether `path` names this directory now."""
        try:
            return os.path.samestat(os.fstat(self._fd), path.stat())
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Release and close; may be called twice."""
        _OPEN.discard(self)
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


_OPEN: set[FairLock | FileLock | DirectoryLock] = set()


def _after_fork_in_child() -> None:
    for lock in list(_OPEN):
        lock.close()


os.register_at_fork(after_in_child=_after_fork_in_child)
