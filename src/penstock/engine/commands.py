"""What people said about the dead letters of one partition: taken in order, and each letter dealt with once."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from penstock.channel.api import LedgerWrite
from penstock.channel.typed import TypedTopic
from penstock.delivery.redrive import LETTERS_SPACE, POSITION_SPACE, Command, decode
from penstock.engine.work import Read
from penstock.errors import BlockDamaged, DecodeError
from penstock.telemetry import emit

EVERY_S = 1.0
AT_ONCE = 100


def unread(several: Iterable[Commands]) -> str:
    """Why some of these cannot be read; empty when all can."""
    return next((str(commands.damaged) for commands in several if commands.damaged), "")


class Commands:
    """See the module. The ledger has how far they were taken, and what became of each letter.

    Args:
        group: whose dead letters.
        topic: the group's commands; None where it takes none.
        partition: of the input, and of the commands.
        entries: of the ledger: space, key, value.
    """

    def __init__(
        self, group: str, topic: TypedTopic[Any] | None, partition: int, entries: Iterable[tuple[str, bytes, bytes]]
    ) -> None:
        self.letters: dict[int, bytes] = {}
        self.more = False
        """Some were dealt with, and nobody has looked yet whether they were the last."""
        self.left: list[Command | None] = []
        """Those that were found and not taken yet, for there was no room."""
        self.damaged: BlockDamaged | None = None
        """Why the next ones cannot be read."""
        self._group = group
        self._topic = topic
        self._partition = partition
        self._position = 0
        self._looked_s = float("-inf")
        for space, key, value in entries:
            if space == LETTERS_SPACE:
                self.letters[int.from_bytes(key)] = value
            elif space == POSITION_SPACE:
                self._position = int.from_bytes(value)

    async def look(self, read: Read, now_s: float) -> list[Command | None]:
        """The next ones, at most so many, in order; None is one that cannot be decoded. Looks now and then.

        Those that cannot be read stop those behind them, and nothing else: by the next look they may be mended.
        """
        if self.left:
            return self.left
        if self._topic is None or now_s - self._looked_s < EVERY_S:
            return []
        self._looked_s, self.more = now_s, False
        try:
            found = await read(self._topic.name, self._partition, self._position, events_max=AT_ONCE)
        except BlockDamaged as exc:
            if self.damaged is None:
                emit.log(logging.ERROR, "redrive commands stopped", group=self._group, reason=str(exc))
            self.damaged = exc
            return []
        self.damaged = None
        commands: list[Command | None] = []
        for body in (body for batch in found for body in self._topic.bodies(batch)):
            try:
                commands.append(decode(body))
            except DecodeError as exc:
                emit.log(logging.WARNING, "a redrive command was passed over", reason=str(exc), group=self._group)
                commands.append(None)
        self.left = commands
        return commands

    def taken(self, count: int) -> LedgerWrite:
        """So many of those that are left are dealt with; there may be more."""
        self._position += count
        self.left = self.left[count:]
        self._looked_s, self.more = float("-inf"), True
        return LedgerWrite(POSITION_SPACE, b"", self._position.to_bytes(8))

    def resolve(self, letter: int, outcome: bytes) -> LedgerWrite:
        """What became of a dead letter."""
        self.letters[letter] = outcome
        return LedgerWrite(LETTERS_SPACE, letter.to_bytes(8), outcome)
