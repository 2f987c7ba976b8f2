"""Publishing from threads and plain code: one event and its durable answer, many, or pipelined."""

from __future__ import annotations

import atexit
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakSet

from penstock.app.declared import AnyTopic, Program, topic_name
from penstock.app.opened import Opened, tell_when_forked
from penstock.app.outbox import (
    CHUNK_EVENTS,
    FrameReceipt,
    Parcel,
    Receipt,
    laid_out,
    resolved,
    seal,
    ticket_of,
    together,
)
from penstock.app.outcome import Acked, Outcome, Rejected, Unknown
from penstock.app.publisher import NOT_OPEN, Publisher
from penstock.channel.typed import TypedTopic
from penstock.errors import Closed, PenstockError
from penstock.event.envelope import NewEvent
from penstock.system.pipe import LOOK_S, Permits, Pipe, Signal
from penstock.telemetry import emit

if TYPE_CHECKING:
    from penstock.app.aclient import AsyncClient

PACKED_MAX = 4
"""So many chunks are laid out ahead of the disk."""
SENT_BYTES_MAX = 16_000_000
SENT_OVERHEAD_BYTES = 1_600
"""What a small event counts beside its own bytes, so that SENT_BYTES_MAX bounds their number too: some 9,000."""


class Client:
    """A publisher. Use it with ``with``, from any number of threads; ``async with`` gives an `AsyncClient` instead.

    Every publish is one transaction under (producer, epoch, sequence), so that asking again never stores twice.
    Events of one client keep their order within a key. What a consumer of the topic could not decode is rejected.

    After a fork the child must make a client of its own. Ctrl-C may interrupt every method, and the client may be used
    further: an event that was being published is stored or not, and what was sent is published by and by.
    """

    def __init__(self, app: Program, *, producer: str | None = None) -> None:
        self._app = app
        self._name = producer
        self._opened: Opened | None = None
        self._publisher: Publisher | None = None
        self._inherited: tuple[Opened | None, Publisher | None] | None = None
        self._lanes: dict[AnyTopic, _Lane] = {}  # by handle and by name
        self._twin: AsyncClient | None = None

    # -- life ------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> AsyncClient:
        from penstock.app.aclient import AsyncClient  # noqa: PLC0415

        self._twin = AsyncClient(self._app, producer=self._name)
        await self._twin.open()
        return self._twin

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._twin is not None:
            await self._twin.close()

    def open(self) -> None:
        """Open the app's log and declare its topics there; what ``with`` does.

        Raises:
            PenstockError: why it cannot be opened.
        """
        self.close()  # nothing, unless it was interrupted
        self._lanes = {}
        self._failure: Exception | None = None
        self._ahead = Permits(PACKED_MAX)  # of two threads that nobody interrupts
        self._pipe: Pipe[_Lane | Signal] = Pipe(self._pack, name="penstock-pack", idle=self._look)
        self._publisher = publisher = Publisher(self._app, self._name)
        try:
            self._pipe.start()
            self._opened = publisher.open()
            tell_when_forked(self)
            _OPENED.add(self)
        except BaseException:
            self._opened = None
            self._pipe.end()
            publisher.end()
            self._publisher = None
            raise

    def close(self) -> None:
        """Publish what was sent, then let the log go; may be called twice, and must be when it was interrupted.

        Raises:
            PenstockError: as `flush`; the log has been let go all the same.
        """
        publisher = self._publisher
        if publisher is None:
            return
        self._call_lanes()
        self._pipe.close()
        publisher.close()
        self._opened = None
        for lane in list(self._lanes.values()):
            lane.end()
        self._lanes = {}
        self._publisher = None
        _OPENED.discard(self)
        self._failure = self._failure or publisher.failure
        self._raise_failure()

    def forked(self) -> None:
        """See `Forkable`: a forked child has none of the threads, and the parent's log is not its own."""
        if self._publisher is not None:
            self._inherited = (self._opened, self._publisher)
        self._opened = self._publisher = None
        self._lanes = {}
        _OPENED.discard(self)

    def _usable(self) -> Publisher:
        if self._publisher is None:
            raise Closed(NOT_OPEN)
        return self._publisher

    def _open_topic(self, topic: AnyTopic) -> Any:
        if self._opened is None:
            raise Closed(NOT_OPEN)
        return self._opened.topic(topic_name(topic))

    # -- waiting for the answer ------------------------------------------------------------------------------------

    def publish(self, topic: AnyTopic, event: Any) -> Outcome:
        """Publish one event and wait until it is durable.

        Args:
            topic: the topic, or its name.
            event: an instance of the topic's type (bytes for a topic without one), or a `NewEvent` around one.

        Raises:
            LogFull, LogBusy: nothing was stored; publish it again later.
            Closed, IOFailed: this client's log object is closed; make a new client.
            Fenced: a newer client uses this producer's name; nothing was stored.
        """
        return self.publish_many(topic, (event,))[0]

    def publish_many(self, topic: AnyTopic, events: Iterable[Any]) -> list[Outcome]:
        """Publish events as one transaction; one outcome per event, in order. Bad ones are rejected, good ones stored.

        Raises:
            PenstockError: as `publish`.
        """
        parcel = Parcel(self._open_topic(topic))
        for event in events:
            parcel.add(event)
        self._publish((parcel,))
        return parcel.outcomes()

    def publish_together(self, pairs: Iterable[tuple[AnyTopic, Any]]) -> list[Outcome]:
        """Publish events of any topics as one transaction, all or none; one outcome per event, in order.

        Raises:
            PenstockError: as `publish`.
        """
        parcels: dict[str, Parcel] = {}
        placed: list[tuple[Parcel, int]] = []
        for topic, event in pairs:
            opened = self._open_topic(topic)
            parcel = parcels.setdefault(opened.name, Parcel(opened))
            placed.append((parcel, parcel.add(event)))
        if together(list(parcels.values())):
            self._publish(list(parcels.values()))
        return [parcel.outcome(index) for parcel, index in placed]

    def publish_frame(self, topic: AnyTopic, frame: Any) -> list[Acked | Rejected | Unknown]:
        """Publish a Polars frame, an Arrow table or record batch as columns, as one transaction.

        Returns:
            One outcome per partition that got rows: `Acked.offset` is that of its first row. A frame that does not
            fit the topic's type is rejected as a whole.
        """
        from penstock.app.frames import frame_batches  # noqa: PLC0415

        opened = self._open_topic(topic)
        parcel = laid_out(opened, frame_batches(opened, frame))
        if not parcel.known:
            self._publish((parcel,))
        return parcel.outcomes()

    def resolve(self, unknown: Unknown) -> Outcome:
        """Find out what became of an event whose outcome is unknown: the same publish is asked for again.

        Use a client that was opened after the failure.
        """
        publisher, ticket = self._usable(), ticket_of(unknown)
        return resolved(unknown, publisher.ask(lambda: publisher.channel.publish_blocking(ticket)))

    def _publish(self, parcels: Sequence[Parcel]) -> None:
        """After what was sent before, whose failure is for `flush` to raise."""
        if any(lane.busy for lane in list(self._lanes.values())):
            self._wait_for_sent()
        self._usable().publish(parcels)
        for parcel in parcels:
            if parcel.error is not None:
                raise parcel.error

    # -- pipelined -------------------------------------------------------------------------------------------------

    def send(self, topic: AnyTopic, event: Any) -> Receipt:
        """Publish one event without waiting for its answer; `flush` waits. Blocks while too many are unanswered.

        The event is encoded at once: it may be changed afterwards.

        Raises:
            Closed: the client is not open.
        """
        lane = self._lanes.get(topic) or self._lane(topic)
        try:
            held = lane.encode(event) if type(event) is not NewEvent else seal(lane.topic, event)
        except Exception:  # noqa: BLE001 - `seal` finds the reason
            held = seal(lane.topic, event)
        receipt = Receipt(held)
        if len(lane.sent) * (SENT_OVERHEAD_BYTES + len(held)) > SENT_BYTES_MAX:  # `full`, without the call
            self._pipe.put(lane)
            lane.wait_for_room(len(held))
        lane.sent.append(receipt)
        if not lane.called:
            self._call(lane)
        return receipt

    def send_frame(self, topic: AnyTopic, frame: Any) -> FrameReceipt:
        """Publish a frame, as `publish_frame`, without waiting for its answer; `flush` waits.

        The next frame is made ready and compressed while this one is stored. Blocks while too much is unanswered. The
        frame's columns must not be changed before it has its answer.

        Raises:
            Closed: the client is not open.
        """
        from penstock.app.frames import frame_batches  # noqa: PLC0415

        lane = self._lanes.get(topic) or self._lane(topic)
        receipt = FrameReceipt(laid_out(lane.topic, frame_batches(lane.topic, frame)))
        if receipt.held.known:
            return receipt
        if lane.full(receipt.held.size):
            self._pipe.put(lane)
            lane.wait_for_room(receipt.held.size)
        lane.sent.append(receipt)
        if not lane.called:
            self._call(lane)
        return receipt

    def _call(self, lane: _Lane) -> None:
        """Have the lane looked into; when the client was closed meanwhile, there is nobody but us."""
        lane.called = True
        self._pipe.put(lane)
        if lane.ended:
            lane.end()

    def _lane(self, topic: AnyTopic) -> _Lane:
        """The topic's lane, found from now on by what the caller named it with."""
        opened = self._open_topic(topic)
        lane = self._lanes.setdefault(opened.name, _Lane(opened))
        self._lanes[topic] = lane
        return lane

    def flush(self) -> None:
        """Wait until everything that was sent has its answer.

        Raises:
            Closed: the client is not open.
            PenstockError: some of it was not stored since the last flush (a full disk, a closed log): the receipts
                say which.
        """
        self._wait_for_sent()
        self._raise_failure()

    def _wait_for_sent(self) -> None:
        publisher = self._usable()
        self._call_lanes()
        done = Signal()
        self._pipe.put(done)
        publisher.wait_for(done)

    def _call_lanes(self) -> None:
        """Have all lanes looked into: a `send` that was interrupted may not have called."""
        for lane in list(self._lanes.values()):
            if lane.sent:
                self._pipe.put(lane)

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _look(self) -> None:
        """In the thread that packs, when it has nothing to do: as above, when nobody asks."""
        for lane in list(self._lanes.values()):
            if lane.sent:
                self._pack(lane)

    def _pack(self, item: _Lane | Signal) -> None:
        """In one thread: what a lane holds is validated and laid out, a chunk at a time."""
        publisher = self._usable()
        if isinstance(item, Signal):
            publisher.put(item.set)
            return
        item.working = True
        item.called = False
        left = len(item.sent)
        while left:
            parcel, taken = item.take(left)
            left -= taken
            try:
                parcel.prepare()
            except Exception as exc:  # noqa: BLE001 - it is raised to whoever asks for the outcome
                parcel.error = exc
            self._ahead.acquire()
            item.packed += 1
            publisher.put(partial(self._publish_packed, item, parcel))
        item.working = False

    def _publish_packed(self, lane: _Lane, parcel: Parcel) -> None:
        """In another, which mostly compresses and waits for the disk: each chunk becomes one transaction."""
        if parcel.error is None:
            self._usable().send((parcel,))
        self._failure = self._failure or parcel.error
        lane.answered += 1
        self._ahead.release()


