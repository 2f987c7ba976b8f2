"""Decisions every driver takes alike, as pure functions: names, declarations, sequences, steps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any
from zlib import crc32

import msgspec

from penstock.channel import sizes
from penstock.channel.api import (
    NOTE_BYTES_MAX,
    PARTITIONS_MAX,
    TOGETHER_BYTES_MAX,
    FencedOff,
    GroupSpec,
    Publish,
    Scan,
    Step,
    Topic,
    TopicSpec,
)
from penstock.errors import ConfigError, DeclaredDifferently, Rejected, SchemaIncompatible
from penstock.event.batch import Columns, Delivered, NewBatch, Rows
from penstock.log import blocks, decide

OFFSET_MAX = 2**62
"""No partition's next offset passes this, and a channel's own limit may be lower: refused, never wrapped."""

PRODUCER_CHARACTERS_MAX = 200
_INTEGER_MAX = 2**63 - 1

_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")
_DEVICES = re.compile(r"(?i:con|prn|aux|nul|com[1-9]|lpt[1-9])(\..*)?")
_pack = msgspec.msgpack.Encoder(order="deterministic").encode

# Fields of a topic's declaration that two programs must agree on; the schema may change by its own rules.
_AGREED = ("partitions", "key", "time", "disorder_s", "internal")


# -- declarations --------------------------------------------------------------------------------------------------


def check_name(name: str, *, what: str) -> None:
    """Refuse names that some broker or file system could not keep apart or would read as a path.

    Args:
        name: the name as declared.
        what: what is named, in the singular: ``topic`` or ``group``.

    Raises:
        ConfigError: names the rule.
    """
    text = isinstance(name, str)  # pyright: ignore[reportUnnecessaryIsInstance]
    if not text or not _NAME.fullmatch(name) or name in {".", ".."}:
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
    if not 1 <= spec.event_bytes_max <= TOGETHER_BYTES_MAX:
        raise ConfigError(f"{spec.event_bytes_max}; expected 1 to {TOGETHER_BYTES_MAX}", path=f"{path}.event_bytes_max")
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


def check_place(topics: Mapping[str, Topic], topic: str, partition: int, offset: int) -> Topic:
    """The topic, when it is declared and has this partition.

    Raises:
        ConfigError: no such topic (close names are listed), partition or offset.
    """
    known = topics.get(topic)
    if known is None:
        raise ConfigError(unknown_name(topic, list(topics), what="topic"), path=f"topics.{topic}")
    if not 0 <= partition < known.spec.partitions or offset < 0:
        msg = f"partition {partition}, offset {offset}; expected 0 to {known.spec.partitions - 1}, and 0 or more"
        raise ConfigError(msg, path=f"topics.{topic}")
    return known


def declaration_difference(old: TopicSpec, new: TopicSpec) -> str | None:
    """In which fields two declarations of one topic differ, in words; None when they agree.

    The schema is left out: whether and how it may change is the schema's own rule. The largest event may grow: see
    `grown`.
    """
    found = _differences(old, new, _AGREED)
    if new.event_bytes_max < old.event_bytes_max:
        found.append(
            f"event_bytes_max is declared as {old.event_bytes_max}, here {new.event_bytes_max}: it may grow and not "
            "shrink, for events of that size may be recorded"
        )
    return "; ".join(found) or None


def grown(old: TopicSpec, new: TopicSpec) -> TopicSpec:
    """The recorded declaration with what a later one may change: the largest event, what is kept and remembered."""
    largest = max(old.event_bytes_max, new.event_bytes_max)
    kept, dedupe = new.retention or old.retention, new.dedupe or old.dedupe
    return msgspec.structs.replace(old, event_bytes_max=largest, retention=kept, dedupe=dedupe)


def check_declared_alike(old: TopicSpec, new: TopicSpec) -> None:
    """Compare.

    Raises:
        DeclaredDifferently: names every differing field and the way out.
    """
    found = declaration_difference(old, new)
    if found:
        msg = f"topic {old.name}: {found}; declare it as it was, or use another topic name"
        raise DeclaredDifferently(msg)


def check_evolution(recorded: Iterable[Mapping[str, Any]], new: TopicSpec) -> None:
    """Whether events can be read with `new` that were recorded with any type the topic ever had.

    The newest alone would not do: a field that was removed can come back as something else in two compatible steps.

    Raises:
        SchemaIncompatible: names every change that prevents it.
    """
    if new.schema is None:
        return
    wanted = dict(new.schema)
    for schema in recorded:
        if schema != wanted:
            _check_readable(dict(schema), wanted, new.name)


def _check_readable(old: dict[str, Any], new: dict[str, Any], topic: str) -> None:
    from penstock.schema import check_backward  # noqa: PLC0415  loaded on use: most programs never change a type

    breaking = check_backward(old, new)
    if breaking:
        text = "; ".join(f"{change.path}: {change.what} ({change.way_out})" for change in breaking)
        msg = f"topic {topic}: the type changed so that recorded events could not be read: {text}"
        raise SchemaIncompatible(msg)


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
    total = sum(map(bytes_of, batches))
    if total > TOGETHER_BYTES_MAX:
        return f"{total} bytes at once; at most {TOGETHER_BYTES_MAX} are stored together: split them"
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


def _refuse_batch(batch: NewBatch, topic: Topic | None) -> str:  # noqa: PLR0911  one check after the other
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
    for name, time in (("time_min_us", batch.time_min_us), ("time_max_us", batch.time_max_us)):
        if time is not None and not -_INTEGER_MAX <= time <= _INTEGER_MAX:
            return f"topic {spec.name}: {name} is {time}; expected microseconds since 1970 in 64 bits"
    if isinstance(batch.payload, Rows):
        return _refuse_rows(batch.payload, spec)
    return _refuse_columns(batch.payload, spec)


def _refuse_rows(rows: Rows, spec: TopicSpec) -> str:
    count, total = len(rows.lengths), sum(rows.lengths)
    if len(rows.body) != total + count - 1:
        return (
            f"topic {spec.name}: {len(rows.body)} body bytes, and lengths that add up to {total}; expected {count - 1} "
            "newlines more than the lengths"
        )
    size = max(rows.lengths)
    if size <= spec.event_bytes_max:
        return ""
    return f"topic {spec.name}: event {rows.lengths.index(size)} has {size} bytes; {_limit(spec)}"


def _refuse_columns(columns: Columns, spec: TopicSpec) -> str:
    if spec.arrow is None:
        return f"topic {spec.name} has no Arrow schema and the payload is columns; publish rows, or declare a type"
    table, expected = columns.table, blocks.arrow_schema(spec.arrow)
    if not table.schema.equals(expected):
        found = ", ".join(f"{f.name}: {f.type}" for f in table.schema if f not in list(expected)) or "another order"
        wanted = ", ".join(f"{f.name}: {f.type}{'' if f.nullable else ' not null'}" for f in expected)
        return f"topic {spec.name}: columns that differ from the declared ones ({found}); expected {wanted}: cast them"
    over = sizes.row_over(table, spec.event_bytes_max)
    return "" if over is None else f"topic {spec.name}: event {over[0]} has {over[1]} bytes; {_limit(spec)}"


def _limit(spec: TopicSpec) -> str:
    return (
        f"the limit is {spec.event_bytes_max}: raise topics.{spec.name}.event_bytes_max (a flow's own results take "
        "that of the topic it reads), or store the body elsewhere and publish a reference"
    )


def bytes_of(batch: NewBatch | Delivered) -> int:
    """About how many bytes a batch takes in memory."""
    return len(batch.payload.body) if isinstance(batch.payload, Rows) else batch.payload.table.nbytes


def refuse_publish(publish: Publish) -> str:
    """Why nobody could store this publish, whatever its batches; empty when one could."""
    name = publish.producer
    reason = refuse_producer(name)
    if reason:
        return reason
    for field, value in (("epoch", publish.epoch), ("sequence", publish.sequence)):
        if not 0 <= value < OFFSET_MAX:
            return f"producer {name}: {field} is {value}; expected 0 to {OFFSET_MAX - 1}"
    if len(publish.note) > NOTE_BYTES_MAX:
        return f"producer {name}: a note of {len(publish.note)} bytes; at most {NOTE_BYTES_MAX} are kept"
    return "" if publish.batches else f"producer {name}: a publish without batches; expected at least one"


def check_producer(name: str) -> None:
    """Whether a producer may be called that.

    Raises:
        ConfigError: it may not.
    """
    reason = refuse_producer(name)
    if reason:
        raise ConfigError(reason)


def refuse_producer(name: str) -> str:
    """Why nobody can be called that; empty when somebody can."""
    if 1 <= len(name) <= PRODUCER_CHARACTERS_MAX and name.isprintable():
        return ""
    return f"producer {name[:50]!r}: expected 1 to {PRODUCER_CHARACTERS_MAX} printable characters"


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
    """How a publish was answered: the checksum of its content, and each batch's first offset; the note it came with."""

    content: int
    first: Sequence[int]
    note: bytes = b""


