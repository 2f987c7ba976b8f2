"""What a channel remembers and how each request changes it: plain values, no waiting, no I/O.

Delivery guarantee: atomic steps, at durability D0; order per key and per partition. Read this to learn the semantics.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import msgspec

from penstock.channel import ids, rules
from penstock.channel.api import (
    Acked,
    Assigned,
    Committed,
    FencedOff,
    GroupSpec,
    Owned,
    ProducerState,
    Publish,
    Refused,
    Scan,
    Settle,
    Step,
    Topic,
    TopicSpec,
)
from penstock.channel.drivers.memory.config import MemoryConfig
from penstock.channel.drivers.memory.ids import EventIds
from penstock.errors import ConfigError, LogFull, Rejected
from penstock.event.batch import Columns, Delivered, NewBatch
from penstock.log import decide

Place = tuple[str, int]
"""(topic, partition)."""


class RecordedStep(msgspec.Struct, frozen=True):
    """A committed step: what it settled, and the ranges (topic, partition, first, end) it wrote."""

    group: str
    owned: Owned
    settle: Settle
    outputs: Sequence[tuple[str, int, int, int]]
    at_us: int


class _Group(msgspec.Struct):
    spec: GroupSpec
    progress: dict[int, rules.Progress]
    ledger: dict[int, dict[tuple[str, bytes], bytes]]
    steps: dict[int, list[RecordedStep]]


class Memory:
    """The state that every `MemoryChannel` handle on it shares. Owned by one event loop; each call is atomic."""

    def __init__(self, config: MemoryConfig | None = None, *, name: str = "memory") -> None:
        self.config = config or MemoryConfig()
        self.name = name
        self.incarnation = 1
        self.topics: dict[str, Topic] = {}
        self.tips: dict[Place, int] = {}
        self._schemas: list[TopicSpec] = []
        self._blocks: dict[Place, list[Delivered]] = {}
        self._producers: dict[str, rules.Producer] = {}
        self._answers: dict[str, dict[tuple[int, int], rules.Answer]] = {}
        self._newest: dict[str, ProducerState] = {}
        self._groups: dict[str, _Group] = {}
        self._events = 0
        self._ids = EventIds()

    # -- declarations ----------------------------------------------------------------------------------------------

    def declare(self, specs: Sequence[TopicSpec]) -> dict[str, Topic]:
        """All of them or, when one is refused, none."""
        before = dict(self.topics), list(self._schemas)
        try:
            for spec in specs:
                self.topics[spec.name] = self._declared(spec)
        except BaseException:
            self.topics, self._schemas = before
            raise
        return {spec.name: self.topics[spec.name] for spec in specs}

    def _declared(self, spec: TopicSpec) -> Topic:
        rules.check_topic(spec, self.topics)
        old = self.topics.get(spec.name)
        if old is None:
            return Topic(spec, self._schema_id(spec))
        rules.check_declared_alike(old.spec, spec)
        if spec.schema is None:
            return Topic(rules.grown(old.spec, spec), old.schema_id)
        recorded = [known.schema for known in self._schemas if known.name == spec.name and known.schema is not None]
        rules.check_evolution(recorded, spec)
        kept, dedupe = spec.retention or old.spec.retention, spec.dedupe or old.spec.dedupe
        return Topic(msgspec.structs.replace(spec, retention=kept, dedupe=dedupe), self._schema_id(spec))

    def _schema_id(self, spec: TopicSpec) -> int:
        """1, 2, … in the order of first use; 0 for raw bytes; the same schema of a topic has one id."""
        if spec.schema is None:
            return 0
        for number, known in enumerate(self._schemas, 1):
            if (known.name, known.schema, known.arrow) == (spec.name, spec.schema, spec.arrow):
                return number
        self._schemas.append(spec)
        return len(self._schemas)

    def declare_group(self, spec: GroupSpec) -> None:
        """Record the group; a new one begins at the start or, with `latest`, after what is recorded now."""
        rules.check_name(spec.name, what="group")
        if spec.topic not in self.topics:
            msg = rules.unknown_name(spec.topic, list(self.topics), what="topic")
            raise ConfigError(msg, path=f"groups.{spec.name}.topic")
        old = self._groups.get(spec.name)
        if old is not None:
            rules.check_group_alike(old.spec, spec)
            return
        partitions = range(self.topics[spec.topic].spec.partitions)
        floors = [self.tips.get((spec.topic, p), 0) if spec.start == "latest" else 0 for p in partitions]
        self._groups[spec.name] = _Group(
            spec,
            progress={p: rules.Progress(0, floors[p]) for p in partitions},
            ledger={p: {} for p in partitions},
            steps={p: [] for p in partitions},
        )

    # -- events ----------------------------------------------------------------------------------------------------

    def publish(self, publish: Publish, *, now_us: int) -> Acked | Refused:
        """Store it, answer a repetition, or say why not; a refused publish does not use its sequence up."""
        reason = rules.refuse_publish(publish)
        if reason:
            return Refused(reason)
        content = rules.content_of(publish.batches)
        match rules.decide_sequence(self._producers.get(publish.producer), publish, content):
            case decide.Refused(reason=reason, conflict=conflict):
                return Refused(reason, conflict)
            case rules.Repeat(first=first):
                return Acked(first, repeated=True)
            case rules.Fresh():
                batches = publish.batches
                reason = rules.refuse_batches(batches, self.topics, self.tips) or ids.refuse(batches, self.topics)
                reason = reason or self._full(batches)
                if reason:
                    return Refused(reason)
                duplicates = self._ids.duplicates(batches, self.topics, self.tips)
                if duplicates:
                    return Refused(f"{len(duplicates)} events have ids that are recorded already", "id", duplicates)
                origin = f"{publish.producer}/{publish.epoch}/{publish.sequence}"
                first = self._store(batches, origin=origin, now_us=now_us)
                self._ids.remember(batches, self.topics, first, now_us=now_us)
                state = ProducerState(publish.epoch, publish.sequence, publish.note)
                self._remember(publish.producer, state, rules.Answer(content, first, publish.note))
                return Acked(first)

    def new_epoch(self, name: str, *, after: int | None, now_us: int) -> int | decide.Refused:
        """The epoch that has begun, or why none has; see `Producers.new_epoch`."""
        newest = self._newest.get(name)
        epoch = decide.new_epoch(name, None if newest is None else newest.epoch, after=after, now_us=now_us)
        if isinstance(epoch, int):
            note = b"" if newest is None else newest.note
            self._remember(name, ProducerState(epoch, -1, note), rules.Answer(0, ()))
        return epoch

    def _remember(self, name: str, state: ProducerState, answer: rules.Answer) -> None:
        answers = self._answers.setdefault(name, {})
        answers[state.epoch, state.sequence] = answer
        self._newest[name] = state
        while len(answers) > self.config.answers_max:
            del answers[next(iter(answers))]
        self._producers[name] = rules.Producer(state.epoch, state.sequence + 1, answers)

    def _full(self, batches: Sequence[NewBatch]) -> str:
        count = self._events + sum(batch.count for batch in batches)
        if count <= self.config.events_max:
            return ""
        return f"{count} events; MemoryConfig.events_max is {self.config.events_max}: raise it, or use the embedded log"

    def _store(self, batches: Sequence[NewBatch], *, origin: str, now_us: int) -> list[int]:
        first: list[int] = []
        base: dict[Place, int] = {}
        for batch in batches:
            place = (batch.topic, batch.partition)
            offset = self.tips.get(place, 0)
            first.append(offset)
            self.tips[place] = offset + batch.count
            self._events += batch.count
            block = Delivered(
                topic=batch.topic,
                partition=batch.partition,
                first=offset,
                count=batch.count,
                payload=batch.payload,
                recorded_us=now_us,
                schema_id=self.topics[batch.topic].schema_id,
                time_min_us=batch.time_min_us,
                time_max_us=batch.time_max_us,
                origin=origin,
                base=base.setdefault(place, offset),
            )
            self._blocks.setdefault(place, []).append(block)
        return first

    def read(self, place: Place, offset: int, *, events_max: int) -> list[Delivered]:
        """At most `events_max` events from `offset` on, in order and without a gap; empty at the end."""
        return rules.cut(self._from(place, offset), offset, events_max)

    def scan(self, scan: Scan, *, events_max: int) -> list[Delivered]:
        """See `Columnar.scan`."""
        end = rules.OFFSET_MAX if scan.end is None else scan.end
        out: list[Delivered] = []
        room = events_max
        for block in self._from((scan.topic, scan.partition), scan.start):
            if room <= 0 or max(block.first, scan.start) >= end:
                break
            if rules.meets(block, scan):
                wanted = rules.head(block.tail(scan.start), end - max(block.first, scan.start))
                room -= wanted.count
                out.append(_with_columns(wanted, scan.columns))
        return out

    def producer(self, name: str) -> ProducerState | None:
        """See `Producers.producer`."""
        return self._newest.get(name)

    def notes(self, name: str, epoch: int, *, start: int, count: int) -> list[tuple[int, bytes]]:
        """See `Producers.notes`."""
        known = self._producers.get(name)
        if known is None:
            return []
        numbers = sorted(number for of, number in known.answers if of == epoch and number >= start)
        return [(number, known.answers[epoch, number].note) for number in numbers[:count]]

    def _from(self, place: Place, offset: int) -> list[Delivered]:
        blocks = self._blocks.get(place, [])
        low, high = 0, len(blocks)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if blocks[middle].end <= offset else (low, middle)
        return blocks[low:]

    # -- groups ----------------------------------------------------------------------------------------------------

    def partitions(self, group: str) -> Sequence[int]:
        """The numbers of the group's partitions."""
        return list(self._groups[group].progress)

    def claim(self, group: str, spaces: Sequence[str], *, partitions: Sequence[int] | None = None) -> list[Assigned]:
        """A new owner of these partitions (None: all): each epoch goes up by one, which fences the one before."""
        state = self._groups[group]
        out: list[Assigned] = []
        for partition in self.partitions(group) if partitions is None else partitions:
            progress = state.progress[partition]
            mine = msgspec.structs.replace(progress, epoch=progress.epoch + 1)
            state.progress[partition] = mine
            entries = sorted(state.ledger[partition].items())
            ledger = [(space, key, value) for (space, key), value in entries if not spaces or space in spaces]
            owned = Owned(state.spec.topic, partition, mine.epoch)
            out.append(
                Assigned(owned, mine.floor, mine.holes, ledger, self.name, self.incarnation, mine.steps, mine.oldest)
            )
        return out

    def commit(self, step: Step, *, now_us: int) -> Committed | FencedOff:
        """All of the step or nothing of it; the fence is checked here."""
        state = self._groups.get(step.group)
        partition = step.owned.partition
        if state is None or step.owned.topic != state.spec.topic or partition not in state.progress:
            msg = f"group {step.group} has no {step.owned.topic}/{partition}; commit what was assigned"
            raise Rejected(msg)
        tip = self.tips.get((step.owned.topic, partition), 0)
        decided = rules.decide_step(state.progress[partition], step, tip=tip)
        if isinstance(decided, FencedOff):
            return decided
        reason = rules.refuse_batches(step.outputs, self.topics, self.tips)
        if reason:
            raise Rejected(f"group {step.group}, output {reason}; nothing of the step was stored")
        full = self._full(step.outputs)
        if full:
            raise LogFull(full)
        first = self._store(step.outputs, origin=rules.origin_of(step), now_us=now_us)
        self._apply(state, step, decided)
        self._record(state, step, first, now_us)
        return Committed(first)

    def _apply(self, state: _Group, step: Step, decided: rules.Progress) -> None:
        partition = step.owned.partition
        state.progress[partition] = decided
        ledger = state.ledger[partition]
        for write in step.ledger:
            if write.value is None:
                ledger.pop((write.space, write.key), None)
            else:
                ledger[write.space, write.key] = write.value

    def _record(self, state: _Group, step: Step, first: Sequence[int], now_us: int) -> None:
        outputs = [(b.topic, b.partition, f, f + b.count) for b, f in zip(step.outputs, first, strict=True)]
        steps = state.steps[step.owned.partition]
        steps.append(RecordedStep(step.group, step.owned, step.settle, outputs, now_us))
        del steps[: -self.config.steps_max]

    # -- looking ---------------------------------------------------------------------------------------------------

    def progress(self, group: str) -> dict[int, rules.Progress]:
        """Partition → how far the group is."""
        return dict(self._groups[group].progress)

    def ledger(self, group: str, partition: int) -> dict[tuple[str, bytes], bytes]:
        """(space, key) → value, as last committed."""
        return dict(self._groups[group].ledger[partition])

    def steps(self, group: str, partition: int) -> list[RecordedStep]:
        """The recorded steps, oldest first."""
        return list(self._groups[group].steps[partition])

    def gaps(self) -> list[str]:
        """Places where two neighbouring blocks do not meet: none, unless this model is wrong."""
        return [
            f"{place}: {a.end} then {b.first}"
            for place, blocks in self._blocks.items()
            for a, b in pairwise(blocks)
            if a.end != b.first
        ]


def _with_columns(batch: Delivered, names: Sequence[str] | None) -> Delivered:
    if names is None or not isinstance(batch.payload, Columns):
        return batch
    table = batch.payload.table
    kept = Columns(table.select([n for n in table.schema.names if n in names]), batch.payload.attributes)
    return msgspec.structs.replace(batch, payload=kept)
