"""Commands about dead letters: handle one again, or let its key go on without it.

They are events of the group's own topic ``<group>.redrive``, so that they are durable, in order, and given whether or
not the group is running; its owner reads them beside its input and keeps its place in its ledger.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from penstock.channel.api import TOGETHER_BYTES_MAX, TopicSpec
from penstock.channel.rules import OFFSET_MAX
from penstock.errors import DecodeError

SUFFIX = ".redrive"
POSITION_SPACE = "commands"
"""Ledger: how far the commands have been taken, under the empty key."""
LETTERS_SPACE = "letters"
"""Ledger: a dead letter's offset (8 bytes, big-endian) → what became of it."""

Action = Literal["redrive", "skip"]
_Offset = Annotated[int, msgspec.Meta(ge=0, lt=OFFSET_MAX)]


class Command(msgspec.Struct, frozen=True, omit_defaults=True):
    """What to do about one dead letter of the command's partition.

    `letter` is the letter's offset among the group's dead letters, `offset` that of the event it was. `body` are the
    bytes to handle: the letter's own, or edited ones; whoever redrives has them.
    """

    action: Action
    letter: _Offset
    offset: _Offset
    body: bytes | None = None
    key: bytes | None = None
    id: str = ""
    again: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)] = 1

    def __post_init__(self) -> None:
        if self.action == "redrive" and self.body is None:
            msg = "nothing to handle: expected the event's bytes as `body`, in base64"
            raise ValueError(msg)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Command)


def redrive_topic(group: str, *, partitions: int) -> TopicSpec:
    """The declaration of a group's commands, partitioned as its input is."""
    return TopicSpec(group + SUFFIX, partitions=partitions, event_bytes_max=TOGETHER_BYTES_MAX, internal=True)


def encode(command: Command) -> bytes:
    """The command as the event it is published as."""
    return _encoder.encode(command)


def decode(body: bytes) -> Command:
    """Read a published command.

    Raises:
        DecodeError: these are the bytes of none.
    """
    try:
        return _decoder.decode(body)
    except msgspec.MsgspecError as exc:
        msg = f"not a redrive command: {exc}"
        raise DecodeError(msg) from exc
