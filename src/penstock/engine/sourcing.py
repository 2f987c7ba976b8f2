"""Runs one source: reads chunks, publishes each with the position behind it, and goes on where the log says."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any, Protocol

from penstock.channel.api import Acked, Channel, Producers, Publish, Refused, Unknown
from penstock.channel.typed import TypedTopic
from penstock.delivery.deadletter import DeadLetter, to_batch
from penstock.engine.group import GroupState
from penstock.errors import ConfigError, ConflictError, Fenced, OutcomeUnknown, PenstockError, TransientError
from penstock.event.batch import Columns, NewBatch
from penstock.schema import ColumnsSchema
from penstock.source.api import Chunk, Source
from penstock.system.ports import System
from penstock.telemetry import emit

EVENTS_MAX = 10_000
BYTES_MAX = 4_000_000
POLL_S = 0.5
RETRY_FIRST_S = 0.05
RETRY_MAX_S = 5.0


class SourceChannel(Channel, Producers, Protocol):
    """What a source needs of its channel: that it remembers producers."""


class SourceRun:
    """One source of an app, publishing as producer ``source.<name>``.

    Delivery guarantee: effectively-once: the position is stored with the chunk, and a chunk that is published again
    under its sequence is answered with its original offsets. Two programs that run the same source do not harm each
    other: the slower one's chunk is a repetition, or is refused and read again from the recorded position.

    Args:
        channel: open, with the topics declared; it remembers producers.
        source: not yet opened.
        into: the topic that gets the events.
        dead: the topic that gets what could not be read, verbatim.
        republish: publish every event again from the beginning, under the original sequences.
    """

    def __init__(
        self,
        channel: SourceChannel,
        source: Source,
        into: TypedTopic[Any],
        *,
        dead: TypedTopic[Any],
        system: System,
        republish: bool = False,
    ) -> None:
        self._channel = channel
        self._source = source
        self._into = into
        self._dead = dead
        self._system = system
        self._republish = republish
        self._stopping = False
        self.state = GroupState(source.name, "source", into.name)

    def stop(self) -> None:
        """Finish the chunk in hand, then end."""
        self._stopping = True

    async def run(self) -> None:
        """Until the source is at its end, or stopped.

        Raises:
            PenstockError: the source cannot go on (its files changed, the log failed); nothing was skipped.
        """
        pause_s = RETRY_FIRST_S
        try:
            while not self._stopping:
                try:
                    await self._through()
                    break
                except (TransientError, Fenced) as exc:
                    self.state.state, self.state.reason = "waiting", str(exc)
                    emit.log(logging.WARNING, "source tries again", source=self.state.name, reason=str(exc))
                    await self._system.clock.sleep(pause_s)
                    pause_s = min(RETRY_MAX_S, pause_s * 2)
            self.state.state, self.state.reason = "done", ""
        except Exception as exc:
            self.state.state, self.state.reason = "failed", str(exc)
            raise
        finally:
            await self._system.offload.run(self._source.close)

    async def _through(self) -> None:
        producer = f"source.{self._source.name}"
        last = None if self._republish else await self._channel.producer(producer)
        sequence, position = (0, b"") if last is None else (last.sequence + 1, last.note)
        schema = self._into.schema
        if isinstance(schema, ColumnsSchema):
            msg = f"topic {self._into.name} exists only as columns: a source's events need a type"
            raise ConfigError(msg, path=f"sources.{self._source.name}")
        await self._system.offload.run(lambda: self._source.open(schema, position))
        self.state.state = "running"
        ahead = self._read_on()
        try:
            while not self._stopping:
                chunk = await ahead
                if chunk is None and self._source.finite:
                    return
                if chunk is None:
                    self.state.state = "idle"
                    await self._system.clock.sleep(POLL_S)
                ahead = self._read_on()
                if chunk is not None:
                    self.state.state, self.state.reason = "running", ""
                    await self._published(Publish(producer, 0, sequence, self._batches(chunk), chunk.position), chunk)
                    sequence += 1
        finally:
            with suppress(PenstockError):
                await ahead  # the source is not ours to touch before its read is over

    def _read_on(self) -> asyncio.Future[Chunk | None]:
        """Begin to read the next chunk: it is read while the last one is stored."""
        read = self._system.offload.run(lambda: self._source.read(events_max=EVENTS_MAX, bytes_max=BYTES_MAX))
        return asyncio.ensure_future(read)

    async def _published(self, publish: Publish, chunk: Chunk) -> None:
        match await self._channel.publish(publish):
            case Acked(repeated=repeated):
                self.state.steps += 1
                self.state.events += chunk.count
                self.state.dead += len(chunk.bad)
                self.state.repeated += chunk.count if repeated else 0
                emit.count("penstock_events_read_total", chunk.count, source=self.state.name)
            case Refused(reason=reason):
                raise self._refused(reason)
            case Unknown(reason=reason):
                raise OutcomeUnknown(reason)

    def _refused(self, reason: str) -> ConflictError:
        """Somebody else was faster, or what is published again is not what it was."""
        if self._republish:
            msg = f"source {self.state.name}: {reason}. What is read now is not what was published then"
            return ConflictError(msg)
        return Fenced(f"source {self.state.name}: {reason}")

    def _batches(self, chunk: Chunk) -> list[NewBatch]:
        if isinstance(chunk.events, Columns):
            batches = self._into.pack_columns(chunk.events.table, chunk.events.attributes)
            refused: dict[int, str] = {}
            bodies: list[bytes] = []
        else:
            bodies = chunk.events.bodies()
            packed = self._into.pack(bodies, keys=chunk.keys, attributes=chunk.events.attributes)
            batches, refused = packed.batches, packed.refused
        letters = [self._letter(bodies[index], reason, f"event {index}") for index, reason in refused.items()]
        letters += [self._letter(bad.body, bad.reason, bad.where) for bad in chunk.bad]
        if letters:
            batches = [*batches, to_batch(letters, topic=self._dead.name, partition=0)]
        return batches

    def _letter(self, body: bytes, reason: str, where: str) -> DeadLetter:
        return DeadLetter(
            group=f"source.{self._source.name}",
            topic=self._into.name,
            partition=0,
            offset=-1,
            body=body[: self._dead.spec.event_bytes_max],
            reason=f"{where}: {reason}",
            error="Unreadable",
        )
