"""What a log holds: topics with their sizes and times, and consumer groups with how far behind they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.channel import sharing
from penstock.channel.api import GroupSpec, Topic
from penstock.delivery.lot import SPACE as PARKED
from penstock.delivery.lot import Lot, Now
from penstock.log import living, placed, progress
from penstock.log.api import ProgressRow
from penstock.log.extent import extent, newest_since, recorded_us

if TYPE_CHECKING:
    import apsw

    from penstock.channel.drivers.embedded import EmbeddedChannel
    from penstock.log.api import TopicRow

    Standings = Mapping[int, living.Standing]

TREND_S = 60
_group_spec = msgspec.json.Decoder(GroupSpec).decode


class TopicFacts(msgspec.Struct, frozen=True):
    """A topic and what is recorded of it. Times are microseconds since 1970: of events, and of recording.

    `type` is the name of the recorded type, empty for raw bytes; `bytes` what the blocks take on the disk. `skew` says
    how many times an even share the fullest partition holds: 1.0 when all hold as many, the number of partitions when
    one holds everything, as when all events have one key; None where there is nothing to compare.
    """

    name: str
    type: str
    internal: bool
    partitions: int
    events: int
    skew: float | None
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
    """A group on one partition: everything below `floor` is settled, `lag` events are not; `parked` ones wait.

    `owner` is what the worker that has it calls itself. `lag_s` is how long ago the first event that is not settled
    was recorded, `trend` by how many events the lag has grown in the last TREND_S seconds (less than 0: it shrinks).
    """

    partition: int
    owner: str
    epoch: int
    floor: int
    holes: int
    parked: int
    end: int
    lag: int
    lag_s: float
    trend: int


class GroupFacts(msgspec.Struct, frozen=True):
    """A consumer group.

    `state`: `running` (it has members), `stopped`, or `new` (it never ran); `gone`: not here for so long that soon, or
    already, retention stops for it no more, and `holds` says which. `owner` lists its members; `lag_s` is the longest
    of its partitions', `trend` the sum of theirs.
    """

    name: str
    kind: str
    topic: str
    state: str
    owner: str
    lag: int
    lag_s: float
    trend: int
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
    events = [end.offset - end.begin for end in ends]
    return TopicFacts(
        name=topic.spec.name,
        type=type_name(topic),
        internal=topic.spec.internal,
        partitions=topic.spec.partitions,
        events=sum(events),
        skew=round(max(events) * len(events) / sum(events), 2) if len(events) > 1 and any(events) else None,
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
    words = f"{words} | None" if kind.get("optional") else words
    return f"{words} (personal)" if kind.get("personal") else words


def group_facts(channel: EmbeddedChannel, *, now_us: int) -> list[GroupFacts]:
    """Every consumer group of the log, by name, as it is at `now_us`."""
    topics = {name: channel.row(name) for name in channel.topics()}
    found = standings(channel)
    return [_group_facts(channel, standing, topics, now_us) for standing in found.values()]


def standings(channel: EmbeddedChannel) -> dict[int, living.Standing]:
    """Each group as retention sees it now, by its id."""

    def look(db: apsw.Connection) -> list[living.Standing]:
        return living.standings(db, now_us=channel.ages(db).now_us, expiry=living.Expiry())

    return {standing.group.id: standing for standing in channel.port.look(look)}


def _group_facts(
    channel: EmbeddedChannel, standing: living.Standing, topics: Mapping[str, TopicRow], now_us: int
) -> GroupFacts:
    group_id, spec, rows = standing.group.id, _group_spec(standing.group.spec), standing.rows
    seats = channel.port.present(str(group_id))
    holders = sharing.holders(seats)
    known = {row.pid: row for row in rows}

    def look(db: apsw.Connection) -> list[PartitionLag]:
        parts: list[PartitionLag] = []
        for number, pid in enumerate(topics[spec.topic].pids):
            row = known.get(pid) or ProgressRow(group_id, pid, 0, 0, ())
            owner = holders[number].label if number in holders else ""
            parts.append(_partition_lag(db, number, row, owner, now_us))
        return parts

    parts = channel.port.look(look)
    owner = ", ".join(seat.label for seat in seats)
    state = "running" if owner else ("stopped" if any(part.epoch for part in parts) else "new")
    if not owner and standing.state != "live":
        state = "gone"
    return GroupFacts(
        spec.name,
        spec.kind,
        spec.topic,
        state,
        owner,
        sum(part.lag for part in parts),
        max((part.lag_s for part in parts), default=0.0),
        sum(part.trend for part in parts),
        parts,
        standing.holds,
    )


def _partition_lag(db: apsw.Connection, number: int, row: ProgressRow, owner: str, now_us: int) -> PartitionLag:
    end = placed.next_offset(db, row.pid)
    holes = len(row.holes)
    lag = end - row.floor - holes
    first = recorded_us(db, row.pid, row.floor) if lag > 0 else None
    lag_s = 0.0 if first is None else round(max(0, now_us - first) / 1e6, 1)
    then_us = now_us - TREND_S * 1_000_000
    floor = progress.floor_at(db, row.group_id, row.pid, then_us)
    before = max(0, newest_since(db, row.pid, end, then_us) - (row.floor if floor is None else floor))
    lot = parked_in(db, row.group_id, row.pid)
    parked = len(lot.heads) + lot.events
    return PartitionLag(number, owner, row.epoch, row.floor, holes, parked, end, lag, lag_s, end - row.floor - before)


def parked_in(db: apsw.Connection, group_id: int, pid: int) -> Lot:
    """What waits in the group's ledger: events that failed, and those behind them."""
    entries = progress.ledger_of(db, group_id, pid, space=PARKED)
    return Lot.restore([(key, value) for _, key, value in entries], Now(0, 0.0))