class Producer(msgspec.Struct, frozen=True):
    """What is known of a producer: its newest epoch, the next sequence there, and answers still remembered.

    `answers` maps (epoch, sequence) to the answer, of the newest ones; sequence -1 says that the epoch has begun.
    """

    epoch: int
    expected: int
    answers: Mapping[tuple[int, int], Answer]


class Fresh(msgspec.Struct, frozen=True):
    """Store it: this is the next sequence."""


class Repeat(msgspec.Struct, frozen=True):
    """Store nothing and answer with the original offsets."""

    first: Sequence[int]


def decide_sequence(stored: Producer | None, publish: Publish, content: int) -> Fresh | Repeat | decide.Refused:
    """What a publish's (producer, epoch, sequence) means, given what is stored of the producer.

    `content` is `content_of(publish.batches)`. See `penstock.log.decide.sequence`.
    """
    who = (publish.producer, publish.epoch, publish.sequence)
    answers = {} if stored is None else stored.answers
    newest = None if stored is None else (stored.epoch, stored.expected - 1)
    meant = decide.sequence(publish.producer, newest, epoch=publish.epoch, number=publish.sequence)
    if isinstance(meant, decide.Refused):
        return meant
    if meant == "next":
        return Fresh()
    assert stored is not None
    answer = answers.get((publish.epoch, publish.sequence))
    if answer is None:
        last = max((number for epoch, number in answers if epoch == publish.epoch), default=None)
        return decide.missing(who[0], stored.epoch, epoch=who[1], number=who[2], last=last)
    return Repeat(answer.first) if answer.content == content else decide.conflict(*who)


