"""Decisions every driver takes alike, as pure functions: names, declarations, sequences, steps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from zlib import crc32

import msgspec

from penstock.channel.api import (
    HOLES_MAX,
    PARTITIONS_MAX,
    FencedOff,
    GroupSpec,
    Publish,
    Settle,
    Step,
    Topic,
    TopicSpec,
)
from penstock.errors import ConfigError, DeclaredDifferently, Rejected
from penstock.event.batch import Columns, Delivered, NewBatch, Rows

OFFSET_MAX = 2**62
"""No partition's next offset passes this: refused, never wrapped."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")
_DEVICES = re.compile(r"(?i:con|prn|aux|nul|com[1-9]|lpt[1-9])(\..*)?")
_pack = msgspec.msgpack.Encoder(order="deterministic").encode

# Fields of a topic's declaration that two programs must agree on; the schema may change by its own rules.
_AGREED = ("partitions", "key", "time", "disorder_s", "event_bytes_max", "internal")


# -- declarations --------------------------------------------------------------------------------------------------


def check_name(name: str, *, what: str) -> None:
    """Refuse names that some broker or file system could not keep apart or would read as a path.

    Args:
        name: the name as declared.
        what: what is named, in the singular: ``topic`` or ``group``.

    Raises:
        ConfigError: names the rule.
    """
    if not _NAME.fullmatch(name) or name in {".", ".."}:
        msg = f"the {what} name {name!r}; expected 1 to 200 of A-Z a-z 0-9 . _ - and neither '.' nor '..'"
        raise ConfigError(msg, path=f"{what}s")
    if _DEVICES.fullmatch(name):
        msg = f"the {what} name {name!r} is the name of a device on Windows; expected another, such as 'my_{name}'"
        raise ConfigError(msg, path=f"{what}s")


def check_topic(spec: TopicSpec, existing: Iterable[str]) -> None:
    """Whether the declaration makes sense by itself and its name beside those of the `existing` topics.

    Raises:
        ConfigError: the field, what was found, what was expected.
        DeclaredDifferently: a topic of nearly this name exists.
    """
    check_name(spec.name, what="topic")
    path = f"topics.{spec.name}"
    if not 1 <= spec.partitions <= PARTITIONS_MAX:
        raise ConfigError(f"{spec.partitions}; expected 1 to {PARTITIONS_MAX}", path=f"{path}.partitions")
    if spec.event_bytes_max < 1:
        raise ConfigError(f"{spec.event_bytes_max}; expected at least 1", path=f"{path}.event_bytes_max")
    if spec.disorder_s is not None and not spec.disorder_s >= 0:
        raise ConfigError(f"{spec.disorder_s}; expected 0 or more seconds", path=f"{path}.disorder_s")
    twin = case_twin(spec.name, existing)
    if twin is not None:
        msg = f"topic {spec.name}: a topic {twin} exists, and names that differ only in case are refused; rename one"
        raise DeclaredDifferently(msg)


def case_twin(name: str, existing: Iterable[str]) -> str | None:
    """The existing name that differs from `name` only in case, if there is one."""
    folded = name.casefold()
    return next((other for other in existing if other != name and other.casefold() == folded), None)


def unknown_name(name: str, known: Sequence[str], *, what: str) -> str:
    """The message for a name nobody declared: close ones, else some of those there are."""
    close = get_close_matches(name, known, n=3) or sorted(known)[:5]
    listed = f"did you mean {', '.join(close)}?" if close else f"no {what} is declared yet"
    return f"no {what} {name!r} here; {listed} Declare it, or correct the name"


def declaration_difference(old: TopicSpec, new: TopicSpec) -> str | None:
    """In which fields two declarations of one topic differ, in words; None when they agree.

    The schema is left out: whether and how it may change is the schema's own rule.
    """
    return "; ".join(_differences(old, new, _AGREED)) or None


def check_declared_alike(old: TopicSpec, new: TopicSpec) -> None:
    """Compare.

    Raises:
        DeclaredDifferently: names every differing field and the way out.
    """
    found = declaration_difference(old, new)
    if found:
        msg = f"topic {old.name}: {found}; declare it as it was, or use another topic name"
        raise DeclaredDifferently(msg)


def group_difference(old: GroupSpec, new: GroupSpec) -> str | None:
    """In which fields two declarations of one group differ, in words; None when they agree.

    `start` is left out: it only says where a group begins that has no progress yet.
    """
    return "; ".join(_differences(old, new, ("topic", "kind"))) or None


def check_group_alike(old: GroupSpec, new: GroupSpec) -> None:
    """Compare.

    Raises:
        DeclaredDifferently: names every differing field and the way out.
    """
    found = group_difference(old, new)
    if found:
        msg = f"group {old.name}: {found}; declare it as it was, or use another group name"
        raise DeclaredDifferently(msg)


