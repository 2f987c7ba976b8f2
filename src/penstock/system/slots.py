"""Attempt slots: which event is being handled, kept where the death of the process cannot lose it.

Each worker has a record of its own for each group: four u64 mapped into memory: partition + 1 (0: nothing), offset, the
number of the death that it will be, unused. A store costs some 30 ns and survives kill -9 (the page cache has it); a
power loss may lose it. The next owner of a partition looks for it in the records that others have left behind.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from penstock.system.files import allocate

SLOT_WORDS = 4
_BYTES = SLOT_WORDS * 8
SIDE_BY_SIDE = 2**64 - 1
"""In place of an offset: several events were being handled, and nobody can say which of them killed the process."""


class Slot(Protocol):
    """A worker's slot, as the owner of one partition uses it.

    `words` is written directly, for every partition of this worker: ``words[1] = offset``, then
    ``words[0] = partition + 1``.
    """

    words: memoryview

    def left(self) -> tuple[int, int] | None:
        """(partition, offset) of what was handled, alone, when an earlier owner ended; None after a clean end."""
        ...

    def left_side_by_side(self) -> bool:
        """Whether several events were being handled when an earlier owner came to its end."""
        ...

    @property
    def clears(self) -> int:
        """A number of that end (below 2^64): tells it from ends that were dealt with before."""
        ...

    def clear(self) -> None:
        """What was left has been dealt with."""
        ...

    def close(self) -> None:
        """Let go; may be called twice. What it says stays."""
        ...


class Records(Protocol):
    """One group's records: this worker's, and those of others."""

    words: memoryview

    def others(self) -> Mapping[str, tuple[int, int, int]]:
        """Name → partition + 1, offset and number of the record of every other worker."""
        ...

    def clear(self, name: str) -> None:
        """Nothing is being handled there; its number goes up. A record that nobody writes any more goes."""
        ...

    def close(self) -> None:
        """Let go of this worker's; may be called twice."""
        ...


class PartitionSlot:
    """See `Slot`: this worker's words, and what others left behind of one partition."""

    def __init__(self, records: Records, partition: int) -> None:
        self.words = records.words
        self._records = records
        self._partition = partition
        self._told = ""

    def left(self) -> tuple[int, int] | None:
        """See `Slot`."""
        found = self._found(side_by_side=False)
        return None if found is None else (self._partition, found[1])

    def left_side_by_side(self) -> bool:
        """See `Slot`."""
        return self._found(side_by_side=True) is not None

    @property
    def clears(self) -> int:
        """See `Slot`."""
        found = self._found(side_by_side=False)
        return 0 if found is None else found[2]

    def clear(self) -> None:
        """See `Slot`: what was asked for last."""
        if self._told:
            self._records.clear(self._told)
            self._told = ""

    def close(self) -> None:
        """See `Slot`."""
        self._records.close()

    def _found(self, *, side_by_side: bool) -> tuple[str, int, int] | None:
        """Of several records of this partition that with the highest offset; only one was left by its last owner."""
        mine = [
            (offset, name, number)
            for name, (at, offset, number) in self._records.others().items()
            if at == self._partition + 1 and (offset == SIDE_BY_SIDE) == side_by_side
        ]
        if not mine:
            return None
        offset, name, number = max(mine)
        self._told = name
        return name, offset, number


