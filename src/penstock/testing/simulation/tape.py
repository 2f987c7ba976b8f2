"""The tape: which fault happens at which call, drawn from the seed as data, so that it prints, replays and shrinks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import msgspec

from penstock.errors import ConfigError
from penstock.system.chance import Random

Operation = Literal["publish", "commit", "next", "offload"]
Kind = Literal[
    "crash_before",
    "crash_after",
    "freeze_before",
    "freeze_after",
    "unknown_lost",
    "unknown_stored",
    "unknown_late",
    "delay_before",
    "delay_after",
    "duplicate",
    "full",
    "clock",
    "stop",
]

_DEATH: tuple[Kind, ...] = ("crash_before", "crash_after", "freeze_before", "freeze_after")
_DELAY: tuple[Kind, ...] = ("delay_before", "delay_after")
_UNKNOWN: tuple[Kind, ...] = ("unknown_lost", "unknown_stored", "unknown_late")
KINDS: dict[Operation, tuple[Kind, ...]] = {
    "publish": (*_DEATH, *_DELAY, *_UNKNOWN, "duplicate", "full"),
    "commit": (*_DEATH, *_DELAY, *_UNKNOWN, "duplicate", "full"),
    "next": (*_DEATH, *_DELAY, "clock", "stop"),
    "offload": (*_DEATH, *_DELAY),
}
OPERATIONS: tuple[Operation, ...] = ("publish", "commit", "commit", "next")
PATIENT: tuple[Kind, ...] = (*_DELAY, *_UNKNOWN, "duplicate", "full")
"""What leaves the process that publishes alive."""
FAULTS_MAX = 5


class Fault(msgspec.Struct, frozen=True):
    """What happens at the `nth` call (from 0, counted over all processes) of an operation.

    crash and freeze come before the request is sent or after it was answered; a frozen process (for `seconds`) is
    given up by the channel meanwhile, and goes on as a zombie. The unknown outcomes: never stored, stored, stored
    `seconds` later. full: refused for want of room, and so is what follows it. clock: the process's wall clock jumps
    by a day, back when `seconds` is odd. stop: the process is asked to end, as by SIGTERM, and is started again.
    offload: blocking work, of flows, sources and sinks.
    """

    operation: Operation
    nth: int
    kind: Kind
    seconds: float = 0.0

    def __str__(self) -> str:
        """As `parse` reads it."""
        return f"{self.operation}#{self.nth}:{self.kind}({self.seconds:g})"


Tape = Sequence[Fault]


def draw(
    chance: Random,
    *,
    calls: int,
    operations: Sequence[Operation] = OPERATIONS,
    kinds_of: Mapping[Operation, Sequence[Kind]] = KINDS,
) -> list[Fault]:
    """A tape for a scenario of about `calls` calls of each operation; at times an empty one."""
    out: list[Fault] = []
    for _ in range(chance.randrange(FAULTS_MAX + 1)):
        operation = operations[chance.randrange(len(operations))]
        kinds = kinds_of[operation]
        kind = kinds[chance.randrange(len(kinds))]
        # Rounded to what is printed: a replayed tape is the same tape.
        seconds = round(chance.choice((0.01, 0.1, 1.0, 3.0)) * (0.5 + chance.random()), 3)
        out.append(Fault(operation, chance.randrange(calls), kind, seconds))
    return out


def text(tape: Tape) -> str:
    """One line; see `parse`."""
    return " ".join(map(str, tape))


def parse(line: str) -> list[Fault]:
    """Read what `text` wrote.

    Raises:
        ConfigError: names the first word that is no fault.
    """
    out: list[Fault] = []
    for word in line.split():
        match = re.fullmatch(r"(\w+)#(\d+):(\w+)\(([\d.e+-]+)\)", word)
        if match is None or match[1] not in KINDS or match[3] not in get_args(Kind):
            msg = f"{word!r}; expected OPERATION#N:KIND(SECONDS) such as commit#2:crash_after(0), joined by spaces"
            raise ConfigError(msg, path="tape")
        out.append(msgspec.convert([match[1], int(match[2]), match[3], float(match[4])], _AsList).fault())
    return out


class _AsList(msgspec.Struct, array_like=True):
    operation: Operation
    nth: int
    kind: Kind
    seconds: float

    def fault(self) -> Fault:
        return Fault(self.operation, self.nth, self.kind, self.seconds)
