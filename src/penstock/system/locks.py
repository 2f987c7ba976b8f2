"""Locks between processes: a fair writers' lock of two flocks, released by the kernel when the holder dies.

Plain flock is unfair: a process that releases and takes again wins nearly always. Here everybody first takes the
turnstile, then the lock, then lets the turnstile go: whoever waits for the lock holds the turnstile, so the last
holder queues behind it.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class FairLock:
    """One exclusive lock per directory of files `turn` and `lock`; owned by one thread at a time.

    flock has no time-out: `acquire` may block as long as another process holds the lock; `try_acquire` never does.
    A forked child must call `abandon` before anything else: an inherited flock is held until the last copy of the
    descriptor is closed.
    """

    def __init__(self, directory: Path) -> None:
        flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC
        self._turn = os.open(directory / "turn", flags, 0o644)
        self._lock = os.open(directory / "lock", flags, 0o644)

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

    def release(self) -> None:
        """Let the next one in."""
        fcntl.flock(self._lock, fcntl.LOCK_UN)

    def holder_pid(self) -> int:
        """The process that took the lock last; 0 when none ever did."""
        text = os.pread(self._lock, 20, 0)
        return int(text) if text.strip().isdigit() else 0

    def close(self) -> None:
        """Close both descriptors; a held lock is released."""
        os.close(self._lock)
        os.close(self._turn)

    abandon = close

    def _publish_holder(self) -> None:
        os.pwrite(self._lock, b"%020d" % os.getpid(), 0)


class FileLock:
    """A plain exclusive flock on one file, for ownership that lasts (a group's owner, a worker's life)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def try_acquire(self, label: str = "") -> bool:
        """Take it if it is free, and write `label` for others to read; never blocks."""
        if self._fd is None:
            self._fd = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
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
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
