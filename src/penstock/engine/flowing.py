"""A flow's work: frames in, frames out, and for a running aggregate its keyed state as the step's ledger."""

from __future__ import annotations

import asyncio
import traceback
from collections import deque
from collections.abc import AsyncGenerator, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import msgspec

from penstock.channel.api import Assigned, Delivery, LedgerWrite, Owned, Subscription
from penstock.channel.rules import head
from penstock.channel.sizes import row_over
from penstock.channel.typed import TypedTopic
from penstock.delivery.deadletter import DeadLetter, text_of, to_batch
from penstock.delivery.redrive import Command
from penstock.delivery.retry import Retry
from penstock.engine.calling import is_outcome
from penstock.engine.commands import Commands, unread
from penstock.engine.context import Identity
from penstock.engine.parts import redriven
from penstock.engine.pausing import waited
from penstock.engine.work import Draft, Gauge, Read, Stopping
from penstock.errors import DeclaredDifferently, PermanentError, TransientError
from penstock.event.batch import Delivered, NewBatch
from penstock.event.partition import partitions_of
from penstock.system.ports import System
from penstock.system.slots import Slot
from penstock.telemetry import emit

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from penstock.flow.compile import Stage
    from penstock.flow.logic import Merge

STATE = "state"
PLAIN = "plain"
"""A flow that keeps no state says so here, for what it has passed on is in none; with the aggregate it is part of."""
SAID_BEFORE = b"1"
"""What is said of no aggregate, and was said before of any."""
INLINE_EVENTS = 2_000
FRAME_EVENTS = 50_000
STEP_BYTES_MAX = 8_000_000
STEP_S_MAX = 0.5
RESULT_BYTES_MAX = 64_000_000
_STOPPED = PermanentError("stopped")


class FlowTopics(msgspec.Struct, frozen=True):
    """The topics a stage reads, writes, and lays in what cannot be computed; `commands` are about the latter."""

    source: TypedTopic[Any]
    into: TypedTopic[Any]
    dead: TypedTopic[Any]
    commands: TypedTopic[Any] | None = None


class _Result(msgspec.Struct):
    """What a step has come to so far: result batches, the state's delta, events given up, and how far it is."""

    partition: int
    outputs: list[NewBatch] = msgspec.field(default_factory=list[NewBatch])
    delta: dict[bytes, bytes] = msgspec.field(default_factory=dict[bytes, bytes])
    letters: list[DeadLetter] = msgspec.field(default_factory=list[DeadLetter])
    size: int = 0
    events: int = 0
    done: int | None = None

    def settle(self, run: Sequence[Delivered]) -> None:
        """These events are settled."""
        self.events += sum(delivered.count for delivered in run)
        self.done = run[-1].end


class _Part(msgspec.Struct, frozen=True):
    """Events that are computed as one frame. `tried`: they have failed as part of a larger one, pauses did not help.

    Of those only a single event is tried again, and only over what passes: the others are halved at once.
    """

    run: Sequence[Delivered]
    tried: bool = False

    def may_help(self, error: BaseException) -> bool:
        """Whether pauses may: nothing is given up over an error that passes without any."""
        if isinstance(error, PermanentError):
            return False
        passes = isinstance(error, TransientError | OSError)
        return not self.tried or (passes and sum(delivered.count for delivered in self.run) == 1)