_OPENED: WeakSet[Client] = WeakSet()


@atexit.register
def _at_exit() -> None:
    """While the threads of the clients still run: as files that nobody closed are written."""
    for client in list(_OPENED):
        try:
            client.flush()
        except Closed:  # a close that was interrupted, or an error that the program has been told of
            continue
        except PenstockError as exc:
            emit.log(logging.WARNING, "not all that was sent is stored, of a client that nobody closed", reason=exc)


class _Lane:
    """What was sent to one topic and is not under way yet. Any thread appends, one thread takes.

    Without a lock: appending to a deque, taking from its other end and its length are each one step. `called` is
    taken back before the lane is looked into, so whatever is appended afterwards calls again.
    """

    def __init__(self, topic: TypedTopic[Any]) -> None:
        self.topic = topic
        self.encode = topic.encode_quick
        self.sent: deque[Receipt | FrameReceipt] = deque()
        self.called = False  # the thread has been told and has not looked yet
        self.working = False  # some of it is being packed
        self.packed = self.answered = 0  # chunks; each is counted by one thread only
        self._room = Signal()
        self.ended = False

    @property
    def busy(self) -> bool:
        """Whether anything that was sent has no answer yet."""
        return bool(self.sent) or self.working or self.packed != self.answered

    def full(self, size: int) -> bool:
        """Whether an event of `size` bytes must wait until others are under way."""
        return len(self.sent) * (SENT_OVERHEAD_BYTES + size) > SENT_BYTES_MAX

    def wait_for_room(self, size: int) -> None:
        """Return when there is room for an event of `size` bytes.

        Raises:
            Closed: the client was closed meanwhile.
        """
        while self.full(size) and not self.ended:
            self._room.clear()
            if self.full(size) and not self.ended:
                self._room.wait(LOOK_S)
        if self.ended:
            raise Closed(NOT_OPEN)

    def end(self) -> None:
        """Nobody takes any more: what other threads sent while the client was closed is answered so.

        Who sends behind it finds that nobody was called, and comes here too.
        """
        self.ended = True
        self.called = False
        while self.sent:
            self.take(len(self.sent))[0].error = Closed(NOT_OPEN)
        self._room.set()

    def take(self, limit: int) -> tuple[Parcel, int]:
        """A chunk of what was sent, and how much of it that is: one frame, or `limit` events; there are as many."""
        first = self.sent[0]
        if isinstance(first, FrameReceipt):
            parcel, taken = first.held, 1
            self.sent.popleft()
        else:
            parcel = Parcel(self.topic)
            parcel.take(self.sent, min(limit, CHUNK_EVENTS))
            taken = parcel.count
        self._room.set()
        return parcel, taken
