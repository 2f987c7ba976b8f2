"""What a member of a consumer group decides, without doing any of it: a state machine over values.

The shell (`group.py`) asks the channel and the work; this says what an answer means. Source: sans-I/O, as in h11.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from penstock.channel.api import (
    Assigned,
    Committed,
    Delivery,
    FencedOff,
    Idle,
    LedgerWrite,
    Lost,
    Owned,
    Revoking,
    Settle,
    Step,
    Taken,
    Unknown,
)
from penstock.channel.rules import head
from penstock.engine.work import Draft
from penstock.errors import CorruptionError
from penstock.event.batch import Delivered


class Begin(msgspec.Struct, frozen=True):
    """Take the partition over."""

    assigned: Assigned


class Handle(msgspec.Struct, frozen=True):
    """Work on these events; what was settled above the floor has been left out."""

    delivery: Delivery


class Skip(msgspec.Struct, frozen=True):
    """Everything delivered was settled before."""

    draft: Draft


class Rest(msgspec.Struct, frozen=True):
    """Nothing to do at the moment; `reason` says why when it is not merely quiet, `behind` what others have to do.

    `damaged`: events of a partition cannot be read, and that stops it.
    """

    reason: str = ""
    behind: str = ""
    damaged: CorruptionError | None = None


class Hand(msgspec.Struct, frozen=True):
    """Finish what is in flight of the partition, commit it, and give it to another member; the others go on."""

    owned: Owned


class Drop(msgspec.Struct, frozen=True):
    """The partition is gone: forget what is in flight of it; the others go on."""

    owned: Owned
    reason: str


class Rejoin(msgspec.Struct, frozen=True):
    """Give everything up and join again: what is not committed is delivered again."""

    reason: str


Action = Begin | Handle | Skip | Rest | Hand | Drop | Rejoin


class _Place(msgspec.Struct):
    owned: Owned
    floor: int
    holes: frozenset[int]
    number: int
    oldest: int | None


class Membership:
    """One membership, from joining to leaving.

    Steps of a partition follow one another: each begins where the last one ended, whether or not that one has been
    answered yet; the channel applies them in order or not at all.
    """

    def __init__(self, group: str) -> None:
        self._group = group
        self._places: dict[int, _Place] = {}

    def taken(self, taken: Taken) -> Action:
        """What the channel's value asks for."""
        match taken:
            case Assigned():
                place = _Place(taken.owned, taken.floor, frozenset(taken.holes), taken.number, taken.oldest)
                self._places[taken.owned.partition] = place
                return Begin(taken)
            case Delivery():
                return self._delivered(taken)
            case Idle():
                return Rest(taken.reason, taken.behind, taken.damaged)
            case Revoking():
                return Hand(taken.owned) if self.owns(taken.owned) else Drop(taken.owned, "")
            case Lost():
                return Drop(taken.owned, taken.reason)

    def owns(self, owned: Owned) -> bool:
        """Whether the partition is worked on at this epoch."""
        place = self._places.get(owned.partition)
        return place is not None and place.owned == owned

    def works_on(self, partition: int) -> bool:
        """Whether the partition is worked on at all."""
        return partition in self._places

    def gone(self, owned: Owned) -> bool:
        """The partition is not worked on any more at this epoch; whether it was."""
        if not self.owns(owned):
            return False
        del self._places[owned.partition]
        return True

    def _delivered(self, delivery: Delivery) -> Action:
        place = self._places.get(delivery.owned.partition)
        if place is None or place.owned != delivery.owned:
            return Rejoin(f"a delivery of partition {delivery.owned.partition}, which is not assigned")
        if not place.holes and place.floor <= delivery.batches[0].first:
            return Handle(delivery)
        batches = [batch.tail(place.floor) for batch in delivery.batches if batch.end > place.floor]
        parts = [part for batch in batches for part in without(batch, place.holes)]
        if not parts:  # the floor passes them when what lies before them is settled
            return Skip(Draft(delivery.owned.partition, None))
        return Handle(Delivery(delivery.owned, parts))

    def step(self, draft: Draft) -> Step:
        """The step of a draft, up to what is not settled yet; the next draft of its partition begins there."""
        place = self._places[draft.partition]
        after = place.floor if draft.after is None else draft.after
        settled = place.holes.union(draft.holes)
        while after in settled:
            after += 1
        holes = sorted(hole for hole in settled if hole >= after)
        if draft.oldest is not msgspec.UNSET:
            place.oldest = draft.oldest
        settle = Settle(place.floor, after, holes, draft.references, place.number, place.oldest)
        place.number += 1
        place.floor = after
        place.holes = frozenset(holes)
        return Step(self._group, place.owned, settle, draft.outputs, draft.ledger)

    def ledger_step(self, partition: int, ledger: Sequence[LedgerWrite]) -> Step:
        """A step that only remembers something."""
        return self.step(Draft(partition, self._places[partition].floor, ledger=ledger))

    def answered(self, owned: Owned, outcome: Committed | FencedOff | Unknown) -> Drop | None:
        """What the answer to a commit asks for; None to go on."""
        match outcome:
            case Committed():
                return None
            case FencedOff():
                return Drop(owned, f"fenced off: {outcome.reason}")
            case Unknown():
                return Drop(owned, f"a commit's outcome is unknown: {outcome.reason}")


def without(batch: Delivered, holes: frozenset[int]) -> list[Delivered]:
    """The batch without the events at `holes`, as runs of events without a gap."""
    inside = sorted(hole for hole in holes if batch.first <= hole < batch.end)
    parts: list[Delivered] = []
    begin = batch.first
    for hole in [*inside, batch.end]:
        if hole > begin:
            parts.append(head(batch.tail(begin), hole - begin))
        begin = hole + 1
    return parts
