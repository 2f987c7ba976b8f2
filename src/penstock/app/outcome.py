"""The three answers to a publish: acked, rejected, unknown."""

from __future__ import annotations

import msgspec

from penstock.channel.api import Publish


class Acked(msgspec.Struct, frozen=True, gc=False):
    """Stored durably, at this place. `repeated`: by an earlier publish, of the same sequence or of the same id."""

    topic: str
    partition: int
    offset: int
    repeated: bool = False


class Rejected(msgspec.Struct, frozen=True, gc=False):
    """Not stored, and it never will be as it is; the reason names the field or the limit and the way out."""

    topic: str
    reason: str


class Unknown(msgspec.Struct, frozen=True):
    """It may or may not be stored. `Client.resolve` asks again under the original sequence: that is safe, and tells.

    `ticket` is the publish that carried the event, `place` its batch there and its index in the batch.
    """

    topic: str
    reason: str
    ticket: Publish
    place: tuple[int, int] = (0, 0)


Outcome = Acked | Rejected | Unknown
