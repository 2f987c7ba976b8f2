"""Publishing from asyncio: every task awaits its own durable answer, and one commit serves all that wait."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from penstock.app.declared import AnyTopic, Program, topic_name
from penstock.app.opened import Numbering, Opened, open_app, tell_when_forked
from penstock.app.outbox import (
    CHUNK_BYTES,
    CHUNK_EVENTS,
    Parcel,
    assemble,
    laid_out,
    leave_out,
    resolved,
    ticket_of,
    together,
)
from penstock.app.outcome import Outcome, Rejected, Unknown
from penstock.app.plan import plan_topics
from penstock.channel import api
from penstock.errors import Closed, OutcomeUnknown, TransientError
from penstock.system.ports import real_system

WAITING_EVENTS_MAX = 50_000
WAITING_BYTES_MAX = 16_000_000


class _Job:
    """Parcels that are published as one transaction, and who waits for them."""

    __slots__ = ("done", "events", "open", "parcels", "publish", "size", "waiters")

    def __init__(self, done: asyncio.Future[None]) -> None:
        self.parcels: dict[str, Parcel] = {}
        self.publish: api.Publish | None = None  # what is under way
        self.waiters: list[tuple[asyncio.Future[Outcome], Parcel, int]] = []
        self.done = done
        self.events = self.size = 0
        self.open = False


class AsyncClient:
    """See `Client`; its methods are awaited. Used from one event loop; at home in a server's lifespan.

    A task that is cancelled while it waits does not know the outcome: the event may be stored or not. An I/O error
    closes the log object, never the process: later calls raise, and a new client finds out what is stored.
    """

    def __init__(self, app: Program, *, producer: str | None = None) -> None:
        self._app = app
        self._name = producer
        self._opened: Opened | None = None
        self._inherited: Opened | None = None
        self._numbers: Numbering | None = None
        self._jobs: deque[_Job] = deque()
        self._waiting_events = self._waiting_bytes = 0
        self._sender: asyncio.Task[None] | None = None
        self._end: asyncio.Task[None] | None = None
        self._closing = False
        self._ended = False

    async def open(self) -> None:
        """Open the app's log and declare its topics there; what ``async with`` does.

        Raises:
            PenstockError: why it cannot be opened.
        """
        system = real_system()
        opened: Opened | None = None
        try:
            opened = await open_app(self._app, plan_topics(self._app), system)
            await self.attach(opened)
        except BaseException:
            if opened is not None:
                await opened.close()
            system.offload.close()
            raise

    async def attach(self, opened: Opened) -> None:
        """Publish over a channel that is open already, real or simulated; instead of `open`."""
        self._numbers = await opened.numbering(self._name)
        self._news = asyncio.Event()
        self._turns: deque[asyncio.Event] = deque()  # of those that wait for room
        self._closing = self._ended = False
        self._end = None
        self._opened = opened
        self._sender = asyncio.ensure_future(self._send_all(opened, self._numbers))
        tell_when_forked(self)

    async def close(self) -> None:
        """Publish what waits, then let the log go; may be called twice.

        May be cancelled: then it goes on by itself, and who waits for an answer gets it.
        """
        if self._opened is None or self._sender is None:
            return
        self._closing = True
        self._news.set()
        if self._end is None:
            self._end = asyncio.ensure_future(self._let_go(self._opened, self._sender))
        await asyncio.shield(self._end)

    async def _let_go(self, opened: Opened, sender: asyncio.Task[None]) -> None:
        """The end of the client, whoever waits for it."""
        try:
            await asyncio.wait([sender])
        finally:
            sender.cancel()  # nothing to a sender that has ended
            self._opened = None
            await opened.close()
            opened.system.offload.close()

    def forked(self) -> None:
        """See `Forkable`: a forked child has no loop that sends, and the parent's log is not its own."""
        self._inherited, self._opened = self._opened, None

    # -- publishing ------------------------------------------------------------------------------------------------

    async def publish(self, topic: AnyTopic, event: Any) -> Outcome:
        """Publish one event and wait until it is durable; see `Client.publish`.

        May be cancelled: then the outcome is unknown.
        """
        opened = self._topic(topic)
        if self._full or self._turns:
            await self._until_room()
        job = self._open_job()
        parcel = job.parcels.get(opened.name)
        if parcel is None:
            parcel = job.parcels[opened.name] = Parcel(opened)
        before = parcel.size
        index = parcel.add(event)
        self._count(job, 1, parcel.size - before)
        if job.events >= CHUNK_EVENTS or parcel.size >= CHUNK_BYTES:
            job.open = False
        waiter: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        job.waiters.append((waiter, parcel, index))
        return await waiter

    async def publish_many(self, topic: AnyTopic, events: Iterable[Any]) -> list[Outcome]:
        """Publish events as one transaction; see `Client.publish_many`."""
        parcel = Parcel(self._topic(topic))
        for event in events:
            parcel.add(event)
        await self._published((parcel,))
        return parcel.outcomes()

    async def publish_together(self, pairs: Iterable[tuple[AnyTopic, Any]]) -> list[Outcome]:
        """Publish events of any topics as one transaction, all or none; see `Client.publish_together`."""
        parcels: dict[str, Parcel] = {}
        placed: list[tuple[Parcel, int]] = []
        for topic, event in pairs:
            opened = self._topic(topic)
            parcel = parcels.setdefault(opened.name, Parcel(opened))
            placed.append((parcel, parcel.add(event)))
        if together(list(parcels.values())):
            await self._published(list(parcels.values()))
        return [parcel.outcome(index) for parcel, index in placed]

    async def publish_frame(self, topic: AnyTopic, frame: Any) -> list[Outcome]:
        """Publish a frame as columns, as one transaction; see `Client.publish_frame`."""
        from penstock.app.frames import frame_batches  # noqa: PLC0415

        opened = self._topic(topic)
        batches = frame_batches(opened, frame)
        if isinstance(batches, Rejected):
            return [batches]
        parcel = laid_out(opened, batches)
        await self._published((parcel,))
        return parcel.outcomes()

    async def resolve(self, unknown: Unknown) -> Outcome:
        """Find out what became of an event whose outcome is unknown; see `Client.resolve`."""
        if self._opened is None:
            raise Closed(_NOT_OPEN)
        return resolved(unknown, await self._opened.channel.publish(ticket_of(unknown)))

    def _topic(self, topic: AnyTopic) -> Any:
        if self._opened is None or self._closing:
            raise Closed(_NOT_OPEN)
        return self._opened.topic(topic_name(topic))

    @property
    def _full(self) -> bool:
        """Whether so much waits that whoever comes must wait before it is taken on."""
        return self._waiting_events >= WAITING_EVENTS_MAX or self._waiting_bytes >= WAITING_BYTES_MAX

    def _count(self, job: _Job, events: int, size: int) -> None:
        """So much more waits, or less, with the job."""
        job.events += events
        job.size += size
        self._waiting_events += events
        self._waiting_bytes += size

    async def _until_room(self) -> None:
        """Return when there is room; the caller takes it at once. Who waits here when the client is closed is served.

        Raises:
            Closed: the sender was cancelled.
        """
        turn = asyncio.Event()
        self._turns.append(turn)
        try:
            while (self._full or self._turns[0] is not turn) and not self._ended:
                turn.clear()
                await turn.wait()
        finally:
            self._turns.remove(turn)
            self._news.set()
            self._wake()
        if self._ended:
            raise Closed(_NOT_OPEN)

    def _wake(self) -> None:
        """Have the first of those that wait look for room, who wakes the next: all at once would find it taken."""
        if self._turns:
            self._turns[0].set()

    # -- sending ---------------------------------------------------------------------------------------------------

    def _open_job(self) -> _Job:
        """The last job, when single events may still join it; else a new one."""
        if self._jobs and self._jobs[-1].open:
            return self._jobs[-1]
        job = _Job(asyncio.get_running_loop().create_future())
        job.open = True
        self._jobs.append(job)
        self._news.set()
        return job

    async def _published(self, parcels: Sequence[Parcel]) -> None:
        if self._full or self._turns:
            await self._until_room()
        job = _Job(asyncio.get_running_loop().create_future())
        job.parcels = {parcel.topic.name: parcel for parcel in parcels}
        self._count(job, sum(parcel.count for parcel in parcels), sum(parcel.size for parcel in parcels))
        self._jobs.append(job)
        self._news.set()
        await asyncio.shield(job.done)
        for parcel in parcels:
            if parcel.error is not None:
                raise parcel.error

    async def _send_all(self, opened: Opened, numbers: Numbering) -> None:
        """One publish at a time, in the order of the calls; what comes meanwhile goes together into the next.

        Everybody gets an answer, also when it is cancelled (a loop that ends).
        """
        try:
            while self._jobs or self._turns or not self._closing:
                if not self._jobs:
                    self._news.clear()
                    await self._news.wait()
                    continue
                job = self._jobs.popleft()
                job.open = False
                try:
                    await self._send(job, opened, numbers)
                finally:
                    self._count(job, -job.events, -job.size)
                    self._wake()
                    self._answer(job)
        finally:
            self._closing = self._ended = True
            for job in self._jobs:
                _stopped(job)
                self._answer(job)
            self._jobs.clear()
            self._wake()

    async def _send(self, job: _Job, opened: Opened, numbers: Numbering) -> None:
        parcels = list(job.parcels.values())
        try:
            await self._sent(job, opened.channel, numbers)
        except Exception as exc:  # noqa: BLE001 - it is raised to whoever waits for the outcome
            for parcel in parcels:
                parcel.error = exc
            return
        except asyncio.CancelledError:
            _stopped(job)
            raise

    async def _sent(self, job: _Job, channel: api.Channel, numbers: Numbering) -> None:
        """Publish under the next numbers; see `Client`."""
        parcels = list(job.parcels.values())
        while batches := assemble(parcels):
            if numbers.unsure:
                await numbers.renew()
            job.publish = api.Publish(numbers.producer, numbers.epoch, numbers.sequence, batches)
            numbers.unsure = True
            try:
                answer = await channel.publish(job.publish)
            except TransientError as exc:
                numbers.unsure = isinstance(exc, OutcomeUnknown)  # of the others nothing was stored
                raise
            if not numbers.settle(answer):
                for parcel in parcels:
                    parcel.settle(job.publish, answer)
                return
            leave_out(parcels, answer)

    def _answer(self, job: _Job) -> None:
        if not job.done.done():
            job.done.set_result(None)
        for waiter, parcel, index in job.waiters:
            if waiter.done():
                continue
            try:
                waiter.set_result(parcel.outcome(index))
            except Exception as exc:  # noqa: BLE001 - as above
                waiter.set_exception(exc)


def _stopped(job: _Job) -> None:
    """The client ends here: what is under way may be stored, what waits is not."""
    for parcel in job.parcels.values():
        if job.publish is None:
            parcel.error = Closed(_NOT_OPEN)
        else:
            parcel.settle(job.publish, api.Unknown("the client was stopped while this was published"))


_NOT_OPEN = "the client is not open: use it with `async with app.client() as client` (in a forked child too)"
