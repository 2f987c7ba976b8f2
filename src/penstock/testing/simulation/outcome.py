"""What a simulated world leaves behind, and what may be wrong with it: values that everything else here speaks of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from penstock.channel.api import Assigned
from penstock.testing.simulation.history import History, Place
from penstock.testing.simulation.tape import Fault

AnomalyKind = Literal[
    "overflow",
    "lost",
    "duplicated",
    "reordered",
    "aborted_read",
    "moved_back",
    "fenced_output",
    "state",
    "charged",
    "turned_away",
    "twin",
    "failed",
    "stuck",
    "claimed",
]


class Event(msgspec.Struct, frozen=True, order=True):
    """One simulated event: the `number`-th (from 0) of its key."""

    key: str
    number: int


class Anomaly(msgspec.Struct, frozen=True):
    """Something that must not be. `details` names events, offsets and epochs."""

    kind: AnomalyKind
    details: str

    def __str__(self) -> str:
        """For people."""
        return f"{self.kind}: {self.details}"


class Kept(msgspec.Struct, frozen=True):
    """One event as the channel (or a target) has it at the end; `event` is None when it cannot be identified."""

    offset: int
    event: Event | None
    body: bytes
    id: str = ""
    headers: Mapping[str, str] = {}


class Outcome(msgspec.Struct):
    """What is there at the end. `stuck` says why the world never came to rest; failures are unexpected exceptions.

    `topics` holds the targets too, under their names. `assigned` is what a next owner of (group, partition) would get.
    `disk` is what the world's processes kept together.
    """

    history: History
    topics: dict[Place, list[Kept]] = {}
    assigned: dict[tuple[str, int], Assigned] = {}
    failures: list[str] = []
    stuck: str = ""
    steps: int = 0
    virtual_s: float = 0.0
    struck: list[Fault] = []
    disk: dict[str, Any] = {}

    def lines(self) -> list[str]:
        """Everything that must be equal when the same seed runs again."""
        out = self.history.lines()
        for place, found in sorted(self.topics.items()):
            out.append(f"{place} {[(kept.offset, kept.body, kept.id) for kept in found]}")
        out += [f"{who} {assigned}" for who, assigned in sorted(self.assigned.items())]
        return [*out, *self.failures, self.stuck, f"{self.steps} callbacks, {self.virtual_s:.6f} s"]
