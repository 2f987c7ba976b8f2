"""Attempt slots: which event is being handled, kept where the death of the process cannot lose it.

A file of four u64 mapped into memory: partition + 1 (0: nothing), offset, how often it was cleared, unused. A store
costs some 30 ns and survives kill -9 (the page cache has it); a power loss may lose it.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Protocol

SLOT_WORDS = 4
SIDE_BY_SIDE = 2**64 - 1
"""In place of an offset: several events were being handled, and nobody can say which of them killed the process."""


class Slot(Protocol):
    """One handler's slot. `words` is written directly: ``words[1] = offset`` then ``words[0] = partition + 1``."""

    words: memoryview

    def left(self) -> tuple[int, int] | None:
        """(partition, offset) that was being handled, alone, when the last owner died; None after a clean end."""
        ...

    def left_side_by_side(self) -> bool:
        """Whether several events were being handled when the last owner died."""
        ...

    @property
    def clears(self) -> int:
        """How often it was cleared: tells what is said now from what was said, and dealt with, before."""
        ...

    def clear(self) -> None:
        """What it said has been dealt with; nothing is being handled."""
        ...

    def close(self) -> None:
        """Let go; may be called twice. What it says stays: another owner may be writing it by now."""
        ...


class MappedSlot:
    """A slot in a memory-mapped file; opened by the group's owner only."""

    def __init__(self, path: Path) -> None:
        fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        try:
            os.ftruncate(fd, SLOT_WORDS * 8)
            self._map = mmap.mmap(fd, SLOT_WORDS * 8)
        finally:
            os.close(fd)
        self.words = memoryview(self._map).cast("Q")

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
        if not self._map.closed:
            self.words.release()
            self._map.close()


class MemorySlot:
    """A slot in memory, for tests and simulation: `words` may be shared between owners."""

    def __init__(self, words: bytearray | None = None) -> None:
        self.words = memoryview(words if words is not None else bytearray(SLOT_WORDS * 8)).cast("Q")

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
