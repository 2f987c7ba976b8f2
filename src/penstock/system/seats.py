"""Seats: one file per member of a group, by which other processes see that it lives and what it holds.

The file is mapped into memory and locked (`flock`) for as long as its process lives: words of 64 bits, then the
member's label. A small thread of the process counts its counter up; neither it nor the lock has anything to do with the
log's own lock, so a slow disk does not look like a death.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from penstock.system.files import allocate, remove
from penstock.system.leases import LEASE_S, LOOK_S, Leases, Sign

_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
_MAGIC = 0x70656E73_65617431
_MAGIC_AT, _BEAT_AT, _PID_AT, _COUNT_AT, _LABEL_AT, _HEAD = 0, 1, 2, 3, 4, 8
LABEL_BYTES_MAX = 256
HELD = 1
"""Added to an epoch in a seat's words: 0 is a partition that is not held."""


class SeatFile:
    """This process's own seat. Marks are stores into memory; they survive the death of the process, not its closing.

    The file is locked before it gets its public name, so nobody finds it unlocked while its owner lives.

    Raises:
        OSError: the disk has no room for it, or the system no descriptor; nothing is left behind.
    """

    def __init__(self, directory: Path, label: str, partitions: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.name = f"{os.getpid():010d}-{os.urandom(6).hex()}"
        self.path = directory / self.name
        text = label.encode()[:LABEL_BYTES_MAX]
        size = (_HEAD + partitions) * 8 + len(text)
        hidden = directory / f".{self.name}"
        self._fd = os.open(hidden, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            allocate(self._fd, size)
            self._map = mmap.mmap(self._fd, size)
        except OSError:
            os.close(self._fd)
            remove(hidden)
            raise
        _OPEN.add(self)
        self._map[size - len(text) :] = text
        self._words = memoryview(self._map)[: (_HEAD + partitions) * 8].cast("Q")
        self._words[_PID_AT], self._words[_COUNT_AT] = os.getpid(), partitions
        self._words[_LABEL_AT], self._words[_MAGIC_AT] = len(text), _MAGIC
        os.replace(hidden, self.path)

    def beat(self) -> None:
        """Show that the process goes on."""
        if self._fd >= 0:
            self._words[_BEAT_AT] += 1

    def mark(self, partition: int, epoch: int | None) -> None:
        """Hold the partition at this epoch, or (None) not any more."""
        if self._fd >= 0:
            self._words[_HEAD + partition] = 0 if epoch is None else epoch + HELD

    def close(self) -> None:
        """Leave: the file goes, then the lock. May be called twice."""
        if self._fd >= 0:
            self.path.unlink(missing_ok=True)
            self.let_go()

    def let_go(self) -> None:
        """Release the lock as a death does: the file stays, until somebody sees that it is free."""
        _OPEN.discard(self)
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._words.release()
            self._map.close()
            os.close(fd)


class Seen:
    """Another member's seat, opened by name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._map = mmap.mmap(self._fd, 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):
            os.close(self._fd)
            raise
        self._bytes = memoryview(self._map)
        whole = len(self._bytes) // 8 * 8
        words = self._bytes[:whole].cast("Q")
        if len(words) < _HEAD or words[_MAGIC_AT] != _MAGIC or len(words) < _HEAD + words[_COUNT_AT]:
            words.release()
            self.close()
            msg = f"{path} is no seat of a member"
            raise ValueError(msg)
        self._words = words
        self.pid: int = words[_PID_AT]
        self._end = _HEAD + words[_COUNT_AT]
        label = bytes(self._bytes[self._end * 8 : self._end * 8 + words[_LABEL_AT]])
        self.label = label.decode(errors="replace")
        self._raw = b""
        self._holds: dict[int, int] = {}

    def sign(self) -> Sign:
        """See `Sign`. A lock is probed by sharing it: two who probe at once do not take each other for the owner."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return Sign(locked=True, beat=self._words[_BEAT_AT])
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        return Sign(locked=False, beat=self._words[_BEAT_AT])

    def holds(self) -> dict[int, int]:
        """Partition → epoch."""
        raw = bytes(self._bytes[_HEAD * 8 : self._end * 8])
        if raw != self._raw:
            marks = self._words[_HEAD : self._end].tolist()
            self._raw, self._holds = raw, {number: word - HELD for number, word in enumerate(marks) if word}
        return self._holds

    def close(self) -> None:
        """Let go; may be called twice."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            if hasattr(self, "_words"):
                self._words.release()
            self._bytes.release()
            self._map.close()
            os.close(fd)


@dataclass(frozen=True, slots=True)
class Present:
    """A live member, as it was at one look."""

    name: str
    label: str
    pid: int
    holds: Mapping[int, int]


class Room:
    """The seats of one group as one observer sees them, with or without a seat of its own.

    May be used from any thread; `seats` is what both its owner and the `Heart` look with.
    """

    def __init__(self, directory: Path, own: SeatFile | None = None, *, lease_s: float = LEASE_S) -> None:
        self.own = own
        self._directory = directory
        self._leases = Leases(lease_s)
        self._seen: dict[str, Seen] = {}
        self._mutex = threading.Lock()
        self._closed = False

    def seats(self) -> list[Present]:
        """Every other member that lives, by name. What the dead have left behind is removed."""
        with self._mutex:
            if self._closed:
                return []
            self._refresh()
            signs = {name: seen.sign() for name, seen in self._seen.items()}
            live = self._leases.live(signs, time.monotonic())
            for name, sign in signs.items():
                if not sign.locked:
                    seen = self._seen.pop(name)
                    seen.path.unlink(missing_ok=True)  # nobody is given this name again
                    seen.close()
            found = [self._seen[name] for name in sorted(live)]
            return [Present(seen.path.name, seen.label, seen.pid, seen.holds()) for seen in found]

    def _refresh(self) -> None:
        try:
            present = {entry for entry in os.listdir(self._directory) if not entry.startswith(".")}
        except FileNotFoundError:
            present = set[str]()
        except OSError as exc:
            self._without(exc)
            return
        if self.own is not None:
            present.discard(self.own.name)
        for name in self._seen.keys() - present:
            self._seen.pop(name).close()
        for name in present - self._seen.keys():
            try:
                self._seen[name] = Seen(self._directory / name)
            except ValueError:
                pass  # nothing of ours
            except OSError as exc:  # gone again
                if exc.errno in _NO_DESCRIPTORS:
                    self._without(exc)

    def _without(self, exc: OSError) -> None:
        """A member goes on looking at those it has seen; who has none must not be told that nobody is there."""
        if self.own is None:
            raise exc

    def close(self) -> None:
        """Forget the others, and leave; may be called twice."""
        with self._mutex:
            self._closed = True
            for seen in self._seen.values():
                seen.close()
            self._seen.clear()
        if self.own is not None:
            self.own.close()


class Heart:
    """The thread that renews this process's counters and looks for what has changed. It touches no database.

    Args:
        beat_s: how often.
    """

    def __init__(self, *, beat_s: float = LOOK_S) -> None:
        self._beat_s = beat_s
        self._rooms: dict[Room, tuple[Callable[[], None], list[Present]]] = {}
        self._mutex = threading.Lock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, room: Room, changed: Callable[[], None]) -> None:
        """Beat for the room's own seat, and call `changed` (in the thread) when something has."""
        with self._mutex:
            self._rooms[room] = (changed, room.seats())
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="penstock-heart", daemon=True)
                self._thread.start()

    def remove(self, room: Room) -> None:
        """Beat for it no more."""
        with self._mutex:
            self._rooms.pop(room, None)

    def _run(self) -> None:
        while not self._over.wait(self._beat_s):
            self.once()

    def once(self) -> None:
        """One beat, and one look."""
        with self._mutex:
            rooms = list(self._rooms)
            for room in rooms:
                if room.own is not None:
                    room.own.beat()
            for room in rooms:
                changed, before = self._rooms[room]
                now = room.seats()
                if now != before:
                    self._rooms[room] = (changed, now)
                    changed()

    def close(self) -> None:
        """Stop; may be called twice."""
        self._over.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()


_OPEN: set[SeatFile] = set()


def _after_fork_in_child() -> None:
    """A flock is held until its last copy is closed: a child that outlives its parent must not look like it."""
    for seat in list(_OPEN):
        seat.let_go()


os.register_at_fork(after_in_child=_after_fork_in_child)