# -- steps ---------------------------------------------------------------------------------------------------------


class Progress(msgspec.Struct, frozen=True):
    """How far a group is on one partition: its owner's epoch, the floor, and what is settled above it, ascending.

    `steps` counts what was committed; `oldest` see `Settle`.
    """

    epoch: int
    floor: int
    holes: Sequence[int] = ()
    steps: int = 0
    oldest: int | None = None


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
    move = decide.Move(
        step.owned.epoch, settle.floor_before, settle.floor_after, settle.holes, settle.number, settle.oldest
    )
    decided = decide.step(where(step), (progress.epoch, progress.floor, progress.steps), move, tip=tip)
    if isinstance(decided, decide.Fence):
        return FencedOff(decided.reason)
    if isinstance(decided, decide.Refused):
        raise Rejected(f"{decided.reason}; nothing of the step was stored")
    return Progress(progress.epoch, settle.floor_after, decided, progress.steps + 1, settle.oldest)


def where(step: Step) -> str:
    """Group, topic and partition of a step, for people."""
    return f"group {step.group}, topic {step.owned.topic}, partition {step.owned.partition}"


def order_of(step: Step) -> tuple[int, int]:
    """Orders the steps of one assignment: by number, where they have one, when they move no floor."""
    return step.settle.floor_before, step.settle.number or 0


def origin_of(step: Step) -> str:
    """Who wrote a step's outputs; ids of outputs without their own are derived from it, so no two steps share one."""
    settle = step.settle
    # What moves no floor leaves it to be the beginning of another step.
    own = "" if settle.floor_after > settle.floor_before or settle.number is None else f".{settle.number}"
    return f"{step.group}:{step.owned.topic}:{step.owned.partition}:{settle.floor_before}{own}"


# -- what is handed out --------------------------------------------------------------------------------------------


def head(delivered: Delivered, count: int) -> Delivered:
    """The first `count` events of a batch (all of it when it has no more); ids do not change."""
    if count >= delivered.count:
        return delivered
    attributes = {name: values[:count] for name, values in delivered.payload.attributes.items()}
    if isinstance(rows := delivered.payload, Rows):
        lengths = rows.lengths[:count]
        payload: Rows | Columns = Rows(rows.body[: sum(lengths) + count - 1], lengths, attributes, rows.valid)
    else:
        payload = Columns(delivered.payload.table.slice(0, count), attributes)
    return msgspec.structs.replace(delivered, count=count, payload=payload)


def cut(batches: Sequence[Delivered], offset: int, events_max: int) -> list[Delivered]:
    """The events from `offset` on, at most `events_max`, of batches in offset order."""
    out: list[Delivered] = []
    for batch in batches:
        if events_max <= 0:
            break
        if batch.end > offset:
            out.append(head(batch.tail(offset), events_max))
            events_max -= out[-1].count
    return out


def meets(batch: Delivered, scan: Scan) -> bool:
    """Whether the batch may hold events of the scan's time range; one of unknown times may."""
    early = scan.time_from_us is not None and batch.time_max_us is not None and batch.time_max_us < scan.time_from_us
    late = scan.time_to_us is not None and batch.time_min_us is not None and batch.time_min_us >= scan.time_to_us
    return not early and not late


def within(batches: Sequence[Delivered], bytes_max: int) -> Sequence[Delivered]:
    """As many of the batches, from the first on, as fit in about `bytes_max` bytes; at least one if there is one."""
    size = 0
    for index, batch in enumerate(batches):
        size += bytes_of(batch)
        if size > bytes_max and index:
            return batches[:index]
    return batches
