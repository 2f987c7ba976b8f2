"""Waking other processes without polling: one FIFO per waiter in a directory, a byte written is a wake-up.

A lost wake-up costs at most the waiter's safety poll; a byte too many costs one look. Works on Linux and macOS.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

TAGS_CHARACTERS_MAX = 150
_READ_BYTES = 4096
_SETTLED_NS = 100_000_000


def spell(tags: Iterable[int]) -> str:
    """Tags as part of a file's name: ranges such as ``3-7.9-9``; where there are too many, one that holds them all."""
    ranges: list[list[int]] = []
    for tag in sorted(tags):
        if ranges and tag <= ranges[-1][1] + 1:
            ranges[-1][1] = tag
        else:
            ranges.append([tag, tag])
    spelled = ".".join(f"{low}-{high}" for low, high in ranges)
    return spelled if len(spelled) <= TAGS_CHARACTERS_MAX else f"{ranges[0][0]}-{ranges[-1][1]}"


def _ranges(name: str) -> list[tuple[int, int]]:
    """The tags in a waiter's name; empty for a file that is no waiter."""
    out: list[tuple[int, int]] = []
    for part in name.split(".")[1:]:
        low, _, high = part.partition("-")
        if not (low.isdigit() and high.isdigit()):
            return []
        out.append((int(low), int(high)))
    return out


class Waiter:
    """A FIFO that becomes readable when one of `tags` is announced. Owned by one reader; not for forked children.

    The FIFO is opened before it gets its public name, so nobody finds it without a reader. It holds a writing end too:
    without any, the reader would be told of the end of the file again and again.
    """

    def __init__(self, directory: Path, name: str, tags: Iterable[int]) -> None:
        directory.mkdir(exist_ok=True)
        self._path = directory / f"{os.getpid()}-{name}.{spell(tags)}"
        hidden = directory / f".{os.getpid()}-{name}"
        with suppress(FileNotFoundError):
            hidden.unlink()
        os.mkfifo(hidden, 0o644)
        self.fd = os.open(hidden, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._writing = os.open(hidden, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.replace(hidden, self._path)

    def drain(self) -> bool:
        """Take all pending wake-ups; whether there were any."""
        seen = False
        while True:
            try:
                data = os.read(self.fd, _READ_BYTES)
            except BlockingIOError:
                return seen
            if len(data) < _READ_BYTES:  # that was all
                return True
            seen = True

    def close(self) -> None:
        """Remove the FIFO; may be called twice."""
        if self.fd >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._writing)
            os.close(self.fd)
            self.fd = -1


class Announcer:
    """Wakes every waiter whose tags meet the announced ones; keeps the FIFOs open between calls."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self._directory = directory
        self._name = str(directory)
        self._seen_ns = -1
        self._open: dict[str, tuple[int, list[tuple[int, int]]]] = {}

    def announce(self, tags: Iterable[int]) -> None:
        """Wake them; never blocks. A waiter that is gone is removed from the directory."""
        stamp = os.stat(self._name).st_mtime_ns
        if stamp != self._seen_ns:
            # A change within the clock's tick leaves the time of change as it was: soon after one, look each time.
            settled = abs(time.time_ns() - stamp) > _SETTLED_NS
            self._refresh()
            self._seen_ns = stamp if settled else -1
        if not self._open:
            return
        wanted = list(tags)
        for name, (fd, theirs) in list(self._open.items()):
            if not any(low <= tag <= high for tag in wanted for low, high in theirs):
                continue
            try:
                os.write(fd, b"!")
            except BlockingIOError:
                pass  # it is full of wake-ups already
            except BrokenPipeError:
                self._forget(name, fd)

    def _refresh(self) -> None:
        present = {entry for entry in os.listdir(self._directory) if not entry.startswith(".")}
        for name in set(self._open) - present:
            os.close(self._open.pop(name)[0])
        for name in present - set(self._open):
            path = self._directory / name
            try:
                if not stat.S_ISFIFO(path.lstat().st_mode):
                    continue
                fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            except OSError:  # ENXIO: its reader died without removing it
                path.unlink(missing_ok=True)
                continue
            self._open[name] = (fd, _ranges(name))

    def _forget(self, name: str, fd: int) -> None:
        del self._open[name]  # first: an interrupt must not leave the number of a closed file here
        os.close(fd)
        (self._directory / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Close every FIFO; may be called twice."""
        for fd, _ in self._open.values():
            os.close(fd)
        self._open.clear()
        self._seen_ns = -1
