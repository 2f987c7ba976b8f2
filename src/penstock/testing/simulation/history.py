"""What really happened at the channel, noted beside it: acked publishes, assignments seen, steps stored."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from penstock.channel.api import Acked, Assigned, Owned, Step
from penstock.event.batch import NewBatch

Place = tuple[str, int]
"""(topic, partition)."""


class Sent(msgspec.Struct, frozen=True):
    """A publish that the channel answered with `Acked`, whatever the producer was told."""

    process: str
    producer: str
    batches: Sequence[NewBatch]
    first: Sequence[int]
    repeated: bool
    told: bool = False


class Took(msgspec.Struct, frozen=True):
    """A member was told an assignment."""

    process: str
    group: str
    assigned: Assigned


class Stored(msgspec.Struct, frozen=True):
    """A step that the channel answered with `Committed`, whatever the member was told; `first` per output."""

    process: str
    step: Step
    first: Sequence[int]


class TurnedAway(msgspec.Struct, frozen=True):
    """A step that the channel answered with `FencedOff`."""

    process: str
    step: Step
    reason: str


class Left(msgspec.Struct, frozen=True):
    """A member gives a partition up, or (None) all of its group's; without a group, a process is dead.

    `lives`: or stands still, is given up by the others, and goes on some time.
    """

    process: str
    group: str = ""
    owned: Owned | None = None
    lives: bool = False


class Note(msgspec.Struct, frozen=True):
    """Anything else worth reading in a trace: a fault that struck, a restart."""

    text: str


Entry = Sent | Took | Left | Stored | TurnedAway | Note


class History:
    """Entries in the order they became true, each with its virtual time."""

    def __init__(self) -> None:
        self.entries: list[tuple[float, Entry]] = []
        self.told: list[Sent] = []
        self.settled: dict[tuple[str, str, int], int] = {}
        self.waiting: dict[tuple[str, str, int], int] = {}
        """The lowest offset below a group's floor that it still has to handle."""
        self.tips: dict[Place, int] = {}

    def add(self, at_s: float, entry: Entry) -> None:
        """Note it."""
        self.entries.append((at_s, entry))
        if isinstance(entry, Stored):
            owned = entry.step.owned
            settle = entry.step.settle
            place = (entry.step.group, owned.topic, owned.partition)
            self.settled[place] = settle.floor_after + len(settle.holes)
            self.waiting.pop(place, None)
            if settle.oldest is not None:
                self.waiting[place] = settle.oldest
            self._grown(entry.step.outputs, entry.first)
        elif isinstance(entry, Sent):
            self._grown(entry.batches, entry.first)

    def _grown(self, batches: Sequence[NewBatch], first: Sequence[int]) -> None:
        for batch, offset in zip(batches, first, strict=True):
            place = (batch.topic, batch.partition)
            self.tips[place] = max(self.tips.get(place, 0), offset + batch.count)

    def acknowledge(self, process: str, batches: Sequence[NewBatch], producer: str, answer: Acked) -> None:
        """The producer was told that this is stored: from now on it must not be lost."""
        self.told.append(Sent(process, producer, batches, answer.first, answer.repeated, told=True))

    def lines(self) -> list[str]:
        """The trace, one line per entry."""
        return [f"{at_s:10.6f} {line_of(entry)}" for at_s, entry in self.entries]


def line_of(entry: Entry) -> str:
    """One entry, short."""
    match entry:
        case Note(text=text):
            return text
        case Took(process=process, assigned=assigned):
            owned = assigned.owned
            return f"{process} takes {owned.topic}/{owned.partition} epoch {owned.epoch} at floor {assigned.floor}"
        case Left(process=process, group=group, owned=owned):
            what = f"group {group}" if owned is None else f"{owned.topic}/{owned.partition} epoch {owned.epoch}"
            return f"{process} leaves {what}" if group else f"{process} leaves everything"
        case TurnedAway(process=process, reason=reason):
            return f"{process} is turned away: {reason}"
        case Sent():
            where = [f"{b.topic}/{b.partition}@{f}+{b.count}" for b, f in zip(entry.batches, entry.first, strict=True)]
            return f"{entry.process} publishes {' '.join(where)}{' (again)' if entry.repeated else ''}"
        case Stored():
            step = entry.step
            owned, settle = step.owned, step.settle
            where = [f"{b.topic}/{b.partition}@{f}+{b.count}" for b, f in zip(step.outputs, entry.first, strict=True)]
            return (
                f"{entry.process} commits {owned.topic}/{owned.partition} epoch {owned.epoch} "
                f"{settle.floor_before}..{settle.floor_after} {' '.join(where)}"
            )
