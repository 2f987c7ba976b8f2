"""What a log holds: topics with their sizes and times, and consumer groups with how far behind they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.channel.api import GroupSpec, Topic
from penstock.log import living, placed
from penstock.log.extent import extent

if TYPE_CHECKING:
    import apsw

    from penstock.channel.drivers.embedded import EmbeddedChannel
    from penstock.log.api import TopicRow

    Standings = Mapping[int, living.Standing]

_group_spec = msgspec.json.Decoder(GroupSpec).decode


class TopicFacts(msgspec.Struct, frozen=True):
    """A topic and what is recorded of it. Times are microseconds since 1970: of events, and of recording.

    `type` is the name of the recorded type, empty for raw bytes; `bytes` what the blocks take on the disk.
    """

    name: str
    type: str
    internal: bool
    partitions: int
    events: int
    blocks: int
    bytes: int
    schema_id: int
    key: str | None
    time: str | None
    time_min_us: int | None
    time_max_us: int | None
    recorded_min_us: int | None
    recorded_max_us: int | None


class FieldFacts(msgspec.Struct, frozen=True):
    """One field of a type, in words."""

    name: str
    type: str
    required: bool
    default: Any = None


class PartitionFacts(msgspec.Struct, frozen=True):
    """One partition: the first offset that is kept, the one its next event gets, and how much it holds."""

    partition: int
    begin: int
    next: int
    blocks: int
    bytes: int


class PartitionLag(msgspec.Struct, frozen=True):
    """A group on one partition: everything below `floor` is settled, `lag` events are not."""

    partition: int
    epoch: int
    floor: int
    holes: int
    end: int
    lag: int


class GroupFacts(msgspec.Struct, frozen=True):
    """A consumer group.

    `state`: `running` (it has an owner), `stopped`, or `new` (it never ran); `gone`: not here for so long that soon, or
    already, retention stops for it no more, and `holds` says which.
    """

    name: str
    kind: str
    topic: str
    state: str
    owner: str
    lag: int
    partitions: Sequence[PartitionLag]
    holds: bool = True


def topic_facts(channel: EmbeddedChannel) -> list[TopicFacts]:
    """Every topic of the log, by name."""
    topics = channel.topics()
    return [_topic_facts(channel, topics[name]) for name in sorted(topics)]


def _topic_facts(channel: EmbeddedChannel, topic: Topic) -> TopicFacts:
    row = channel.row(topic.spec.name)
    parts = channel.port.look(lambda db: [extent(db, pid) for pid in row.pids])
    ends = channel.port.look(lambda db: [placed.known(db, pid) for pid in row.pids])
    return TopicFacts(
        name=topic.spec.name,
        type=type_name(topic),
        internal=topic.spec.internal,
        partitions=topic.spec.partitions,
        events=sum(end.offset - end.begin for end in ends),
        blocks=sum(part.blocks for part in parts),
        bytes=sum(part.bytes for part in parts),
        schema_id=topic.schema_id,
        key=topic.spec.key,
        time=topic.spec.time,
        time_min_us=_least([part.time_min_us for part in parts]),
        time_max_us=_most([part.time_max_us for part in parts]),
        recorded_min_us=_least([part.recorded_min_us for part in parts]),
        recorded_max_us=_most([part.recorded_max_us for part in parts]),
    )


def type_name(topic: Topic) -> str:
    """The name of the topic's recorded type; `columns` for a flow's results, empty for raw bytes."""
    description = topic.spec.schema
    if description is None:
        return ""
    return str(description.get("name", description["kind"]))


def _least(values: Sequence[int | None]) -> int | None:
    return min((v for v in values if v is not None), default=None)


def _most(values: Sequence[int | None]) -> int | None:
    return max((v for v in values if v is not None), default=None)


def partition_facts(channel: EmbeddedChannel, topic: str) -> list[PartitionFacts]:
    """Each partition of a topic, in order."""
    row = channel.row(topic)

    def look(db: apsw.Connection) -> list[PartitionFacts]:
        extents = [(placed.known(db, pid), extent(db, pid)) for pid in row.pids]
        return [
            PartitionFacts(n, end.begin, end.offset, part.blocks, part.bytes) for n, (end, part) in enumerate(extents)
        ]

    return channel.port.look(look)


def field_facts(description: Mapping[str, Any]) -> list[FieldFacts]:
    """The fields of a recorded type, in order."""
    if description["kind"] == "columns":
        return [FieldFacts(name, kind, not nullable) for name, kind, nullable in description["fields"]]
    return [
        FieldFacts(
            field["name"],
            type_words(field["type"]),
            "default" not in field and not field.get("made"),
            field.get("default"),
        )
        for field in description["fields"]
    ]


def type_words(kind: Mapping[str, Any]) -> str:
    """A recorded type as people write it: ``list[str]``, ``decimal(10, 2) | None``, ``Address``."""
    match kind["kind"]:
        case "list":
            words = f"list[{type_words(kind['item'])}]"
        case "dict":
            words = f"dict[str, {type_words(kind['item'])}]"
        case "struct":
            words = str(kind["name"])
        case "union":
            words = " | ".join(str(member["name"]) for member in kind["members"])
        case "enum" | "literal":
            words = " | ".join(map(repr, kind["values"]))
        case "decimal" if "scale" in kind:
            words = f"decimal({kind['digits']}, {kind['scale']})"
        case other:
            words = str(other)
    return f"{words} | None" if kind.get("optional") else words


def group_facts(channel: EmbeddedChannel) -> list[GroupFacts]:
    """Every consumer group of the log, by name."""
    topics = {name: channel.row(name) for name in channel.topics()}
    found = standings(channel)
    return [
        _group_facts(channel, number, _group_spec(standing.group.spec), topics, found)
        for number, standing in found.items()
    ]


def standings(channel: EmbeddedChannel) -> dict[int, living.Standing]:
    """Each group as retention sees it now, by its id."""

    def look(db: apsw.Connection) -> list[living.Standing]:
        return living.standings(db, now_us=channel.ages(db).now_us, expiry=living.Expiry())

    return {standing.group.id: standing for standing in channel.port.look(look)}


def _group_facts(
    channel: EmbeddedChannel, group_id: int, spec: GroupSpec, topics: Mapping[str, TopicRow], standings: Standings
) -> GroupFacts:
    rows = standings[group_id].rows
    pids = topics[spec.topic].pids
    ends = channel.port.look(lambda db: {pid: placed.next_offset(db, pid) for pid in pids})
    known = {row.pid: row for row in rows}
    parts: list[PartitionLag] = []
    for number, pid in enumerate(pids):
        row = known.get(pid)
        epoch, floor, holes = (0, 0, 0) if row is None else (row.epoch, row.floor, len(row.holes))
        parts.append(PartitionLag(number, epoch, floor, holes, ends[pid], ends[pid] - floor - holes))
    ownership = channel.port.ownership(group_id)
    try:
        owner = "" if ownership.try_acquire(ownership.label()) else ownership.label()
    finally:
        ownership.close()
    standing = standings[group_id]
    state = "running" if owner else ("stopped" if any(part.epoch for part in parts) else "new")
    if not owner and standing.state != "live":
        state = "gone"
    lag = sum(part.lag for part in parts)
    return GroupFacts(spec.name, spec.kind, spec.topic, state, owner, lag, parts, standing.holds)