def _differences(old: object, new: object, fields: Sequence[str]) -> list[str]:
    pairs = [(name, getattr(old, name), getattr(new, name)) for name in fields]
    return [f"{name} is declared as {was!r}, here {now!r}" for name, was, now in pairs if was != now]


# -- what may be stored --------------------------------------------------------------------------------------------


def refuse_batches(
    batches: Sequence[NewBatch], topics: Mapping[str, Topic], tips: Mapping[tuple[str, int], int]
) -> str:
    """Why these batches cannot be stored; empty when they can.

    Args:
        batches: of any topics and partitions.
        topics: the declared ones, by name.
        tips: (topic, partition) → the offset its next event gets; a missing one counts as 0.
    """
    wanted: dict[tuple[str, int], int] = {}
    for index, batch in enumerate(batches):
        reason = _refuse_batch(batch, topics.get(batch.topic))
        if reason:
            return f"batch {index}: {reason}"
        place = (batch.topic, batch.partition)
        wanted[place] = wanted.get(place, 0) + batch.count
    for (topic, partition), count in wanted.items():
        tip = tips.get((topic, partition), 0)
        if tip + count > OFFSET_MAX:
            return f"topic {topic}/{partition} is at offset {tip}; {count} more pass the limit of {OFFSET_MAX}"
    return ""


def _refuse_batch(batch: NewBatch, topic: Topic | None) -> str:
    if topic is None:
        return f"topic {batch.topic!r} is not declared; declare it first (open)"
    spec = topic.spec
    if not 0 <= batch.partition < spec.partitions:
        return f"topic {spec.name} has partitions 0 to {spec.partitions - 1}; found {batch.partition}"
    found = len(batch.payload.lengths) if isinstance(batch.payload, Rows) else batch.payload.table.num_rows
    if found != batch.count or batch.count < 1:
        return f"topic {spec.name}: count is {batch.count}, the payload has {found} events; expected the same, not 0"
    for name, values in batch.payload.attributes.items():
        if len(values) != batch.count:
            return f"topic {spec.name}: attribute {name} has {len(values)} values for {batch.count} events"
    return _refuse_size(batch, spec)


def _refuse_size(batch: NewBatch, spec: TopicSpec) -> str:
    limit = spec.event_bytes_max
    way_out = f"raise topics.{spec.name}.event_bytes_max, or publish a reference to the data"
    if not isinstance(batch.payload, Rows):
        if spec.schema is None:
            return f"topic {spec.name} is of raw bytes and the payload is columns; publish rows, or declare a type"
        size = batch.payload.table.nbytes
        if size > limit * batch.count:
            return f"topic {spec.name}: {batch.count} events in {size} bytes; the limit is {limit} each: {way_out}"
        return ""
    if len(batch.payload.body) != sum(batch.payload.lengths) + batch.count - 1:
        return (
            f"topic {spec.name}: {len(batch.payload.body)} body bytes, and lengths that add up to "
            f"{sum(batch.payload.lengths)}; expected {batch.count - 1} newlines more than the lengths"
        )
    for index, size in enumerate(batch.payload.lengths):
        if size > limit:
            return f"topic {spec.name}: event {index} has {size} bytes; the limit is {limit}: {way_out}"
    return ""


def content_of(batches: Sequence[NewBatch]) -> int:
    """A checksum of what is published: equal content has an equal one, so a repetition is told from a conflict."""
    check = 0
    for batch in batches:
        payload = batch.payload
        attributes = {name: list(values) for name, values in payload.attributes.items()}
        head = (batch.topic, batch.partition, batch.count, batch.time_min_us, batch.time_max_us, attributes)
        check = crc32(_pack(head), check)
        if isinstance(payload, Rows):
            check = crc32(payload.lengths.tobytes(), crc32(payload.body, check))
        else:
            check = crc32(payload.table.serialize(), check)
    return check


# -- sequences -----------------------------------------------------------------------------------------------------


class Answer(msgspec.Struct, frozen=True):
    """How a publish was answered: the checksum of its content, and each batch's first offset."""

    content: int
    first: Sequence[int]


class Producer(msgspec.Struct, frozen=True):
    """What is known of a producer: its newest epoch, the next sequence there, and answers still remembered.

    `answers` maps (epoch, sequence) to the answer; it needs to hold only the one that is asked for.
    """

    epoch: int
    expected: int
    answers: Mapping[tuple[int, int], Answer]


class Fresh(msgspec.Struct, frozen=True):
    """Store it: this is the next sequence."""


class Repeat(msgspec.Struct, frozen=True):
    """Store nothing and answer with the original offsets."""

    first: Sequence[int]


class Refuse(msgspec.Struct, frozen=True):
    """Store nothing; the reason names producer, epoch and sequence."""

    reason: str


