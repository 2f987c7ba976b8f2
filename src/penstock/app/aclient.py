"""Publishing from asyncio: every task awaits its own durable answer, and one commit serves all that wait."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from penstock.app.declared import AnyTopic, Program
from penstock.app.opened import Opened, open_app
from penstock.app.outbox import CHUNK_BYTES, CHUNK_EVENTS, Parcel, assemble, resolved, together
from penstock.app.outcome import Acked, Outcome, Rejected, Unknown
from penstock.app.plan import plan_topics
from penstock.channel import api
from penstock.errors import Closed
from penstock.event.batch import NewBatch
from penstock.system.ports import real_system

WAITING_EVENTS_MAX = 50_000


class _Job:
    """Parcels that are published as one transaction, and who waits for them."""

    __slots__ = ("batches", "done", "events", "open", "parcels", "waiters")

    def __init__(self, done: asyncio.Future[None]) -> None:
        self.parcels: dict[str, Parcel] = {}
        self.batches: Sequence[NewBatch] | None = None
        self.waiters: list[tuple[asyncio.Future[Outcome], Parcel, int]] = []
        self.done = done
        self.events = 0
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
        self._jobs: deque[_Job] = deque()
        self._waiting_events = 0
        self._sender: asyncio.Task[None] | None = None
        self._closing = False

    async def open(self) -> None:
        """Open the app's log and declare its topics there; what ``async with`` does.

        Raises:
            PenstockError: why it cannot be opened.
        """
        self._system = real_system()
        try:
            await self.attach(await open_app(self._app, plan_topics(self._app), self._system))
        except BaseException:
            self._system.offload.close()
            raise

    async def attach(self, opened: Opened) -> None:
        """Publish over a channel that is open already, real or simulated; instead of `open`."""
        self._opened, self._system = opened, opened.system
        self._producer, self._epoch, self._sequence = await opened.identity(self._name)
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._sender = asyncio.ensure_future(self._send_all())

    async def close(self) -> None:
        """Publish what waits, then let the log go; may be called twice."""
        if self._opened is None or self._sender is None:
            return
        self._closing = True
        self._news.set()
        await self._sender
        opened, self._opened = self._opened, None
        await opened.close()
        self._system.offload.close()

    # -- publishing ------------------------------------------------------------------------------------------------

    async def publish(self, topic: AnyTopic, event: Any) -> Outcome:
        """Publish one event and wait until it is durable; see `Client.publish`.

        May be cancelled: then the outcome is unknown.
        """
        opened = self._topic(topic)
        if self._waiting_events >= WAITING_EVENTS_MAX:
            await self._until_room()
        job = self._open_job()
        parcel = job.parcels.get(opened.name)
        if parcel is None:
            parcel = job.parcels[opened.name] = Parcel(opened)
        index = parcel.add(event)
        job.events += 1
        self._waiting_events += 1
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

    async def resolve(self, unknown: Unknown) -> Outcome:
        """Find out what became of an event whose outcome is unknown; see `Client.resolve`."""
        if self._opened is None:
            raise Closed(_NOT_OPEN)
        return resolved(unknown, await self._opened.channel.publish(unknown.ticket))

    def _topic(self, topic: AnyTopic) -> Any:
        if self._opened is None or self._closing:
            raise Closed(_NOT_OPEN)
        return self._opened.topic(topic if isinstance(topic, str) else topic.name)

    async def _until_room(self) -> None:
        while self._waiting_events >= WAITING_EVENTS_MAX:
            self._room.clear()
            await self._room.wait()

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
        if self._waiting_events >= WAITING_EVENTS_MAX:
            await self._until_room()
        job = _Job(asyncio.get_running_loop().create_future())
        job.parcels = {parcel.topic.name: parcel for parcel in parcels}
        job.events = sum(parcel.count for parcel in parcels)
        self._waiting_events += job.events
        self._jobs.append(job)
        self._news.set()
        await asyncio.shield(job.done)
        for parcel in parcels:
            if parcel.error is not None:
                raise parcel.error

    async def _send_all(self) -> None:
        """One publish at a time, in the order of the calls; what comes meanwhile goes together into the next."""
        while True:
            if not self._jobs:
                if self._closing:
                    return
                self._news.clear()
                await self._news.wait()
                continue
            job = self._jobs.popleft()
            job.open = False
            await self._send(job)
            self._waiting_events -= job.events
            self._room.set()
            self._answer(job)

    async def _send(self, job: _Job) -> None:
        parcels = list(job.parcels.values())
        try:
            publish = assemble(parcels, producer=self._producer, epoch=self._epoch, sequence=self._sequence)
            if not publish.batches:
                return
            assert self._opened is not None
            answer = await self._opened.channel.publish(publish)
        except Exception as exc:  # noqa: BLE001 - it is raised to whoever waits for the outcome
            for parcel in parcels:
                parcel.error = exc
            return
        if not isinstance(answer, api.Refused):
            self._sequence += 1
        for parcel in parcels:
            parcel.settle(publish, answer)

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


_NOT_OPEN = "the client is not open: use it with `async with app.client() as client`"
__all__ = ["Acked", "AsyncClient", "Rejected", "Unknown"]
