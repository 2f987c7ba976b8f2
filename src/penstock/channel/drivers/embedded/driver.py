"""The embedded driver: declarations, publishing and reading over a log port.

Delivery guarantee: atomic steps; acked events survive a power loss of the disk (D2) at durability `full`, the death
of the process (D1) at `normal`; order per key and per partition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import apsw
import msgspec

from penstock.channel import rules
from penstock.channel.api import (
    Acked,
    Capabilities,
    GroupSpec,
    Intake,
    Publish,
    Refused,
    Subscription,
    Topic,
    TopicSpec,
    Unknown,
)
from penstock.channel.drivers.embedded import wire
from penstock.channel.drivers.embedded.intake import EmbeddedIntake
from penstock.channel.drivers.embedded.port import LogPort, RealPort
from penstock.errors import ConfigError, DeclaredDifferently, OutcomeUnknown, SchemaIncompatible
from penstock.event.batch import Delivered, NewBatch
from penstock.log import catalogue
from penstock.log.api import Append, Appended, Block, GroupRow, Refusal, Stored, TopicRow
from penstock.log.log import LogConfig
from penstock.schema import check_backward
from penstock.system.ports import System

_json = msgspec.json.Encoder(order="deterministic").encode
INLINE_BYTES = 64 * 1024


class EmbeddedChannel:
    """A channel over one log directory (or over any `LogPort`). Used from one event loop."""

    def __init__(
        self, directory: Path | None, *, system: System, config: LogConfig | None = None, port: LogPort | None = None
    ) -> None:
        self.directory = directory
        self._system = system
        self._config = config or LogConfig()
        self._port = port
        self._rows: dict[str, TopicRow] = {}
        self._specs: dict[str, TopicSpec] = {}
        self._arrow: dict[int, bytes | None] = {}
        durable = "D2" if self._config.durability == "full" else "D1"
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
            durability=durable,
        )

    # -- declarations ----------------------------------------------------------------------------------------------

    async def open(self, topics: Sequence[TopicSpec]) -> Mapping[str, Topic]:
        """See `Channel`. Without topics it only opens the log and learns what is declared there."""
        for spec in topics:
            rules.check_name(spec.name, what="topic")
        if self._port is None:
            assert self.directory is not None
            directory = self.directory
            self._port = await self._system.offload.run(lambda: RealPort(directory, self._system, self._config))
        if topics:
            await self._port.write(lambda db: [_declare(db, spec) for spec in topics])
        self.refresh()
        return {spec.name: self.topic(spec.name) for spec in topics}

    def refresh(self) -> None:
        """Learn what other programs have declared since."""
        for row in self.port.look(catalogue.topics):
            self._rows[row.name] = row
            self._specs[row.name] = wire.spec_from_json(row.spec)

    @property
    def port(self) -> LogPort:
        """The open log."""
        if self._port is None:
            msg = "the channel is not open; call open() first"
            raise ConfigError(msg)
        return self._port

    def topics(self) -> dict[str, Topic]:
        """Every topic of the log, by name."""
        self.refresh()
        return {name: self.topic(name) for name in self._rows}

    def topic(self, name: str) -> Topic:
        """One declared topic, with the description of its newest schema.

        Raises:
            ConfigError: no such topic; close names are listed.
        """
        row = self.row(name)
        spec = self._specs[name]
        found = self.port.look(lambda db: catalogue.schema(db, row.schema_id)) if row.schema_id else None
        if found is not None:
            spec = msgspec.structs.replace(spec, schema=msgspec.json.decode(found[0]), arrow=found[1])
        return Topic(spec, row.schema_id)

    def row(self, name: str) -> TopicRow:
        """The topic's row in the log; see `topic`."""
        if name not in self._rows:
            self.refresh()
        row = self._rows.get(name)
        if row is None:
            raise ConfigError(rules.unknown_name(name, list(self._rows), what="topic"), path=f"topics.{name}")
        return row

    # -- publishing ------------------------------------------------------------------------------------------------

    async def publish(self, publish: Publish) -> Acked | Refused | Unknown:
        """See `Channel`."""
        for batch in publish.batches:
            reason = wire.oversized(batch, self._specs[self.row(batch.topic).name])
            if reason is not None:
                return Refused(reason)
        content = wire.content_of(publish.batches)
        blocks = await self.encode(publish.batches)
        request = Append(publish.producer, publish.epoch, publish.sequence, blocks, content)
        try:
            result = await (await self.port.queue(request))
        except OutcomeUnknown as exc:
            return Unknown(str(exc))
        if isinstance(result, Appended):
            return Acked(result.first, result.repeated)
        assert isinstance(result, Refusal)
        return Refused(result.reason)

    async def encode(self, batches: Sequence[NewBatch]) -> list[Block]:
        """Encode batches as blocks, off the loop when there is much of it."""
        rows = [(batch, self.row(batch.topic)) for batch in batches]

        def work() -> list[Block]:
            return [wire.to_block(b, pid=row.pids[b.partition], schema_id=row.schema_id) for b, row in rows]

        if sum(wire.bytes_of(b) for b in batches) <= INLINE_BYTES:
            return work()
        return await self._system.offload.run(work)

    # -- reading ---------------------------------------------------------------------------------------------------

    async def join(self, subscription: Subscription) -> Intake:
        """See `Channel`."""
        rules.check_name(subscription.group.name, what="group")
        row = self.row(subscription.group.topic)
        group = await self.port.write(lambda db: _declare_group(db, subscription.group))
        return EmbeddedIntake(self, subscription, group=group, topic=row, system=self._system)

    async def read(self, topic: str, partition: int, offset: int, *, events_max: int) -> Sequence[Delivered]:
        """See `Channel`."""
        row = self.row(topic)
        stored = await self.port.read(
            row.pids[partition], offset, events_max=events_max, bytes_max=1 << 26, name=f"topic {topic}/{partition}"
        )
        return self.decode(stored, topic=topic, partition=partition, span=(offset, events_max))

    def decode(
        self, stored: Sequence[Stored], *, topic: str, partition: int, span: tuple[int, int]
    ) -> list[Delivered]:
        """Decode blocks and cut them to `span` (first offset wanted, events at most)."""
        offset, events_max = span
        out: list[Delivered] = []
        room = events_max
        for block in stored:
            if room <= 0:
                break
            delivered = wire.to_delivered(
                block, topic=topic, partition=partition, arrow=self.arrow(block.schema_id)
            )
            out.append(wire.head(delivered.tail(offset), room))
            room -= out[-1].count
        return out

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
        if self._port is not None:
            await self._port.close()


