"""The source contract: where events come from, in chunks whose borders can be found again.

A source is read by one owner, chunk after chunk. The engine publishes each chunk as producer ``source.<name>`` with the
chunk's number as the sequence and the position behind it as the note, in one transaction: after a crash the position is
the one of the last stored chunk, and a chunk that is published again is answered with its original offsets. All methods
block; the engine runs them through `system.offload`, one at a time per source.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from penstock.event.batch import Columns, Rows
from penstock.event.partition import Key
from penstock.schema import Schema


class Bad(msgspec.Struct, frozen=True):
    """Something that is no event.

    `where` is for people: ``file:line``, and the column where one is at fault. `body` is its bytes as they were read,
    at most as many as the topic's limit allows.
    """

    where: str
    body: bytes
    reason: str


class Chunk(msgspec.Struct, frozen=True):
    """Events in their order, what was bad among them, and the `position` from which reading goes on behind both.

    A chunk holds at least one event or one bad line. `position` is opaque to everybody but the source. `keys` has one
    key per event for sources that know keys the type does not hold.
    """

    events: Rows | Columns
    position: bytes
    bad: Sequence[Bad] = ()
    keys: Sequence[Key] | None = None

    @property
    def count(self) -> int:
        """How many events there are."""
        return self.events.table.num_rows if isinstance(self.events, Columns) else len(self.events.lengths)


class Source(Protocol):
    """One place that events come from. `name` identifies it for good: the position is remembered under it.

    `finite` says what `read` means by None: that the source is at its end, or that there is nothing more for now.
    """

    name: str
    finite: bool

    def open(self, schema: Schema[Any] | None, position: bytes) -> None:
        """Go to `position` (empty: the beginning). May be called again, after `close` too.

        Raises:
            ConfigError: the declaration does not fit what is there (nothing found, a missing column).
            CorruptionError: the position no longer fits what is there; nothing is skipped and nothing read twice.
        """
        ...

    def read(self, *, events_max: int, bytes_max: int, until: bytes | None = None) -> Chunk | None:
        """The next chunk, of at most `events_max` events and about `bytes_max` bytes, though always one event.

        With `until`, which is the position of the chunk that was read from here before (the limits are those of then),
        that chunk again: up to this position exactly, whatever has been added since. The engine asks so, from the
        beginning on, when a source is published again; it opens the source anew before it goes on without `until`.

        Otherwise borders depend on the position, the content and the two limits, and on nothing else: reading again
        from the same position gives the same chunk, unless content was added in it or at its end since.

        Raises:
            ConfigError, CorruptionError: as `open`; the position is still that of the last chunk returned. With `until`
                also where the chunk is not there any more, or is plainly another one. What cannot be told is left to
                the channel, which compares the events.
        """
        ...

    def close(self) -> None:
        """Let everything go. May be called twice, and before `open`."""
        ...


class SourceSpec(Protocol):
    """What a user declares: makes the source when it is needed."""

    def open_source(self, base: Path, name: str, *, event_bytes_max: int) -> Source:
        """The source itself, not yet opened; the caller closes it.

        Args:
            base: the directory that relative paths start from: the program's, never the current one.
            name: the source's identity.
            event_bytes_max: longer events are bad: the topic would refuse them.
        """
        ...
