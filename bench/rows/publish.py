"""Publishing durably: columns in blocks, events one by one, and a thousand tasks that each await their ack."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.disk import Appender
from bench.product import fresh_app
from bench.row import Budget, Figure, Figures, Row
from bench.workload import POOL, POOL_QUICK, Bid, bids, encode, record_batch, repeated
from penstock import Acked
from penstock.event.batch import Columns
from penstock.log.blocks import encode_columns

if TYPE_CHECKING:
    from penstock import App
    from penstock.app.declared import TopicHandle

BLOCK_EVENTS = 10_000
TASKS = 1000


class PublishColumns(Row):
    """Floor: the same encoded blocks appended to a file, one fdatasync per block."""

    name = "publish-columns"
    workload = "publish Arrow batches of 10,000 bids durably, pipelined, one block and one sync each, all acked"
    figures = (Figure("events", "events/s", "higher", Budget(0.8)),)

    def setup(self, directory: Path, *, quick: bool) -> None:
        """See `Row`."""
        self.directory = directory
        pool = bids(POOL_QUICK if quick else POOL)
        batches = [record_batch(pool[i : i + BLOCK_EVENTS]) for i in range(0, len(pool), BLOCK_EVENTS)]
        self.batches = batches * (4 if quick else 40)
        blobs = {id(batch): encode_columns(Columns(batch))[0] for batch in batches}
        self.blobs = [blobs[id(batch)] for batch in self.batches]

    def floor(self) -> Figures:
        """See `Row`."""
        with Appender(self.directory / "floor") as file:
            start = time.perf_counter()
            for blob in self.blobs:
                file.append(blob)
                file.sync()
            taken = time.perf_counter() - start
        return {"events": len(self.blobs) * BLOCK_EVENTS / taken}

    def measure(self) -> Figures:
        """See `Row`."""
        with fresh_app(self.directory) as app:
            topic = app.topic("bids", Bid, partitions=1)
            with app.client() as client:
                start = time.perf_counter()
                receipts = [client.send_frame(topic, batch) for batch in self.batches]
                client.flush()
                taken = time.perf_counter() - start
                for receipt in receipts:
                    assert receipt.outcomes
                    assert all(isinstance(outcome, Acked) for outcome in receipt.outcomes)
        return {"events": len(self.batches) * BLOCK_EVENTS / taken}


class PublishOneByOne(Row):
    """Floor: encoding the same objects in a loop, nothing kept."""

    name = "publish-one-by-one"
    workload = (
        "publish 1,000,000 bids (189 bytes) one by one from Python, pipelined, validated, batch idempotence, all acked"
    )
    figures = (Figure("events", "events/s", "higher", Budget(0.2)),)

    def setup(self, directory: Path, *, quick: bool) -> None:
        """See `Row`."""
        self.directory = directory
        self.events = bids(POOL_QUICK) if quick else repeated(bids(POOL), 1_000_000)

    def floor(self) -> Figures:
        """See `Row`."""
        events = self.events
        start = time.perf_counter()
        for event in events:
            encode(event)
        return {"events": len(events) / (time.perf_counter() - start)}

    def measure(self) -> Figures:
        """See `Row`."""
        with fresh_app(self.directory) as app:
            topic = app.topic("bids", Bid)
            with app.client() as client:
                send = client.send
                start = time.perf_counter()
                receipts = [send(topic, event) for event in self.events]
                client.flush()
                taken = time.perf_counter() - start
                assert all(isinstance(receipt.outcome, Acked) for receipt in receipts)
        return {"events": len(self.events) / taken}


class PublishTasks(Row):
    """Floors: one append and fdatasync per event; and the same tasks awaiting a future that no disk stands behind."""

    name = "publish-tasks"
    workload = "1,000 asyncio tasks publish one bid each and await its durable ack, again and again"
    figures = (
        Figure("events", "events/s", "higher", Budget(30), floor="synced", label="sync-per-event"),
        Figure("events", "events/s", "higher", Budget(0.4), floor="future", label="in-memory-future"),
    )
    any_of = True

    def setup(self, directory: Path, *, quick: bool) -> None:
        """See `Row`."""
        self.directory = directory
        self.events = bids(TASKS // 10 if quick else TASKS)
        self.rounds = 2 if quick else 20

    def floor(self) -> Figures:
        """See `Row`."""
        return {"synced": self._synced(), "future": asyncio.run(self._futures())}

    def _synced(self) -> float:
        with Appender(self.directory / "floor") as file:
            start = time.perf_counter()
            for event in self.events:
                file.append(encode(event))
                file.sync()
            return len(self.events) / (time.perf_counter() - start)

    async def _futures(self) -> float:
        loop = asyncio.get_running_loop()
        waiting: list[tuple[bytes, asyncio.Future[None]]] = []

        def resolve() -> None:
            for _, future in waiting:
                future.set_result(None)
            waiting.clear()

        async def publish(event: Bid) -> None:
            future = loop.create_future()
            if not waiting:
                loop.call_soon(resolve)
            waiting.append((encode(event), future))
            await future

        start = time.perf_counter()
        for _ in range(self.rounds):
            async with asyncio.TaskGroup() as group:
                for event in self.events:
                    group.create_task(publish(event))
        return self.rounds * len(self.events) / (time.perf_counter() - start)

    def measure(self) -> Figures:
        """See `Row`."""
        with fresh_app(self.directory) as app:
            topic = app.topic("bids", Bid)
            return {"events": asyncio.run(self._acked(app, topic))}

    async def _acked(self, app: App, topic: TopicHandle[Bid]) -> float:
        async with app.client() as client:

            async def publish(event: Bid) -> None:
                outcome = await client.publish(topic, event)
                assert isinstance(outcome, Acked)

            start = time.perf_counter()
            for _ in range(self.rounds):
                async with asyncio.TaskGroup() as group:
                    for event in self.events:
                        group.create_task(publish(event))
            return self.rounds * len(self.events) / (time.perf_counter() - start)
