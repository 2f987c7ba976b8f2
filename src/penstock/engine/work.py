"""What a consumer group does with deliveries, as the engine sees it: deliveries in, drafts of steps out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Sequence
from typing import Protocol

import msgspec

from penstock.channel.api import Assigned, Delivery, LedgerWrite, Owned, Subscription
from penstock.event.batch import Delivered, NewBatch
from penstock.system.slots import Slot


class Draft(msgspec.Struct, frozen=True):
    """A step to be: everything of `partition` below `after` is settled, with these outputs and ledger entries.

    `holes` are settled above it. `after` None: the floor stays where it is, for what the step settles lies below it (it
    was parked).
    `oldest`: see `Settle`; unset, it stays as it was. `events` and `dead` count what the step settles, for reports.
    """

    partition: int
    after: int | None
    outputs: Sequence[NewBatch] = ()
    ledger: Sequence[LedgerWrite] = ()
    references: Sequence[tuple[str, int, int, int]] = ()
    oldest: int | msgspec.UnsetType | None = msgspec.UNSET
    events: int = 0
    dead: int = 0
    holes: Sequence[int] = ()


class Gauge(msgspec.Struct):
    """What of a group waits: keys, the events behind them, and why nothing is taken on (empty: it is).

    `unread`: why what people said about dead letters cannot be read; empty when it can.
    """

    keys: int = 0
    events: int = 0
    paused: str = ""
    unread: str = ""


class Read(Protocol):
    """`Channel.read`: recorded events, outside any group."""

    async def __call__(self, topic: str, partition: int, offset: int, *, events_max: int) -> Sequence[Delivered]:
        """See `Channel.read`."""
        ...


class Stopping(Protocol):
    """Whether the engine wants to end; work looks at it between slices and while it waits."""

    def __call__(self) -> bool:
        """True when no new work should be begun."""
        ...


class Work(Protocol):
    """One group's work. Called from the group's task only.

    State of drafts that were not committed is forgotten: after a failure the partition is assigned anew, with the
    ledger as last committed.
    """

    subscription: Subscription
    gauge: Gauge
    news: asyncio.Event | None
    """Set when `due` has something to do that nobody could tell the time of; None where that never is."""

    async def assigned(self, assigned: Assigned, slot: Slot | None, stopping: Stopping) -> Sequence[LedgerWrite]:
        """Take over a partition with its ledger; the entries returned are committed before anything is worked on.

        It may take long (a target that is held by somebody else), and ends early when `stopping()`.
        """
        ...

    def process(self, delivery: Delivery, stopping: Stopping) -> AsyncGenerator[Draft]:
        """Drafts that settle the delivery from its beginning, in order; ends early when `stopping()` or paused."""
        ...

    def due(self, *, everything: bool) -> AsyncGenerator[Draft]:
        """Drafts of what was kept back (a sink's staged events): what is due by now, or `everything` before an end."""
        ...

    def wait_s(self) -> float | None:
        """In how many seconds `due` has something to do, 0 when it has now; None when nothing waits for a time."""
        ...

    def paused(self) -> Collection[Owned]:
        """Partitions of which nothing more is wanted at the moment; what is delivered of them is put aside."""
        ...

    def resumed(self) -> Delivery | None:
        """What was put aside of a partition that is not paused any more, to be processed; it is given once."""
        ...

    def committed(self, draft: Draft) -> None:
        """The draft is permanent."""
        ...

    def finish(self, partition: int) -> AsyncGenerator[Draft]:
        """Drafts of what was kept back of this partition, which goes to another member; `left` follows."""
        ...

    def left(self, partition: int | None = None) -> None:
        """The partition (None: all) is somebody else's, or assigned anew: its state is dropped, nothing of it is due.

        Called once for each partition that was assigned, and at the end of the membership for all.
        """
        ...

    async def close(self) -> None:
        """Let targets and threads go; nothing is committed by it. May be called twice."""
        ...
