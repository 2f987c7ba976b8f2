"""What is simulated: topics, numbered events by key, who publishes them and the members that work on them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

import msgspec

from penstock.channel.api import Acked, Channel, GroupSpec, Publish, Refused, TopicSpec, Unknown
from penstock.errors import PenstockError, TransientError
from penstock.event.batch import Attributes, Delivered, NewBatch, Rows
from penstock.event.partition import partition_of
from penstock.system.chance import Random
from penstock.system.ports import System
from penstock.testing.simulation.faults import FaultyChannel
from penstock.testing.simulation.history import Place
from penstock.testing.simulation.outcome import Anomaly, Event, Outcome
from penstock.testing.simulation.tape import KINDS, OPERATIONS, Kind, Operation

RETRY_S = 0.05


def to_bytes(event: Event) -> bytes:
    """``key:number``, the default encoding."""
    return f"{event.key}:{event.number}".encode()


def from_bytes(topic: str, body: bytes) -> Event | None:
    """The event that default-encoded bytes, or what starts like them, speak of; None for anything else."""
    key, _, rest = body.decode(errors="replace").partition(":")
    number = rest.partition(":")[0]
    return Event(key, int(number)) if number.isdigit() else None


class Host(Protocol):
    """The simulated process that a member or a producer runs in, as it sees it.

    Attributes:
        name: the same after a restart. number: of this life, over all processes of the world.
        load: what a producer publishes, publish by publish; empty for members.
        kept: what outlives the process, as files do. disk: what all processes of the world keep together.
        chance: of this life, from the seed.
    """

    name: str
    system: System
    number: int
    scenario: Scenario
    load: Sequence[Sequence[Event]]
    kept: dict[str, Any]
    disk: dict[str, Any]
    chance: Random

    def on_stop(self, stop: Callable[[], None]) -> None:
        """Call `stop` when the process is asked to end; it is started again afterwards."""
        ...

    async def die(self) -> NoReturn:
        """End this life at once, as kill -9 does: nothing of it goes on."""
        ...


Member = Callable[[Host, FaultyChannel, System], Awaitable[None]]
"""A user's pipeline in one process: runs until it is killed or asked to stop. It may keep things in `host.kept`."""

Producer = Callable[[Host, FaultyChannel, System], Awaitable[None]]
"""Publishes `host.load` in order and returns when all of it is acked; started again after a crash."""

State = Mapping[tuple[str, bytes], bytes]
"""(ledger space, key) → value."""

Judge = Callable[[Outcome, Outcome | None], Iterable[Anomaly]]
"""An oracle of a scenario's own: (outcome, fault-free twin) → what is wrong."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario; `topics[0]` holds the inputs, and the first of `groups` reads them.

    Attributes:
        outputs: topics and targets whose events are effects of inputs: each input has exactly one, in one of them.
            Without any, effects are left to `judges`.
        spaces: ledger spaces that `fold` gives; others are not looked at.
        fold: the state that a partition's inputs, in order, must have led to, in the first group.
        targets: what lies in targets outside the channel, from `Host.disk`: (target, partition) → bodies, in order.
        identify: (topic, body) → the input that an event of `topic` is the effect of (or is); None for neither.
        encode: an input's bytes.
        judges: oracles besides the common ones.
        at_rest: (`Host.disk`, the end of every partition) → whether targets have caught up, besides the groups.
        operations, kinds: which faults are drawn where.
        backend: `memory` or `embedded`.
        keys, events, members, producers: how many, at most.
    """

    name: str
    topics: Sequence[TopicSpec]
    groups: Sequence[GroupSpec]
    member: Member
    outputs: Sequence[str]
    produce: Producer = field(default_factory=lambda: publish_all)
    spaces: Sequence[str] = ()
    fold: Callable[[Sequence[Event]], State] | None = None
    identify: Callable[[str, bytes], Event | None] = from_bytes
    encode: Callable[[Event], bytes] = to_bytes
    targets: Callable[[Mapping[str, Any]], Mapping[Place, Sequence[bytes]]] | None = None
    judges: Sequence[Judge] = ()
    at_rest: Callable[[Mapping[str, Any], Mapping[Place, int]], bool] | None = None
    operations: Sequence[Operation] = OPERATIONS
    kinds: Mapping[Operation, Sequence[Kind]] = field(default_factory=lambda: KINDS)
    backend: str = "embedded"
    keys: int = 3
    events: int = 16
    members: int = 2
    producers: int = 2

    @property
    def input(self) -> TopicSpec:
        """The topic of the inputs."""
        return self.topics[0]

    def batches(self, events: Sequence[Event]) -> list[NewBatch]:
        """Inputs as batches, laid out by key, keeping their order."""
        spec = self.input
        parts: dict[int, list[Event]] = {}
        for event in events:
            parts.setdefault(partition_of(event.key.encode(), spec.partitions), []).append(event)
        return [
            NewBatch(spec.name, number, len(part), Rows.of([*map(self.encode, part)], self._attributes(part)))
            for number, part in sorted(parts.items())
        ]

    def _attributes(self, part: Sequence[Event]) -> Attributes:
        """The keys, unless the topic's type holds them."""
        return {"key": [event.key for event in part]} if self.input.key is None else {}


async def publish_all(process: Host, channel: Channel, system: System) -> None:
    """The right producer: one publish after the other, repeated under its own sequence until the outcome is known."""
    scenario = process.scenario
    for sequence, events in enumerate(process.load):
        publish = Publish(process.name, 0, sequence, scenario.batches(events))
        while isinstance(answer := await tried(channel, publish), Unknown):
            await system.clock.sleep(RETRY_S)
        if isinstance(answer, Refused):
            raise PenstockError(answer.reason)


async def tried(channel: Channel, publish: Publish) -> Acked | Refused | Unknown:
    """`Channel.publish`; a passing refusal counts as unknown: the same sequence is to be published again."""
    try:
        return await channel.publish(publish)
    except TransientError as exc:
        return Unknown(str(exc))


def bodies(delivered: Delivered) -> list[bytes]:
    """Each event's bytes; a row of columns as JSON."""
    payload = delivered.payload
    if isinstance(payload, Rows):
        return payload.bodies()
    rows: list[Any] = payload.table.to_pylist()
    return [msgspec.json.encode(row) for row in rows]
