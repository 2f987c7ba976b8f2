"""The embedded driver: declarations, publishing and reading over a log port.

Delivery guarantee: atomic steps; acked events survive a power loss of the disk (D2) at durability `full`, the death
of the process (D1) at `normal`; order per key and per partition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import apsw
import msgspec

from penstock.channel import ids, rules
from penstock.channel.api import (
    Acked,
    Capabilities,
    Duplicate,
    Intake,
    ProducerState,
    Publish,
    Refused,
    Scan,
    Subscription,
    Topic,
    TopicSpec,
    Unknown,
)
from penstock.channel.drivers.embedded import declare, wire
from penstock.channel.drivers.embedded.intake import EmbeddedIntake
from penstock.channel.drivers.embedded.port import LogPort, RealPort
from penstock.channel.drivers.embedded.turn import EmbeddedTurn
from penstock.errors import Closed, ConfigError, Fenced, OutcomeUnknown
from penstock.event.batch import Delivered, NewBatch
from penstock.log import ages, catalogue, placed, producers, quarantine
from penstock.log.api import Append, Appended, Begin, Begun, Block, Refusal, Result, Span, Stored, TopicRow
from penstock.log.log import LogConfig
from penstock.system.leases import LEASE_S
from penstock.system.ports import System

INLINE_BYTES = 64 * 1024
READ_BYTES_MAX = 1 << 26


class _Known(msgspec.Struct, frozen=True):
    """A topic as the log has it, and as this handle writes to it."""

    row: TopicRow
    topic: Topic


class EmbeddedChannel:
    """A channel over one log directory (or over any `LogPort`).

    Used from one event loop; `publish_blocking` from any thread. A member of a group whose process stands still for
    `lease_s` loses its partitions to others.
    """

    def __init__(
        self,
        directory: Path | None,
        *,
        system: System,
        config: LogConfig | None = None,
        port: LogPort | None = None,
        lease_s: float = LEASE_S,
    ) -> None:
        self.directory = directory
        self._system = system
        self._config = config or LogConfig()
        self._port = port
        self._lease_s = lease_s
        self._known: dict[str, _Known] = {}
        self._written: dict[str, int] = {}
        self._arrow: dict[int, bytes | None] = {}
        self._intakes: list[EmbeddedIntake] = []
        self._closed = False
        self.capabilities = Capabilities(
            order="key",
            replayable=True,
            holds="none",
            counts_deliveries=False,
            step="atomic",
            exclusive_partitions=True,
            ledger="channel",
            idempotent_publish=True,
            fenced=True,
            durability="D2" if self._config.durability == "full" else "D1",
            remembers_producers=True,
            blocking=True,
            columnar=True,
            deduplicates=True,
        )

    # -- declarations ----------------------------------------------------------------------------------------------

    async def open(self, topics: Sequence[TopicSpec]) -> Mapping[str, Topic]:
        """See `Channel`. Without topics it only opens the log and learns what is declared there."""
        for spec in topics:
            rules.check_topic(spec, ())
        await self._open_port()
        ids = self.port.look(lambda db: declare.declared(db, topics))
        if ids is None:
            ids = await self.port.write(lambda db: declare.declare(db, topics))
        # Another program may go on to a newer type: this one writes what it has declared.
        self._written.update({spec.name: ids[spec.name] for spec in topics if spec.schema is not None})
        self.refresh()
        return {spec.name: self._known[spec.name].topic for spec in topics}

    async def _open_port(self) -> None:
        if self._closed:
            msg = "this channel was closed; make another"
            raise Closed(msg)
        if self._port is None:
            assert self.directory is not None
            directory = self.directory
            self._port = await self._system.offload.run(
                lambda: RealPort(directory, self._system, self._config, lease_s=self._lease_s)
            )

    def refresh(self) -> None:
        """Learn what other programs have declared since."""
        for row in self.port.look(catalogue.topics):
            known = self._known.get(row.name)
            schema_id = self._written.get(row.name, row.schema_id)
            if known is None or (known.row, known.topic.schema_id) != (row, schema_id):
                spec = wire.spec_from_json(row.spec)
                topic = self.port.look(lambda db, s=spec, i=schema_id: declare.with_schema(db, s, i))
                self._known[row.name] = _Known(row, topic)

    @property
    def port(self) -> LogPort:
        """The open log.

        Raises:
            Closed: the channel was closed.
            ConfigError: it was not opened.
        """
        if self._closed:
            msg = "this channel was closed; make another"
            raise Closed(msg)
        if self._port is None:
            msg = "the channel is not open; call open() first"
            raise ConfigError(msg)
        return self._port

    def topics(self) -> dict[str, Topic]:
        """Every topic of the log, by name."""
        self.refresh()
        return {name: known.topic for name, known in self._known.items()}

    def topic(self, name: str) -> Topic:
        """One declared topic; of those this handle declared with a type, with that type, else with the newest.

        Raises:
            ConfigError: no such topic; close names are listed.
        """
        return self._find(name).topic

    def row(self, name: str) -> TopicRow:
        """The topic's row in the log; see `topic`."""
        return self._find(name).row

    def _find(self, name: str) -> _Known:
        known = self._look_up(name)
        if known is None:
            raise ConfigError(rules.unknown_name(name, list(self._known), what="topic"), path=f"topics.{name}")
        return known

    def _look_up(self, name: str) -> _Known | None:
        if name not in self._known:
            self.refresh()
        return self._known.get(name)

    # -- publishing ------------------------------------------------------------------------------------------------

    async def publish(self, publish: Publish) -> Acked | Refused | Unknown:
        """See `Channel`."""
        reason = rules.refuse_publish(publish) or self.refuse(publish.batches)
        if reason:
            return Refused(reason)
        blocks = await self.encode(publish.batches)
        try:
            return _answer(await (await self.port.queue(_request(publish, blocks))))
        except OutcomeUnknown as exc:
            return Unknown(str(exc))

    def publish_blocking(self, publish: Publish) -> Acked | Refused | Unknown:
        """See `Blocking`."""
        reason = rules.refuse_publish(publish) or self.refuse(publish.batches)
        if reason:
            return Refused(reason)
        try:
            return _answer(self.port.apply(_request(publish, self._encode(publish.batches))))
        except OutcomeUnknown as exc:
            return Unknown(str(exc))

    def publish_at_once(self, publish: Publish) -> Acked | Refused | Unknown | None:
        """As `publish_blocking`; None where it would have to wait for others, and nothing was stored.

        No lock of Python's is taken in it, so that a KeyboardInterrupt leaves none behind; for one caller at a time.
        When it is interrupted, `forsake` must be called, in another thread.
        """
        reason = rules.refuse_publish(publish) or self.refuse(publish.batches)
        if reason:
            return Refused(reason)
        try:
            result = self.port.apply_at_once(_request(publish, self._encode(publish.batches)))
        except OutcomeUnknown as exc:
            return Unknown(str(exc))
        return None if result is None else _answer(result)

    def forsake(self) -> None:
        """Undo what an interrupted `publish_at_once` has left in the log."""
        if self._port is not None:
            self._port.forsake()

    def refuse(self, batches: Sequence[NewBatch]) -> str:
        """Why these batches cannot be stored; empty when they can. The log itself looks after its offsets."""
        topics: dict[str, Topic] = {}
        for batch in batches:
            known = self._look_up(batch.topic)
            if known is not None:
                topics[batch.topic] = known.topic
        return rules.refuse_batches(batches, topics, {}) or ids.refuse(batches, topics)

    async def encode(self, batches: Sequence[NewBatch]) -> list[Block]:
        """Encode batches as blocks, off the loop when there is much of it."""
        if sum(map(rules.bytes_of, batches)) <= INLINE_BYTES:
            return self._encode(batches)
        return await self._system.offload.run(lambda: self._encode(batches))

    def _encode(self, batches: Sequence[NewBatch]) -> list[Block]:
        return [self._block(batch, self._known[batch.topic]) for batch in batches]

    def _block(self, batch: NewBatch, known: _Known) -> Block:
        pid, topic = known.row.pids[batch.partition], known.topic
        return wire.to_block(batch, pid=pid, schema_id=topic.schema_id, horizon=topic.spec.dedupe)

    async def new_epoch(self, name: str, *, after: int | None = None) -> int:
        """See `Producers`: one transaction."""
        rules.check_producer(name)
        result = await (await self.port.queue(Begin(name, after)))
        if isinstance(result, Refusal):
            raise Fenced(result.reason)
        assert isinstance(result, Begun)
        return result.epoch

    async def producer(self, name: str) -> ProducerState | None:
        """See `Producers`."""
        found = self.port.look(lambda db: producers.newest(db, name))
        return None if found is None else ProducerState(found.epoch, found.sequence, found.note)

    async def notes(self, name: str, epoch: int, *, start: int, count: int) -> Sequence[tuple[int, bytes]]:
        """See `Producers`."""
        return self.port.look(lambda db: producers.notes(db, name, epoch=epoch, start=start, count=count))

    # -- reading ---------------------------------------------------------------------------------------------------

    async def join(self, subscription: Subscription) -> Intake:
        """See `Channel`."""
        spec = subscription.group
        rules.check_name(spec.name, what="group")
        row = self.row(spec.topic)
        group = self.port.look(lambda db: declare.known_group(db, spec))
        if group is None:
            group = await self.port.write(lambda db: declare.declare_group(db, spec, row))
        intake = EmbeddedIntake(self, subscription, group=group, topic=row, system=self._system)
        self._intakes = [*(known for known in self._intakes if not known.left), intake]
        return intake

    def turn(self, name: str, label: str) -> EmbeddedTurn:
        """What one process at a time does on this log; see `EmbeddedTurn`. The caller closes it."""
        return EmbeddedTurn(self.port, name, label)

    async def read(self, topic: str, partition: int, offset: int, *, events_max: int) -> Sequence[Delivered]:
        """See `Channel`."""
        stored = self._stored(Scan(topic, partition, offset), events_max=events_max)
        return rules.cut(self.decode(stored, topic, partition), offset, events_max)

    async def scan(self, scan: Scan, *, events_max: int) -> Sequence[Delivered]:
        """See `Columnar`."""
        stored = self._stored(scan, events_max=events_max, kept=True)
        if scan.end is not None and scan.start >= scan.end:
            return []
        batches = self.decode(stored, scan.topic, scan.partition, columns=scan.columns)
        return [_within(batch, scan) for batch in batches]

    async def tips(self, topic: str) -> Sequence[int]:
        """See `Columnar`."""
        pids = self.row(topic).pids
        return self.port.look(lambda db: [placed.next_offset(db, pid) for pid in pids])

    async def begins(self, topic: str) -> Sequence[int]:
        """Of each partition the first offset that is kept; see `Retention`."""
        pids = self.row(topic).pids
        return self.port.look(lambda db: [placed.known(db, pid).begin for pid in pids])

    async def passed(self, topic: str, partition: int, offset: int) -> int:
        """Where what is quarantined from `offset` on ends; `offset` itself when nothing is."""
        pid = self.row(topic).pids[partition]
        while (found := self.port.look(lambda db, at=offset: quarantine.covering(db, pid, at))) is not None:
            offset = found.end
        return offset

    def ages(self, db: apsw.Connection) -> ages.Ages:
        """What the clocks say now of how old the log's contents are; notes nothing."""
        clock = self._system.clock
        return ages.moved(ages.known(db), now_us=clock.now_us(), monotonic_us=int(clock.monotonic_s() * 1_000_000))

    def _stored(self, scan: Scan, *, events_max: int, kept: bool = False) -> list[Stored]:
        """The blocks that meet the scan; with `kept` those that retention has removed are not missed."""
        known = self._find(scan.topic)
        rules.check_place({scan.topic: known.topic}, scan.topic, scan.partition, scan.start)
        span = Span(
            known.row.pids[scan.partition],
            scan.start,
            rules.OFFSET_MAX if scan.end is None else scan.end,
            scan.time_from_us,
            scan.time_to_us,
        )
        name = f"topic {scan.topic}/{scan.partition}"

        def read(db: apsw.Connection) -> list[Stored]:
            wanted = placed.kept(db, span) if kept else span
            return placed.read(db, wanted, events_max=events_max, bytes_max=READ_BYTES_MAX, name=name)

        return self.port.look(read)

    def decode(
        self, stored: Sequence[Stored], topic: str, partition: int, *, columns: Sequence[str] | None = None
    ) -> list[Delivered]:
        """Decode blocks of one partition, of columns only those of `columns`."""
        return [
            wire.to_delivered(
                block, topic=topic, partition=partition, arrow=self.arrow(block.schema_id), columns=columns
            )
            for block in stored
        ]

    def arrow(self, schema_id: int) -> bytes | None:
        """The serialised Arrow schema of a schema id; None for topics of raw bytes."""
        if schema_id == 0:
            return None
        if schema_id not in self._arrow:
            found = self.port.look(lambda db: catalogue.schema(db, schema_id))
            self._arrow[schema_id] = None if found is None else found[1]
        return self._arrow[schema_id]

    async def close(self) -> None:
        """See `Channel`."""
        self._closed = True
        for intake in self._intakes:
            await intake.leave()
        self._intakes.clear()
        if self._port is not None:
            await self._port.close()


def _request(publish: Publish, blocks: list[Block]) -> Append:
    return Append(publish.producer, publish.epoch, publish.sequence, blocks, publish.note)


def _answer(result: Result) -> Acked | Refused:
    if isinstance(result, Refusal):
        duplicates = [Duplicate(d.block, d.index, d.partition, d.offset, d.same) for d in result.repeated]
        return Refused(result.reason, result.conflict, duplicates)
    assert isinstance(result, Appended)
    return Acked(result.first, result.repeated)


def _within(batch: Delivered, scan: Scan) -> Delivered:
    """The part of the batch that lies in the scan's offsets."""
    if scan.end is not None and batch.end > scan.end:
        batch = rules.head(batch, scan.end - batch.first)
    return batch.tail(scan.start)
