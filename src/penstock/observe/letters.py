"""Dead letters of a log: counted by group and cause, and found again one by one."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping

import msgspec

from penstock.channel.api import Columnar, Scan, Topic
from penstock.channel.rules import unknown_name
from penstock.delivery.deadletter import SUFFIX, DeadLetter, from_row
from penstock.errors import ConfigError
from penstock.event.batch import Delivered, Rows
from penstock.observe.reading import is_dead_letters

SCAN_EVENTS = 5_000
CAUSES_MAX = 1_000
_PARTICULAR = re.compile(
    r"""'[^']*'|"[^"]*"                                    # what is quoted
    |\b\d+(?:\.\d+)?\b(?!-)                               # a number
    |\b0x[0-9a-fA-F]+\b                                   # where an object lies
    |\b(?=[a-fA-F-]{0,40}\d)[0-9a-fA-F]{8}[0-9a-fA-F-]*\b # a UUID, a digest; it is not looked far for its digit
    |\b(?=[^\W\d]*\d)\w{16,}\b                           # another long name with a digit, as ids are
    |\d+(?:\.\d+)?                                       # a number beside letters""",
    re.VERBOSE,
)
_POSITION = re.compile(r"(.+)/(\d+)/(\d+)")


class Found(msgspec.Struct, frozen=True):
    """A dead letter, and where it lies: ``group/partition/offset`` of the group's dead letters."""

    position: str
    recorded_us: int
    letter: DeadLetter


class Cause(msgspec.Struct):
    """Dead letters of one group that were given up for the same cause.

    `cause` is their reason with what differs from event to event (numbers, ids, quoted text) taken out; `open` of them
    were neither redriven nor skipped. `reason` and `example` are those of the newest one.
    """

    group: str
    error: str
    cause: str
    count: int
    open: int
    reason: str
    example: str
    first_us: int
    last_us: int


def dead_letter_groups(topics: Mapping[str, Topic]) -> list[str]:
    """The groups that can have dead letters, by name."""
    return sorted(name.removesuffix(SUFFIX) for name, topic in topics.items() if is_dead_letters(topic))


async def letters(channel: Columnar, topics: Mapping[str, Topic], group: str) -> AsyncIterator[Found]:
    """Every dead letter of a group, partition after partition in the order they were given up.

    Raises:
        ConfigError: no such group has dead letters; close names are listed.
    """
    name = _topic_of(topics, group)
    for partition, tip in enumerate(await channel.tips(name)):
        start = 0
        while start < tip:
            found = await channel.scan(Scan(name, partition, start, tip), events_max=SCAN_EVENTS)
            for delivered in found:
                for letter in _letters(delivered, group):
                    yield letter
            start = found[-1].end if found else tip


def _topic_of(topics: Mapping[str, Topic], group: str) -> str:
    topic = topics.get(group + SUFFIX)
    if topic is None or not is_dead_letters(topic):
        raise ConfigError(unknown_name(group, dead_letter_groups(topics), what="group"), path="dlq")
    return group + SUFFIX


def _letters(delivered: Delivered, group: str) -> list[Found]:
    assert isinstance(delivered.payload, Rows)
    bodies = delivered.payload.bodies()
    headers = delivered.payload.attributes["headers"]
    keys = delivered.payload.attributes.get("key") or [None] * delivered.count
    return [
        Found(f"{group}/{delivered.partition}/{delivered.first + i}", delivered.recorded_us, from_row(body, h, key))
        for i, (body, h, key) in enumerate(zip(bodies, headers, keys, strict=True))
    ]


async def causes(
    channel: Columnar,
    topics: Mapping[str, Topic],
    groups: list[str],
    *,
    dealt_with: Callable[[Found], bool] = lambda _: False,
    everything: bool = True,
) -> list[Cause]:
    """Dead letters counted by group and cause, the most frequent first; rare causes beyond a bound are one entry.

    Args:
        channel: where they lie.
        topics: of the channel.
        groups: whose letters.
        dealt_with: whether a letter was redriven or skipped.
        everything: count those too.
    """
    counted: dict[tuple[str, str, str], Cause] = {}
    for group in groups:
        async for found in letters(channel, topics, group):
            is_open = not dealt_with(found)
            if is_open or everything:
                _count(counted, found, is_open=is_open)
    return sorted(counted.values(), key=lambda cause: (-cause.count, cause.group, cause.cause))


def _count(counted: dict[tuple[str, str, str], Cause], found: Found, *, is_open: bool) -> None:
    letter = found.letter
    cause = _PARTICULAR.sub("…", letter.reason.partition("\n")[0])
    key = (letter.group, letter.error, cause)
    if key not in counted and len(counted) >= CAUSES_MAX:
        key = (letter.group, "", "other causes")
    known = counted.get(key)
    if known is None:
        at = found.recorded_us
        counted[key] = Cause(*key, 1, int(is_open), letter.reason, found.position, at, at)
        return
    known.count += 1
    known.open += is_open
    known.first_us = min(known.first_us, found.recorded_us)
    if found.recorded_us >= known.last_us:
        known.last_us, known.reason, known.example = found.recorded_us, letter.reason, found.position


async def find(channel: Columnar, topics: Mapping[str, Topic], wanted: str) -> Found:
    """A dead letter by its position (``group/partition/offset``), or by the id of the event that was given up.

    Raises:
        ConfigError: there is none.
    """
    known = dead_letter_groups(topics)
    match = _POSITION.fullmatch(wanted)
    if match is not None and match[1] in known:
        return await _at(channel, topics, match[1], int(match[2]), int(match[3]))
    for group in known:
        async for found in letters(channel, topics, group):
            if found.letter.id == wanted:
                return found
    if wanted in known:
        msg = f"{wanted} is a group; name a letter of it, or say which to redrive or skip: --all, --matching or --first"
        raise ConfigError(msg, path="dlq")
    groups = ", ".join(known) or "none"
    msg = (
        f"no dead letter {wanted!r}; expected an event's id, or GROUP/PARTITION/OFFSET as `penstock dlq list` shows it "
        f"(groups: {groups})"
    )
    raise ConfigError(msg, path="dlq")


async def _at(channel: Columnar, topics: Mapping[str, Topic], group: str, partition: int, offset: int) -> Found:
    name = _topic_of(topics, group)
    tips = await channel.tips(name)
    if partition >= len(tips) or offset >= tips[partition]:
        held = ", ".join(f"{p}: {tip}" for p, tip in enumerate(tips) if tip)
        msg = f"no dead letter {group}/{partition}/{offset}; {group} has, per partition, {held or 'none'}"
        raise ConfigError(msg, path="dlq")
    found = await channel.scan(Scan(name, partition, offset, offset + 1), events_max=1)
    if not found:
        msg = f"no dead letter {group}/{partition}/{offset} any more: retention has removed it, or it is quarantined"
        raise ConfigError(msg, path="dlq")
    return _letters(found[0], group)[0]
