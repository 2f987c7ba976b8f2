"""What one file gives to a chunk, and the readers' common face."""

from __future__ import annotations

from typing import Protocol

import msgspec

from penstock.source.api import Bad
from penstock.source.files.lines import Lines

WINDOW_BYTES = 256 * 1024


class Part(msgspec.Struct):
    """Events and bad lines, in order; `lines` counts what the limit of events counts, `size` bytes consumed."""

    bodies: list[bytes] = []
    bad: list[Bad] = []
    lines: int = 0
    size: int = 0

    def __bool__(self) -> bool:
        return bool(self.bodies or self.bad)

    def add(self, more: Part) -> None:
        """Take what follows."""
        self.bodies += more.bodies
        self.bad += more.bad
        self.lines += more.lines
        self.size += more.size


class Reader(Protocol):
    """The events of one file, in its format."""

    lines: Lines

    def take(self, events_max: int, bytes_max: int) -> Part:
        """Consume as many lines (records) as fit into both limits, in order; always one, where one is complete."""
        ...


def window(bytes_max: int, events_max: int) -> int:
    """How many bytes to look at next: small enough to stay in the processor's cache, and for few events few bytes."""
    return min(bytes_max, WINDOW_BYTES, 1024 + 512 * events_max)


def long_line(where: str, head: bytes, size: int, limit: int) -> Bad:
    """A line that the topic would refuse."""
    return Bad(
        where,
        head,
        f"a line of {size} bytes, of which the first {len(head)} are kept; the topic takes at most {limit}: store the "
        "body elsewhere and write a reference, or raise the topic's event_bytes_max",
    )
