"""Runs one source: reads chunks, publishes each with the position behind it, and goes on where the log says."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import msgspec

from penstock.channel.api import Acked, Channel, Producers, Publish, Refused, Unknown
from penstock.channel.ids import without
from penstock.channel.typed import TypedTopic
from penstock.engine.chunks import Layout
from penstock.engine.group import GroupState
from penstock.errors import (
    ConfigError,
    ConflictError,
    Fenced,
    OutcomeUnknown,
    PenstockError,
    Rejected,
    TransientError,
)
from penstock.schema import ColumnsSchema
from penstock.source.api import Chunk, Source
from penstock.system.ports import System
from penstock.telemetry import emit

T = TypeVar("T")

EVENTS_MAX = 10_000
BYTES_MAX = 4_000_000
POLL_S = 0.5
TURN_LOOK_S = 0.1
RETRY_FIRST_S = 0.05
RETRY_MAX_S = 5.0
NOTES_AT_ONCE = 64


class SourceChannel(Channel, Producers, Protocol):
    """What a source needs of its channel: that it remembers producers."""


class Turn(Protocol):
    """Whose turn it is to run a source, of several processes."""

    def take(self) -> str:
        """Empty when it is this process's turn; else whose."""
        ...

    def close(self) -> None:
        """Let somebody else have it; may be called twice."""
        ...


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
        republish: publish every chunk again from the beginning, as far as the channel remembers them, under its
            original sequence and with its original borders; then go on with what is new.
        turn: which process runs the source, where several could; None: this one.
    """

    def __init__(  # noqa: PLR0913 - each is given by name
        self,
        channel: SourceChannel,
        source: Source,
        into: TypedTopic[Any],
        *,
        dead: TypedTopic[Any],
        system: System,
        republish: bool = False,
        turn: Turn | None = None,
    ) -> None:
        self._channel = channel
        self._turn = turn
        self._source = source
        self._into = into
        self._layout = Layout(source.name, into, dead)
        self._system = system
        self._republish = republish
        self._again: tuple[int, bytes] = (0, b"")  # the next sequence to publish again, and the position before it
        self._stopping = False
        self.state = GroupState(source.name, "source", into.name)

    def stop(self) -> None:
        """Finish the chunk in hand, then end."""
        self._stopping = True

    async def run(self) -> None:
        """Until the source is at its end, or stopped.

        Cancelled while the source is read, it ends when that is over: nobody closes a source that is being read.

        Raises:
            PenstockError: the source cannot go on (its files changed, the log failed); nothing was skipped.
        """
        pause_s = RETRY_FIRST_S
        try:
            while await self._my_turn():
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
            if self._turn is not None:
                self._turn.close()
            await self._offloaded(self._source.close)

    async def _my_turn(self) -> bool:
        """Wait for it; False when stopped."""
        while not self._stopping:
            who = "" if self._turn is None else self._turn.take()
            if not who:
                return True
            self.state.state, self.state.reason = "waiting", f"the source is run by {who}"
            await self._system.clock.sleep(TURN_LOOK_S)
        return False

    async def _through(self) -> None:
        if isinstance(self._into.schema, ColumnsSchema):
            msg = f"topic {self._into.name} exists only as columns: a source's events need a type"
            raise ConfigError(msg, path=f"sources.{self._source.name}")
        if self._republish:
            await self._publish_again()
        last = await self._channel.producer(self._producer)
        sequence, position = (0, b"") if last is None else (last.sequence + 1, last.note)
        await self._open(position)
        ahead = self._read_on()
        try:
            while not self._stopping:
                chunk = await _over(ahead)
                who = "" if self._turn is None else self._turn.take()
                if who:
                    msg = f"source {self._source.name} is run by {who} now"
                    raise TransientError(msg)
                if chunk is None and self._source.finite:
                    return
                if chunk is None:
                    self.state.state = "idle"
                    await self._system.clock.sleep(POLL_S)
                ahead = self._read_on()
                if chunk is not None:
                    self.state.state, self.state.reason = "running", ""
                    sequence += await self._publish(sequence, chunk)
        finally:
            with suppress(PenstockError):
                await _over(ahead)  # the source is not ours to touch before its read is over

    async def _publish_again(self) -> None:
        """Publish what was published before, chunk by chunk: each ends where it ended then."""
        last = await self._channel.producer(self._producer)
        sequence, position = self._again
        if last is None or sequence > last.sequence:
            return
        await self._open(position)
        while sequence <= last.sequence and not self._stopping:
            notes = await self._channel.notes(self._producer, 0, start=sequence, count=NOTES_AT_ONCE)
            if not notes:
                return
            if notes[0][0] > sequence:
                sequence, position = notes[0][0] + 1, notes[0][1]
                self._forgotten(sequence)
                await self._open(position)
                continue
            for number, note in notes:
                chunk = await self._offloaded(lambda until=note: self._read(until))
                if chunk is None:
                    raise ConflictError(f"source {self.state.name}: of chunk {number} nothing is there any more")
                if self._stopping:
                    return
                await self._publish(number, msgspec.structs.replace(chunk, position=note), again=True)
                sequence, self._again = number + 1, (number + 1, note)

    def _forgotten(self, count: int) -> None:
        reason = (
            f"the first {count} chunks were published longer ago than answers are remembered: they are not published "
            "again, only those behind them"
        )
        emit.log(
            logging.WARNING, "source publishes only its newest chunks again", source=self.state.name, reason=reason
        )
        self.state.reason = reason

    @property
    def _producer(self) -> str:
        return f"source.{self._source.name}"

    async def _open(self, position: bytes) -> None:
        schema = self._into.schema
        assert not isinstance(schema, ColumnsSchema)
        await self._offloaded(lambda: self._source.open(schema, position))
        self.state.state = "running"

    def _read(self, until: bytes | None = None) -> Chunk | None:
        if until is None:
            return self._source.read(events_max=EVENTS_MAX, bytes_max=BYTES_MAX)
        return self._source.read(events_max=EVENTS_MAX, bytes_max=BYTES_MAX, until=until)

    def _read_on(self) -> asyncio.Future[Chunk | None]:
        """Begin to read the next chunk: it is read while the last one is stored."""
        return asyncio.ensure_future(self._system.offload.run(self._read))

    async def _offloaded(self, work: Callable[[], T]) -> T:
        return await _over(asyncio.ensure_future(self._system.offload.run(work)))

    async def _publish(self, sequence: int, chunk: Chunk, *, again: bool = False) -> int:
        """Publish the chunk without what is recorded already, by its ids; 0 when nothing else was in it, else 1."""
        batches, refused = self._layout.batches(chunk)
        answer = await self._channel.publish(Publish(self._producer, 0, sequence, batches, chunk.position))
        while isinstance(answer, Refused) and answer.duplicates and all(one.same for one in answer.duplicates):
            self.state.repeated += len(answer.duplicates)
            batches = [batch for batch in without(batches, answer.duplicates) if batch is not None]
            if not batches:  # the position is kept with the next chunk
                return 0
            answer = await self._channel.publish(Publish(self._producer, 0, sequence, batches, chunk.position))
        match answer:
            case Acked(repeated=repeated):
                self.state.steps += 1
                self.state.events += chunk.count - refused
                self.state.dead += len(chunk.bad) + refused
                self.state.repeated += chunk.count - refused if repeated else 0
                emit.count("penstock_events_read_total", chunk.count, source=self.state.name)
                return 1
            case Refused():
                raise self._refused(answer, again=again)
            case Unknown(reason=reason):
                raise OutcomeUnknown(reason)

    def _refused(self, answer: Refused, *, again: bool) -> PenstockError:
        """What is published again is not what it was; or somebody else was faster; or it cannot be stored at all."""
        if again:
            msg = (
                f"source {self.state.name}: {answer.reason}. What is read now is not what was published then: its "
                "content was changed since, or the topic's type writes it in other words. Put it back as it was, or "
                "run without publishing again"
            )
            return ConflictError(msg)
        msg = f"source {self.state.name}: {answer.reason}"
        return Fenced(msg) if answer.conflict not in ("", "id") else Rejected(msg)


async def _over(work: asyncio.Future[T]) -> T:
    """What `work` gives. Who is cancelled meanwhile is told so when it is over, and not before."""
    cut: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError as exc:
            cut = exc
    if cut is not None:
        with suppress(PenstockError, asyncio.CancelledError):
            work.result()
        raise cut
    return work.result()
