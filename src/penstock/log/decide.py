"""What a publish's sequence and a step's floor mean, given what is stored: pure, and the same on every channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

HOLES_MAX = 10_000

Conflict = Literal["", "epoch", "sequence", "forgotten", "id"]
"""What a refusal has to do with the producer's other publishes; empty: nothing, the batches themselves are refused.

epoch: a newer epoch has begun, and this sequence was not stored before it: it never will be (the fence). sequence: it
is not the next one, or it was stored with other content. forgotten: whether it was stored is not remembered any more,
or nothing is known of the producer and the sequence is not its first: who never published it before takes new numbers.
id: events of it are recorded already, by their ids; the others may be published under this sequence.
"""


class Refused(msgspec.Struct, frozen=True):
    """Store nothing; the reason says what was found, what was expected and the way out."""

    reason: str
    conflict: Conflict = ""


class Fence(msgspec.Struct, frozen=True):
    """Store nothing, and nothing of this owner any more: another one was here."""

    reason: str


class Horizon(msgspec.Struct, frozen=True):
    """For how long an event's id is remembered: an id is forgotten when it lies behind both."""

    events: int
    time_us: int | None = None

    def holds(self, *, behind: int, time_us: int | None, newest_us: int | None) -> bool:
        """Whether an id is still remembered.

        Args:
            behind: how many offsets its event lies behind the next one of its partition.
            time_us: of its event, None when it has none.
            newest_us: of its partition, as far as events with ids are there.
        """
        if behind <= self.events:
            return True
        if self.time_us is None or time_us is None or newest_us is None:
            return False
        return newest_us - time_us <= self.time_us


class Move(msgspec.Struct, frozen=True):
    """How a step says progress moves: from `before` to `after`, with `holes` settled above.

    `number` is the step's own (None: not compared), `oldest` the lowest offset that is still referred to.
    """

    epoch: int
    before: int
    after: int
    holes: Sequence[int]
    number: int | None = None
    oldest: int | None = None


def sequence(
    producer: str, newest: tuple[int, int] | None, *, epoch: int, number: int
) -> Literal["next", "past"] | Refused:
    """Whether a publish is the producer's next one, or lies behind: then what is remembered of it is the answer.

    A producer's first sequence in an epoch is 0; a higher epoch starts again at 0 and ends the lower ones.

    Args:
        producer: its name, for the reason.
        newest: (epoch, sequence) of the newest stored publish; None when there is none.
        epoch: of the publish asked about.
        number: its sequence.
    """
    if newest is not None and (epoch < newest[0] or (epoch, number) <= newest):
        return "past"
    expected = newest[1] + 1 if newest is not None and epoch == newest[0] else 0
    if number == expected:
        return "next"
    if newest is None:
        return Refused(
            f"producer {producer}, epoch {epoch}: sequence {number} where nothing is known of the producer: it never "
            "published here, or was not seen for so long that it is forgotten; begin a new epoch, or take another name",
            "forgotten",
        )
    return Refused(
        f"producer {producer}, epoch {epoch}: sequence {number} where {expected} was expected; an earlier publish did "
        "not arrive, publish it first",
        "sequence",
    )


def missing(producer: str, newest: int, *, epoch: int, number: int, last: int | None) -> Refused:
    """The answer to a sequence that lies behind and is not remembered.

    Args:
        producer: its name, for the reason.
        newest: the producer's newest epoch.
        epoch: of the publish asked about.
        number: its sequence.
        last: the last sequence remembered of that epoch, -1 when it began and no more; None when nothing is. The
            oldest are forgotten first, so whatever comes after it was never stored.
    """
    who = f"producer {producer}, epoch {epoch}: sequence {number}"
    if last is not None and number > last:
        return Refused(
            f"{who} was not stored and never will be, for epoch {newest} has begun: a newer client uses this name, "
            "this one must stop",
            "epoch",
        )
    over = f" (epoch {newest} has begun since)" if newest > epoch else ""
    return Refused(f"{who} is forgotten: whether it was stored is not remembered any more{over}", "forgotten")


def conflict(producer: str, epoch: int, number: int) -> Refused:
    """The answer to a sequence that was stored with other content."""
    return Refused(
        f"producer {producer}, epoch {epoch}: sequence {number} was published with other content; a sequence names one "
        "content, take the next number",
        "sequence",
    )


def new_epoch(producer: str, newest: int | None, *, after: int | None, now_us: int) -> int | Refused:
    """The producer's next epoch, or why it is not for the one who asks: the owner of `after` was overtaken.

    The first epoch of a producer is the time in seconds: one that was forgotten and is seen again does not give its
    old epochs a second time.
    """
    if newest is not None and after is not None and newest > after:
        return Refused(
            f"producer {producer}: epoch {after} is over, epoch {newest} has begun; a newer client uses this name, "
            "this one must stop",
            "epoch",
        )
    known = [epoch for epoch in (newest, after) if epoch is not None]
    return max(known) + 1 if known else max(0, now_us // 1_000_000)


def step(  # noqa: PLR0911  one check after the other
    where: str, found: tuple[int, int, int], move: Move, *, tip: int
) -> list[int] | Refused | Fence:
    """The holes above the floor after the step, or why it is not applied. This is the fence: ask inside the commit.

    Args:
        where: group, topic and partition, for the reason.
        found: the epoch, the floor and the number of steps that are stored now.
        move: what the step says.
        tip: the offset the partition's next event gets.
    """
    epoch, floor, number = found
    if move.epoch != epoch:
        return Fence(f"{where}: epoch {move.epoch} is over; epoch {epoch} owns it now")
    if move.before != floor or move.number not in (None, number):
        what = "the step" if move.number is None else f"step {move.number}"
        return Fence(
            f"{where}: {what} starts at floor {move.before}; found floor {floor}, and step {number} comes next"
        )
    if move.oldest is not None and not 0 <= move.oldest < tip:
        return Refused(f"{where}: offset {move.oldest} is to be kept, and the partition ends at {tip}")
    if move.after < move.before:
        return Refused(f"{where}: a step from floor {move.before} back to {move.after}; floors never move back")
    if move.after > tip:
        return Refused(f"{where}: floor {move.after} after the step, and the partition ends at {tip}")
    if len(move.holes) > HOLES_MAX:
        return Refused(
            f"{where}: {len(move.holes)} holes above the floor; at most {HOLES_MAX} are kept: settle the lowest events "
            "first"
        )
    outside = next((hole for hole in move.holes if not 0 <= hole < tip), None)
    if outside is not None:
        return Refused(f"{where}: hole {outside}, and the partition ends at {tip}; expected offsets of recorded events")
    return sorted({hole for hole in move.holes if hole >= move.after})
