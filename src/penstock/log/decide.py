"""What a publish's sequence and a step's floor mean, given what is stored: pure, and the same on every channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

HOLES_MAX = 10_000


class Refused(msgspec.Struct, frozen=True):
    """Store nothing; the reason says what was found, what was expected and the way out."""

    reason: str


class Fence(msgspec.Struct, frozen=True):
    """Store nothing, and nothing of this owner any more: another one was here."""

    reason: str


class Move(msgspec.Struct, frozen=True):
    """How a step says progress moves: from `before` to `after`, with `holes` settled above."""

    epoch: int
    before: int
    after: int
    holes: Sequence[int]


def sequence(
    producer: str, newest: tuple[int, int] | None, *, epoch: int, number: int
) -> Literal["next", "stored"] | Refused:
    """Whether a publish is the producer's next one, or was stored before.

    A producer's first sequence in an epoch is 0; a higher epoch starts again at 0 and ends the lower ones.

    Args:
        producer: its name, for the reason.
        newest: (epoch, sequence) of the newest stored publish; None when there is none.
        epoch: of the publish asked about.
        number: its sequence.
    """
    expected = 0
    if newest is not None and epoch < newest[0]:
        return Refused(
            f"producer {producer}: epoch {epoch} is over, epoch {newest[0]} has been seen; "
            "a newer client uses this name, this one must stop"
        )
    if newest is not None and epoch == newest[0]:
        expected = newest[1] + 1
    if number > expected:
        return Refused(
            f"producer {producer}, epoch {epoch}: sequence {number} where {expected} was expected; an earlier publish "
            "did not arrive, publish it first"
        )
    return "next" if number == expected else "stored"


def forgotten(producer: str, epoch: int, number: int) -> Refused:
    """The answer to a sequence that was stored and is not remembered any more."""
    return Refused(
        f"producer {producer}, epoch {epoch}: sequence {number} was stored, longer ago than answers are remembered"
    )


def conflict(producer: str, epoch: int, number: int) -> Refused:
    """The answer to a sequence that was stored with other content."""
    return Refused(
        f"producer {producer}, epoch {epoch}: sequence {number} was published with other content; a sequence names one "
        "content, take the next number"
    )


def step(  # noqa: PLR0911  one check after the other
    where: str, found: tuple[int, int], move: Move, *, tip: int
) -> list[int] | Refused | Fence:
    """The holes above the floor after the step, or why it is not applied. This is the fence: ask inside the commit.

    Args:
        where: group, topic and partition, for the reason.
        found: the epoch and the floor that are stored now.
        move: what the step says.
        tip: the offset the partition's next event gets.
    """
    epoch, floor = found
    if move.epoch != epoch:
        return Fence(f"{where}: epoch {move.epoch} is over; epoch {epoch} owns it now")
    if move.before != floor:
        return Fence(f"{where}: the step starts at floor {move.before}, found {floor}")
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