class FlowWork:
    """See `Work`. One delivery is one step.

    Delivery guarantee: that of the channel's step: results, state and progress become permanent together. A row that
    cannot be computed is found by halving and laid among the dead letters; the others go on.
    """

    def __init__(
        self,
        stage: Stage,
        subscription: Subscription,
        topics: FlowTopics,
        *,
        system: System,
        read: Read,
        retry: Retry | None = None,
    ) -> None:
        self.subscription = subscription
        self.gauge = Gauge()
        self.news: asyncio.Event | None = None
        self._stage = stage
        self._topics = topics
        self._system = system
        self._retry = retry or Retry()
        self._read = read
        self._merges: dict[int, Merge] = {}
        self._commands: dict[int, Commands] = {}
        self._unsaid: set[int] = set()  # partitions whose next step says that there is no state
        self._said = SAID_BEFORE if stage.partial is None else stage.partial.tag
        self._stopping: Stopping = lambda: False
        source, into = topics.source.spec, topics.into.spec
        keyed = into.key is None if not stage.keys else stage.keys == (source.key,) and into.key in (None, source.key)
        plain = stage.layout_in is None and stage.partial is None
        self._stays = plain and keyed and source.partitions == into.partitions

    async def assigned(self, assigned: Assigned, slot: Slot | None, stopping: Stopping) -> Sequence[LedgerWrite]:
        """See `Work`: the state is what was committed, and nothing else."""
        partition, self._stopping = assigned.owned.partition, stopping
        self._check_kind(assigned.ledger, partition)
        self._commands[partition] = Commands(self._stage.name, self._topics.commands, partition, assigned.ledger)
        if self._stage.keeps_state:
            merge = self._stage.new_merge()
            merge.restore([(key, value) for space, key, value in assigned.ledger if space == STATE])
            self._merges[partition] = merge
        return ()

    def _check_kind(self, ledger: Sequence[tuple[str, bytes, bytes]], partition: int) -> None:
        """Whether what was committed is a running aggregate's where this is one, and none's where it is none.

        Raises:
            DeclaredDifferently: the state would lack the events that the other one has passed on, or, of partial rows,
                have them as another aggregate's.
        """
        spaces = {space for space, _, _ in ledger}
        here, there = (STATE, PLAIN) if self._stage.keeps_state else (PLAIN, STATE)
        if there in spaces:
            was, now = ("a running aggregate", "none") if there == STATE else ("no running aggregate", "one")
            msg = (
                f"flow {self._stage.name} was {was} and is {now} now: its totals would lack the events in between; "
                "declare it as it was, or give the changed flow a new name, which computes everything"
            )
            raise DeclaredDifferently(msg)
        said = next((value for space, _, value in ledger if space == PLAIN), None)
        if said not in (None, SAID_BEFORE, self._said):
            msg = (
                f"flow {self._stage.name} has passed on rows for another by(…).agg(…): declare it as it was, or give "
                "the changed flow a new name, which computes everything"
            )
            raise DeclaredDifferently(msg)
        self._unsaid.discard(partition)
        if here == PLAIN and said != self._said:
            self._unsaid.add(partition)

    async def process(self, delivery: Delivery, stopping: Stopping) -> AsyncGenerator[Draft]:
        """See `Work`. A step ends with the delivery, or when its results are many bytes."""
        clock = self._system.clock
        started = clock.monotonic_s()
        result = _Result(delivery.owned.partition)
        waiting = deque(_Part(run) for run in _runs(delivery.batches))
        while waiting and not stopping():
            part = waiting.popleft()
            error = await self._tried(part, result, stopping)
            if error is _STOPPED:
                break
            if error is not None:
                waiting.extendleft(reversed(self._split(part, error, result)))
            late = clock.monotonic_s() - started > STEP_S_MAX
            if result.done is not None and (late or result.size >= STEP_BYTES_MAX):
                yield self._draft(result)
                result, started = _Result(delivery.owned.partition), clock.monotonic_s()
        if result.done is not None:
            yield self._draft(result)

    async def due(self, *, everything: bool) -> AsyncGenerator[Draft]:
        """See `Work`: what people said about dead letters; nothing is kept back."""
        for partition, commands in list(self._commands.items()):
            draft = None if self._stopping() else await self._commanded(partition, commands)
            if draft is not None:
                yield draft
        self.gauge.unread = unread(self._commands.values())

    def wait_s(self) -> float | None:
        """See `Work`: what people said is looked at to its end."""
        return 0.0 if any(commands.more for commands in self._commands.values()) else None

    def paused(self) -> Collection[Owned]:
        """See `Work`: never."""
        return ()

    def resumed(self) -> Delivery | None:
        """See `Work`."""
        return None

    def committed(self, draft: Draft) -> None:
        """See `Work`."""
        labels = {"group": self._stage.name, "partition": str(draft.partition)}
        emit.count("penstock_events_handled_total", draft.events, **labels)
        if draft.dead:
            emit.count("penstock_dead_letters_total", draft.dead, group=self._stage.name)

    async def finish(self, partition: int) -> AsyncGenerator[Draft]:
        """See `Work`: nothing is kept back."""
        return
        yield

    def left(self, partition: int | None = None) -> None:
        """See `Work`: the state is restored when the partition is assigned again."""
        if partition is None:
            self._merges.clear()
            self._commands.clear()
        else:
            self._merges.pop(partition, None)
            self._commands.pop(partition, None)
        self.gauge.unread = unread(self._commands.values())

    async def close(self) -> None:
        """See `Work`."""

    # -- dead letters again ----------------------------------------------------------------------------------------

    async def _commanded(self, partition: int, commands: Commands) -> Draft | None:
        result, ledger, taken = _Result(partition), list[LedgerWrite](), 0
        started_s = self._system.clock.monotonic_s()
        for command in await commands.look(self._read, started_s):
            if command is not None and command.letter not in commands.letters:
                outcome = b"skipped" if command.action == "skip" else await self._redriven(command, result)
                if outcome is None:
                    break
                ledger.append(commands.resolve(command.letter, outcome))
            taken += 1
            if result.size >= STEP_BYTES_MAX or self._system.clock.monotonic_s() - started_s > STEP_S_MAX:
                break
        if not taken:
            return None
        ledger.append(commands.taken(taken))
        draft = self._draft(result)
        return msgspec.structs.replace(draft, after=None, ledger=[*draft.ledger, *ledger])

    async def _redriven(self, command: Command, result: _Result) -> bytes | None:
        """Compute an event that was given up; the rows around it are long settled. None: stopped before that."""
        source, offset = self._topics.source.name, command.offset
        assert command.body is not None
        delivered = redriven(
            source, result.partition, offset=offset, body=command.body, key=command.key, identity=command.id
        )
        error = await self._tried(_Part((delivered,), tried=True), result, self._stopping)
        if error is None or error is _STOPPED:
            return b"handled" if error is None else None
        result.letters.append(self._letter(delivered, error, again=command.again))
        return b"failed again"

    # -- computing -------------------------------------------------------------------------------------------------

    async def _tried(self, part: _Part, result: _Result, stopping: Stopping) -> BaseException | None:
        """Compute a part, again with pauses where that may help; what it failed with in the end, if it did."""
        attempt, waited_s = 1, 0.0
        while True:
            try:
                await self._computed(part.run, result)
            except BaseException as exc:
                if not is_outcome(exc):
                    raise
                chance = self._system.random.random
                pause_s = self._retry.pause_s(attempt, since_s=waited_s, chance=chance) if part.may_help(exc) else None
                if pause_s is None:
                    return exc
                emit.count("penstock_handler_retries_total", group=self._stage.name)
                attempt, waited_s = attempt + 1, waited_s + pause_s
                if not await waited(self._system.clock, pause_s, stopping):
                    return _STOPPED
            else:
                return None

    def _split(self, part: _Part, error: BaseException, result: _Result) -> list[_Part]:
        """A part that failed for good, in halves; a single event is given up instead."""
        run = part.run
        if len(run) > 1:
            middle = len(run) // 2
            return [_Part(run[:middle], tried=True), _Part(run[middle:], tried=True)]
        (delivered,) = run
        if delivered.count > 1:
            middle = delivered.first + delivered.count // 2
            halves = head(delivered, middle - delivered.first), delivered.tail(middle)
            return [_Part((half,), tried=True) for half in halves]
        letter = self._letter(delivered, error)
        result.letters.append(letter)
        result.size += len(letter.body) + len(letter.stack)
        result.settle(run)
        return []

    async def _computed(self, run: Sequence[Delivered], result: _Result) -> None:
        """Everything or nothing of the run goes into `result` and the state.

        Raises:
            PermanentError: its results are too large to be stored as they are.
        """
        merge = self._merges.get(result.partition) if self._stage.keeps_state else None

        def work() -> tuple[list[NewBatch], int, Any]:
            from penstock.flow.frames import from_batch, to_batch  # noqa: PLC0415 - Polars loads with the first event

            table = _together([self._topics.source.table(delivered) for delivered in run])
            rows = self._stage.rows(from_batch(table, columns=self._stage.reads))
            merged = None if merge is None else merge.apply(rows)
            schema = self._topics.into.schema
            assert schema is not None, "a flow writes columns"
            out = to_batch(rows if merged is None else merged.changed, schema.arrow)
            schema.check(out)
            _check_finite(out)
            self._check_size(out)
            return self._placed(out, result.partition) if out.num_rows else [], out.nbytes, merged

        small = sum(delivered.count for delivered in run) <= INLINE_EVENTS
        outputs, size, merged = work() if small else await self._system.offload.run(work)
        if merge is not None:
            merge.accept(merged)
            result.delta.update(merged.delta)
        result.outputs += outputs
        result.size += size
        result.settle(run)

    def _check_size(self, table: pa.RecordBatch) -> None:
        limit = self._topics.into.spec.event_bytes_max
        over = row_over(table, limit)
        if table.nbytes > max(RESULT_BYTES_MAX, limit) or over is not None:
            longest = "" if over is None else f", one of {over[1]}"
            msg = (
                f"{table.num_rows} results of {table.nbytes} bytes{longest}; topic {self._topics.into.name} takes "
                f"{limit} bytes an event, and one step {RESULT_BYTES_MAX}"
            )
            raise PermanentError(msg)

    def _draft(self, result: _Result) -> Draft:
        outputs = list(result.outputs)
        if result.letters:
            outputs.append(to_batch(result.letters, topic=self._topics.dead.name, partition=result.partition))
        draft = Draft(
            result.partition,
            result.done,
            outputs,
            [LedgerWrite(STATE, key, value) for key, value in result.delta.items()],
            events=result.events,
            dead=len(result.letters),
        )
        if result.partition not in self._unsaid:
            return draft
        self._unsaid.remove(result.partition)
        return msgspec.structs.replace(draft, ledger=[*draft.ledger, LedgerWrite(PLAIN, b"", self._said)])

    def _placed(self, table: pa.RecordBatch, partition: int) -> list[NewBatch]:
        """Results by partition: of their own keys, or where their inputs lie when nothing moves a row elsewhere."""
        into, keys = self._topics.into, self._stage.keys
        if self._stays:
            return [into.columns_batch(partition, table)]
        if into.spec.key is not None or not keys:
            return into.pack_columns(table)
        import polars as pl  # noqa: PLC0415

        from penstock.flow.frames import row_keys  # noqa: PLC0415

        frame = cast("pl.DataFrame", pl.from_arrow(table))
        numbers = pl.Series(partitions_of(row_keys(frame, keys), into.spec.partitions), dtype=pl.Int64)
        return [
            into.columns_batch(number, table.take((numbers == number).arg_true().to_arrow()))
            for number in sorted(set(numbers.to_list()))
        ]

    def _letter(self, delivered: Delivered, error: BaseException, *, again: int = 0) -> DeadLetter:
        identity = Identity(delivered, self._topics.source)
        hide = identity.hide(0)
        return DeadLetter(
            group=self._stage.name,
            topic=delivered.topic,
            partition=delivered.partition,
            offset=delivered.first,
            body=identity.body(0),
            reason=hide(text_of(error)),
            error=type(error).__name__,
            stack=hide("".join(traceback.format_exception(error))),
            key=identity.key(0),
            id=identity.id(0),
            again=again,
        )


def _runs(batches: Sequence[Delivered]) -> Iterator[tuple[Delivered, ...]]:
    """Batches in runs of some thousand events: a frame costs the same for one event as for a thousand."""
    run: list[Delivered] = []
    count = 0
    for delivered in batches:
        if run and count + delivered.count > FRAME_EVENTS:
            yield tuple(run)
            run, count = [], 0
        run.append(delivered)
        count += delivered.count
    if run:
        yield tuple(run)


def _check_finite(table: pa.RecordBatch) -> None:
    """Refuse what no JSON and no database keeps apart from a number or a null.

    Raises:
        PermanentError: a column holds NaN or an infinity; it is named.
    """
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.compute as functions  # noqa: PLC0415

    compute: Any = functions
    for field, column in zip(table.schema, table.columns, strict=True):
        if pa.types.is_floating(field.type) and compute.all(compute.is_finite(column)).as_py() is False:
            msg = f"column {field.name} holds NaN or an infinity: filter such rows, or fill_nan them"
            raise PermanentError(msg)


def _together(tables: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    if len(tables) == 1:
        return tables[0]
    import pyarrow as pa  # noqa: PLC0415

    return pa.concat_batches(tables)