def decide_sequence(stored: Producer | None, publish: Publish, content: int) -> Fresh | Repeat | Refuse:
    """What a publish's (producer, epoch, sequence) means, given what is stored of the producer.

    A producer's first sequence in an epoch is 0; a higher epoch starts again at 0 and ends the lower ones. `content`
    is `content_of(publish.batches)`.
    """
    expected = 0
    if stored is not None and publish.epoch < stored.epoch:
        return Refuse(
            f"producer {publish.producer}: epoch {publish.epoch} is over, epoch {stored.epoch} has been seen; "
            "a newer client uses this name, this one must stop"
        )
    if stored is not None and publish.epoch == stored.epoch:
        expected = stored.expected
    where = f"producer {publish.producer}, epoch {publish.epoch}"
    if publish.sequence > expected:
        return Refuse(
            f"{where}: sequence {publish.sequence} where {expected} was expected; an earlier publish did not arrive, "
            "publish it first"
        )
    if publish.sequence == expected:
        return Fresh()
    answer = None if stored is None else stored.answers.get((publish.epoch, publish.sequence))
    if answer is None:
        return Refuse(f"{where}: sequence {publish.sequence} was stored, longer ago than answers are remembered")
    if answer.content != content:
        return Refuse(
            f"{where}: sequence {publish.sequence} was published with other content; a sequence names one content, "
            "take the next number"
        )
    return Repeat(answer.first)


# -- steps ---------------------------------------------------------------------------------------------------------


class Progress(msgspec.Struct, frozen=True):
    """How far a group is on one partition: its owner's epoch, the floor, and what is settled above it, ascending."""

    epoch: int
    floor: int
    holes: Sequence[int] = ()


def decide_step(progress: Progress, step: Step, *, tip: int) -> Progress | FencedOff:
    """The progress after the step, or why its owner is fenced off. This is the fence: ask inside the commit.

    Args:
        progress: what is stored now.
        step: of the same group and partition.
        tip: the offset the partition's next event gets.

    Raises:
        Rejected: the step breaks a rule by itself; nothing of it may be stored.
    """
    settle = step.settle
    if step.owned.epoch != progress.epoch:
        return FencedOff(f"{_where(step)}: epoch {step.owned.epoch} is over; epoch {progress.epoch} owns it now")
    if settle.floor_before != progress.floor:
        return FencedOff(f"{_where(step)}: the step starts at floor {settle.floor_before}, found {progress.floor}")
    reason = _refuse_settle(settle, tip)
    if reason:
        raise Rejected(f"{_where(step)}: {reason}; nothing of the step was stored")
    holes = sorted({hole for hole in settle.holes if hole >= settle.floor_after})
    return Progress(progress.epoch, settle.floor_after, holes)


def _refuse_settle(settle: Settle, tip: int) -> str:
    if settle.floor_after < settle.floor_before:
        return f"a step from floor {settle.floor_before} back to {settle.floor_after}; floors never move back"
    if settle.floor_after > tip:
        return f"floor {settle.floor_after} after the step, and the partition ends at {tip}; expected no more than that"
    if len(settle.holes) > HOLES_MAX:
        return (
            f"{len(settle.holes)} holes above the floor; at most {HOLES_MAX} are kept: settle the lowest events first"
        )
    outside = next((hole for hole in settle.holes if not 0 <= hole < tip), None)
    if outside is not None:
        return f"hole {outside}, and the partition ends at {tip}; expected offsets of recorded events"
    return ""


def _where(step: Step) -> str:
    return f"group {step.group}, topic {step.owned.topic}, partition {step.owned.partition}"


# -- what is handed out --------------------------------------------------------------------------------------------


def head(delivered: Delivered, count: int) -> Delivered:
    """The first `count` events of a batch (all of it when it has no more); ids do not change."""
    if count >= delivered.count:
        return delivered
    attributes = {name: values[:count] for name, values in delivered.payload.attributes.items()}
    if isinstance(delivered.payload, Rows):
        lengths = delivered.payload.lengths[:count]
        payload: Rows | Columns = Rows(delivered.payload.body[: sum(lengths) + count - 1], lengths, attributes)
    else:
        payload = Columns(delivered.payload.table.slice(0, count), attributes)
    return msgspec.structs.replace(delivered, count=count, payload=payload)


def within(batches: Sequence[Delivered], bytes_max: int) -> Sequence[Delivered]:
    """As many of the batches, from the first on, as fit in about `bytes_max` bytes; at least one if there is one."""
    size = 0
    for index, batch in enumerate(batches):
        size += len(batch.payload.body) if isinstance(batch.payload, Rows) else batch.payload.table.nbytes
        if size > bytes_max and index:
            return batches[:index]
    return batches
