"""The sink contract: where results go, and how the offset lives where the results live.

A sink is a consumer group of its own. Its target holds the position (log, incarnation, epoch, offset) and changes it
together with the data; the log's own record of the floor is only a hint. All methods block; the engine runs them
through `system.offload`, one at a time per sink.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from penstock.channel.api import Owned

if TYPE_CHECKING:
    import pyarrow as pa


class Roll(msgspec.Struct, frozen=True):
    """When staged events are committed: whichever of these comes first, of a partition.

    Attributes:
        events_max: so many events.
        bytes_max: so many bytes of columns, before compression.
        seconds: so long after the first of them was staged.
    """

    events_max: int = 1_000_000
    bytes_max: int = 128 * 1024 * 1024
    seconds: float = 60.0


class Claim(msgspec.Struct, frozen=True):
    """A member takes over one partition: `owned.epoch` fences older owners out of the target.

    `floor` is the log's hint, `tip` the offset after the log's last event: a target beyond it belongs to another
    history of the log.
    """

    pipeline: str
    owned: Owned
    log: str
    incarnation: int
    floor: int
    tip: int


class Staged(msgspec.Struct, frozen=True):
    """Columns of the offsets [first, end) of one owned partition."""

    owned: Owned
    first: int
    end: int
    table: pa.RecordBatch


class Sink(Protocol):
    """One target. `name` identifies it in messages, `roll` says how much is staged before a commit.

    `together`: the target has one owner at a time, so one worker writes all partitions.
    """

    name: str
    roll: Roll
    together: bool

    def claim(self, claim: Claim) -> int:
        """Fence older owners, finish what one of them had committed, remove what it had not.

        Returns:
            The offset to write from: the target's own position (`claim.floor` when it has none).

        Raises:
            LogRegressed: the target is ahead of the log, or belongs to another log or incarnation; nothing changed.
            Fenced: a newer epoch holds the partition.
            ConfigError: the target holds another topic of this pipeline, or its name is none; nothing changed.
            TransientError: not now (the target is held by pid N, no room); claim again under the same epoch.
            CorruptionError: something committed is missing or damaged in the target; nothing is skipped.
        """
        ...

    def write(self, staged: Staged) -> None:
        """Stage columns; invisible to readers of the target. Calls of one partition come in offset order, gapless.

        Raises:
            RefusedByTarget: the target cannot hold this (a type, a constraint); names the column.
            SinkFull: no room; nothing of any partition is staged any more: claim again, under a newer epoch.
        """
        ...

    def commit(self, owned: Owned) -> int:
        """Make what is staged for the partition visible, together with the position; durable on return.

        Returns:
            The target's new position. Committing with nothing staged changes nothing.

        Raises:
            Fenced: a newer owner has claimed the partition; what was staged is dropped.
            TransientError: not now (the target is held by pid N); staged data is kept, commit again.
            SinkFull: no room, and staged data could not be kept, of no partition: claim again, under a newer epoch.
            RefusedByTarget: the target refused a row (a constraint); nothing of this commit is visible.
            IOFailed: the disk failed; nothing staged can be trusted: claim again under a newer epoch.
        """
        ...

    def close(self) -> None:
        """Drop what is staged and let the target go. May be called twice; partitions may be claimed again after it."""
        ...