class FileRecords:
    """See `Records`: a file per worker in the group's directory, locked for as long as the worker lives.

    Raises:
        OSError: the disk has no room for it, or the system no descriptor; nothing is left behind.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self.name = f"{os.getpid():010d}-{os.urandom(6).hex()}"
        self._fd = os.open(directory / self.name, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o644)
        try:
            self._map = self._mapped()
        except OSError:
            os.close(self._fd)
            (directory / self.name).unlink(missing_ok=True)
            raise
        _OPEN.add(self)
        self.words = memoryview(self._map).cast("Q")
        self.words[2] = int.from_bytes(os.urandom(7)) + 1
        for path in self._paths():
            self._tidy(path)

    def _mapped(self) -> mmap.mmap:
        fcntl.flock(self._fd, fcntl.LOCK_EX)  # a moment at most: somebody else may be at `_tidy`
        allocate(self._fd, _BYTES)
        mapped = os.open(self._directory / self.name, os.O_RDWR | os.O_CLOEXEC)  # a map keeps a copy of what it is of
        try:
            return mmap.mmap(mapped, _BYTES)
        finally:
            os.close(mapped)

    def _paths(self) -> Iterator[Path]:
        for entry in sorted(os.listdir(self._directory)):
            if entry != self.name:
                yield self._directory / entry

    def others(self) -> Mapping[str, tuple[int, int, int]]:
        """See `Records`."""
        found: dict[str, tuple[int, int, int]] = {}
        for path in self._paths():
            with suppress(FileNotFoundError):
                data = path.read_bytes()
                if len(data) == _BYTES:
                    at, offset, number, _ = memoryview(data).cast("Q")
                    found[path.name] = (at, offset, number)
        return found

    def clear(self, name: str) -> None:
        """See `Records`."""
        path = self._directory / name
        with suppress(FileNotFoundError):
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                with mmap.mmap(fd, _BYTES) as mapped, memoryview(mapped) as raw, raw.cast("Q") as words:
                    words[0] = 0
                    words[2] = (words[2] + 1) % (1 << 63)
            finally:
                os.close(fd)
            self._tidy(path)

    def _tidy(self, path: Path) -> None:
        """Remove the record of a worker that is gone, when it says nothing."""
        with suppress(OSError):
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(fd).st_size == _BYTES and os.pread(fd, 8, 0) == bytes(8):
                    path.unlink(missing_ok=True)
            finally:
                os.close(fd)

    def close(self) -> None:
        """See `Records`. A record that says nothing goes."""
        if self._fd >= 0:
            if self.words[0] == 0:
                (self._directory / self.name).unlink(missing_ok=True)
            self.let_go()

    def let_go(self) -> None:
        """Close what is open; the file stays."""
        if self._fd >= 0:
            self.unlock()
            self.words.release()
            self._map.close()

    def unlock(self) -> None:
        """Look like dead to others: what a forked child does with its copy, or it would keep its parent alive."""
        _OPEN.discard(self)
        fd, self._fd = self._fd, -1
        os.close(fd)


class MemoryRecords:
    """See `Records`: in memory that several workers share, for simulation. `number` tells this worker from others."""

    def __init__(self, shared: MutableMapping[str, bytearray], name: str, number: int) -> None:
        self._shared = shared
        self._name = name
        self.words = memoryview(shared.setdefault(name, bytearray(_BYTES))).cast("Q")
        self.words[2] = self.words[2] or number << 32

    def others(self) -> Mapping[str, tuple[int, int, int]]:
        """See `Records`."""
        found: dict[str, tuple[int, int, int]] = {}
        for name, data in sorted(self._shared.items()):
            if name != self._name:
                at, offset, number, _ = memoryview(data).cast("Q")
                found[name] = (at, offset, number)
        return found

    def clear(self, name: str) -> None:
        """See `Records`."""
        words = memoryview(self._shared[name]).cast("Q")
        words[0] = 0
        words[2] += 1

    def close(self) -> None:
        """See `Records`."""


class MemorySlot:
    """A slot in memory, for tests: `words` may be shared between owners, one after the other."""

    def __init__(self, words: bytearray | None = None) -> None:
        self.words = memoryview(words if words is not None else bytearray(_BYTES)).cast("Q")

    def left(self) -> tuple[int, int] | None:
        """See `Slot`."""
        return (self.words[0] - 1, self.words[1]) if self.words[0] and self.words[1] != SIDE_BY_SIDE else None

    def left_side_by_side(self) -> bool:
        """See `Slot`."""
        return bool(self.words[0]) and self.words[1] == SIDE_BY_SIDE

    @property
    def clears(self) -> int:
        """See `Slot`."""
        return self.words[2]

    def clear(self) -> None:
        """See `Slot`."""
        self.words[0] = 0
        self.words[2] += 1

    def close(self) -> None:
        """See `Slot`."""


_OPEN: set[FileRecords] = set()


def _after_fork_in_child() -> None:
    for records in list(_OPEN):
        records.unlock()


os.register_at_fork(after_in_child=_after_fork_in_child)