def _declare(db: apsw.Connection, spec: TopicSpec) -> None:
    """Create the topic, or compare with what is recorded and take over a compatible newer schema."""
    row = catalogue.topic(db, spec.name)
    recorded = wire.spec_to_json(spec)
    if row is None:
        twin = catalogue.folded_twin(db, spec.name)
        if twin is not None:
            msg = f"a topic {twin} exists; two names that differ only in case are refused: choose another name"
            raise DeclaredDifferently(msg)
        identity = catalogue.create_topic(db, spec.name, recorded, partitions=spec.partitions)
        row = catalogue.topic(db, spec.name)
        assert row is not None
        assert row.id == identity
    else:
        difference = rules.declaration_difference(wire.spec_from_json(row.spec), spec)
        if difference is not None:
            msg = f"topic {spec.name} is declared differently: {difference}"
            raise DeclaredDifferently(msg)
    if spec.schema is not None:
        _take_schema(db, row, spec)


def _take_schema(db: apsw.Connection, row: TopicRow, spec: TopicSpec) -> None:
    assert spec.schema is not None
    old = catalogue.schema(db, row.schema_id) if row.schema_id else None
    if old is not None:
        breaking = check_backward(msgspec.json.decode(old[0]), dict(spec.schema))
        if breaking:
            text = "; ".join(f"{change.path}: {change.what} ({change.way_out})" for change in breaking)
            msg = f"topic {spec.name}: the type changed so that recorded events could not be read: {text}"
            raise SchemaIncompatible(msg)
    schema_id = catalogue.add_schema(db, row.id, _json(spec.schema), spec.arrow)
    if schema_id != row.schema_id:
        catalogue.set_topic(db, row, spec=row.spec, schema_id=schema_id)


def _declare_group(db: apsw.Connection, spec: GroupSpec) -> GroupRow:
    row = catalogue.declare_group(db, spec.name, _json(spec))
    stored = msgspec.json.decode(row.spec, type=GroupSpec)
    if (stored.topic, stored.kind) != (spec.topic, spec.kind):
        msg = (
            f"group {spec.name} is declared as a {stored.kind} of topic {stored.topic}, and here as a {spec.kind} of "
            f"topic {spec.topic}; a group's name is its identity: give the new one another name"
        )
        raise DeclaredDifferently(msg)
    return row
