"""What became of dead letters, and asking for them to be handled again or passed over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

import msgspec

from penstock.channel.api import Acked, GroupSpec, Publish, Topic, Unknown
from penstock.delivery.redrive import LETTERS_SPACE, POSITION_SPACE, SUFFIX, Command, decode, encode
from penstock.errors import ConfigError, DecodeError, OffsetOutOfRange, OutcomeUnknown, Rejected
from penstock.event.batch import NewBatch, Rows
from penstock.log import catalogue, progress
from penstock.observe.letters import Found

if TYPE_CHECKING:
    import apsw

    from penstock.channel.drivers.embedded import EmbeddedChannel
    from penstock.log.api import GroupRow
    from penstock.system import System

State = Literal["queued", "handled", "skipped", "failed again"]
"""What became of a letter that is not open any more."""
COMMANDS_AT_ONCE = 1_000
TRIMMED_MAX = 3
"""Looks that retention may cut short, one after the other."""


class Place(msgspec.Struct, frozen=True):
    """A dead letter: its partition, and its offset among the group's dead letters."""

    partition: int
    letter: int


def place_of(found: Found) -> Place:
    """Where a dead letter lies."""
    _, partition, letter = found.position.rsplit("/", 2)
    return Place(int(partition), int(letter))


def takes_back(topics: Mapping[str, Topic], group: str) -> bool:
    """Whether the group handles its dead letters again when it is asked to."""
    return group + SUFFIX in topics


async def dealt_with(channel: EmbeddedChannel, groups: Sequence[str]) -> dict[str, dict[Place, State]]:
    """Of each group the letters that are not open any more: asked for and not taken yet, or what became of them."""
    topics = channel.topics()
    rows = {row.name: row for row in channel.port.look(catalogue.groups)}
    return {
        group: await _dealt_with(channel, rows[group]) if group in rows and takes_back(topics, group) else {}
        for group in groups
    }


async def _dealt_with(channel: EmbeddedChannel, group: GroupRow) -> dict[Place, State]:
    for _ in range(TRIMMED_MAX):
        with suppress(OffsetOutOfRange):  # they were taken and removed since the ledger was read: it tells of them now
            return await _looked_at(channel, group)
    return await _looked_at(channel, group)


async def _looked_at(channel: EmbeddedChannel, group: GroupRow) -> dict[Place, State]:
    states: dict[Place, State] = {}
    topic = msgspec.json.decode(group.spec, type=GroupSpec).topic
    for partition, pid in enumerate(channel.row(topic).pids):
        position = 0
        entries = channel.port.look(lambda db, pid=pid: _told(db, group.id, pid))
        for space, key, value in entries:
            if space == POSITION_SPACE:
                position = int.from_bytes(value)
            else:
                states[Place(partition, int.from_bytes(key))] = _state(value)
        while batches := await channel.read(group.name + SUFFIX, partition, position, events_max=COMMANDS_AT_ONCE):
            for batch in batches:
                assert isinstance(batch.payload, Rows)
                for body in batch.payload.bodies():
                    with suppress(DecodeError):  # the group passes it over
                        states.setdefault(Place(partition, decode(body).letter), "queued")
            position = batches[-1].end
    return states


def _told(db: apsw.Connection, group_id: int, pid: int) -> list[progress.Entry]:
    spaces = (LETTERS_SPACE, POSITION_SPACE)
    return [entry for space in spaces for entry in progress.ledger_of(db, group_id, pid, space=space)]


def _state(value: bytes) -> State:
    match value:
        case b"handled":
            return "handled"
        case b"skipped":
            return "skipped"
        case _:
            return "failed again"


class Asker:
    """Publishes commands, each group of them as one transaction: interrupted, those before are given and no others."""

    def __init__(self, channel: EmbeddedChannel, group: str, system: System) -> None:
        if not takes_back(channel.topics(), group):
            msg = (
                f"{group} is no handler or flow that takes its dead letters back (sources do not, nor does one that "
                "has not run since this was built); publish corrected events to its topic instead"
            )
            raise ConfigError(msg, path=f"dlq.{group}")
        self._channel = channel
        self._topic = group + SUFFIX
        self._producer = system.new_id()
        self._sequence = 0

    async def ask(self, commands: Sequence[tuple[Place, Command]]) -> None:
        """Give the commands.

        Raises:
            Rejected: they cannot be stored; none of them is.
            OutcomeUnknown: they may be stored or not; give them again, a letter is dealt with once.
            TransientError: none of them is stored.
        """
        by_partition: dict[int, list[bytes]] = {}
        for place, command in commands:
            by_partition.setdefault(place.partition, []).append(encode(command))
        batches = [NewBatch(self._topic, p, len(bodies), Rows.of(bodies)) for p, bodies in sorted(by_partition.items())]
        answer = await self._channel.publish(Publish(self._producer, 1, self._sequence, batches))
        if isinstance(answer, Unknown):
            raise OutcomeUnknown(answer.reason)
        if not isinstance(answer, Acked):
            raise Rejected(answer.reason)
        self._sequence += 1


def command_for(found: Found, action: Literal["redrive", "skip"], *, body: bytes | None = None) -> Command:
    """What to say about a letter; `body` instead of its own bytes."""
    letter, place = found.letter, place_of(found)
    if action == "skip":
        return Command("skip", place.letter, letter.offset)
    own = letter.body if body is None else body
    return Command("redrive", place.letter, letter.offset, own, letter.key, letter.id, letter.again + 1)
