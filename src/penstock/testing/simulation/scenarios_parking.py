"""Parking under faults: keys that wait while others go on, a target that is down, a crowded lot, redriven letters."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec

from penstock.app.app import App
from penstock.channel.api import Publish, Refused, Unknown
from penstock.channel.drivers.embedded.driver import EmbeddedChannel
from penstock.channel.drivers.embedded.upkeep import Upkeep, UpkeepConfig
from penstock.delivery.lot import SPACE as PARKED
from penstock.delivery.lot import OnFailure, heads_of
from penstock.delivery.redrive import Command, encode
from penstock.delivery.retry import Retry
from penstock.engine.context import Context
from penstock.engine.place import ATTEMPTS
from penstock.errors import PenstockError
from penstock.event.batch import NewBatch, Rows
from penstock.observe.keeping import apart_of
from penstock.system.ports import System
from penstock.testing.simulation.faults import FaultyChannel
from penstock.testing.simulation.history import Stored
from penstock.testing.simulation.loop import SimLoop
from penstock.testing.simulation.outcome import Anomaly, Event, Outcome
from penstock.testing.simulation.process import host
from penstock.testing.simulation.scenario import Host, Scenario, publish_all, tried
from penstock.testing.simulation.scenarios_app import Job, from_json, scenario_of
from penstock.testing.simulation.system import sleep

DOWN_CALLS = 14
BREAKER = 2
KEYS_MAX = 2
LOOK_S = 0.2
TRIM_S = 0.05
SETTLED_S = 2.5
ROUNDS = 2


class Done(msgspec.Struct):
    """What handling a job gives."""

    key: str
    number: int


def _app(options: dict[str, Any], fails: Any) -> App:
    """Jobs that fail as `fails` says, and are all done in the end."""
    app = App("simulated")
    jobs = app.topic("jobs", Job, key="key", partitions=2)
    done = app.topic("done", Done, key="key", partitions=2)

    @app.handle(jobs, into=done, **options)
    def work(job: Job, ctx: Context) -> Done:  # pyright: ignore[reportUnusedFunction]
        fails(job, ctx)
        return Done(job.key, job.number)

    return app


def _scenario(app: App, name: str, *judges: Any) -> Scenario:
    made = scenario_of(app, app.topics["jobs"], name=name, outputs=("done",))
    return replace(made, spaces=(ATTEMPTS, PARKED), fold=lambda _: {}, judges=judges, keys=6)


def most_waiting(outcome: Outcome) -> int:
    """How many keys of one partition have waited at once, as far as steps say."""
    ledgers: dict[int, dict[bytes, bytes]] = {}
    most = 0
    for _, entry in outcome.history.entries:
        if not isinstance(entry, Stored):
            continue
        ledger = ledgers.setdefault(entry.step.owned.partition, {})
        for write in entry.step.ledger:
            if write.space == PARKED and write.value is None:
                ledger.pop(write.key, None)
            elif write.space == PARKED and write.value is not None:
                ledger[write.key] = write.value
        most = max(most, len(heads_of(ledger.items())))
    return most


def at_most(limit: int) -> Any:
    """An oracle: never more keys wait than that."""

    def judge(outcome: Outcome, twin: Outcome | None) -> Iterator[Anomaly]:
        del twin
        most = most_waiting(outcome)
        if most > limit:
            yield Anomaly("overflow", f"{most} keys of one partition wait; at most {limit} may")

    return judge


# -- a target that is down -----------------------------------------------------------------------------------------


def _down(job: Job, ctx: Context) -> None:
    del job, ctx
    disk = host().disk
    disk["calls"] = disk.get("calls", 0) + 1
    if disk["calls"] <= DOWN_CALLS:
        raise ConnectionError("down")


def outage() -> Scenario:
    """A target that fails for a while: nothing is given up, and no more keys wait than the breaker lets."""
    options = {"retry": Retry(DOWN_CALLS + 1, first_s=0.03, pause_max_s=0.2), "on_failure": OnFailure(breaker=BREAKER)}
    return _scenario(_app(options, _down), "outage", at_most(BREAKER))


# -- a crowded lot -------------------------------------------------------------------------------------------------


def _first_time(job: Job, ctx: Context) -> None:
    if job.number % 2 == 0 and ctx.attempt <= 1 + job.number % 3:
        raise ValueError("not yet")


def crowded() -> Scenario:
    """More keys fail than may wait: the partition pauses, and nothing is lost or overtaken."""
    options = {"retry": Retry(4, first_s=0.03, jitter=True), "on_failure": OnFailure(keys_max=KEYS_MAX)}
    return _scenario(_app(options, _first_time), "crowded", at_most(KEYS_MAX))


# -- a log that is trimmed -----------------------------------------------------------------------------------------


def trimmed() -> Scenario:
    """Retention removes all that may be removed while events are parked: none that is still needed is."""
    app = _app({"retry": Retry(4, first_s=0.15, factor=3.0)}, _first_time)
    app.retain(app.topics["jobs"], bytes=1)
    made = _scenario(app, "trimmed")
    work = made.member

    async def member(process: Host, channel: FaultyChannel, system: System) -> None:
        inner = channel.inner
        if not isinstance(inner, EmbeddedChannel):  # the fault-free twin keeps everything
            await work(process, channel, system)
            return
        upkeep = asyncio.ensure_future(Upkeep(inner, system, UpkeepConfig(every_s=TRIM_S), apart_of=apart_of).run())
        try:
            await work(process, channel, system)
        finally:
            upkeep.cancel()

    return replace(made, member=member)


# -- side by side --------------------------------------------------------------------------------------------------


def side_by_side() -> Scenario:
    """Events of different keys are handled at once, and end in any order: no gap in progress, order inside a key."""
    app = App("simulated")
    jobs = app.topic("jobs", Job, key="key", partitions=2)
    done = app.topic("done", Done, key="key", partitions=2)

    @app.handle(jobs, into=done, concurrency=4, retry=Retry(4, first_s=0.03))
    async def work(job: Job, ctx: Context) -> Done:  # pyright: ignore[reportUnusedFunction]
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimLoop)
        await sleep(loop, (job.number * 7 % 5) * 0.06)
        _first_time(job, ctx)
        return Done(job.key, job.number)

    return _scenario(app, "side_by_side")


# -- block, and an operator ----------------------------------------------------------------------------------------


def _until_redriven(job: Job, ctx: Context) -> None:
    if job.number % 4 == 3 and not ctx.redriven:
        raise ValueError("somebody has to look")


class Operator:
    """Redrives every dead letter, each of them ROUNDS times, until all that this process published is done."""

    def __init__(self, process: Host, channel: FaultyChannel, system: System) -> None:
        self._process = process
        self._channel = channel
        self._clock = system.clock
        self._scenario = process.scenario
        self._asked: list[tuple[int, int, int, bytes]] = []

    async def run(self) -> None:
        """See the class."""
        wanted = {event for events in self._process.load for event in events}
        while not wanted <= await self._done():
            await self._look()
            await self._clock.sleep(LOOK_S)
        for number in range(1, ROUNDS):
            for partition, letter, offset, body in self._asked:
                await self._ask(partition, letter, offset, body, number=number)
        await self._clock.sleep(SETTLED_S)

    async def _done(self) -> set[Event | None]:
        return {from_json("done", body) for partition in range(2) for body in await self._bodies("done", partition)}

    async def _bodies(self, topic: str, partition: int) -> list[bytes]:
        out: list[bytes] = []
        while batches := await self._channel.read(topic, partition, len(out), events_max=100):
            for batch in batches:
                assert isinstance(batch.payload, Rows)
                out += batch.payload.bodies()
        return out

    async def _look(self) -> None:
        known = {(partition, letter) for partition, letter, _, _ in self._asked}
        for partition in range(2):
            at = 0
            while batches := await self._channel.read("work.dead", partition, at, events_max=100):
                for batch in batches:
                    assert isinstance(batch.payload, Rows)
                    headers = batch.payload.attributes["headers"]
                    for index, body in enumerate(batch.payload.bodies()):
                        letter = batch.first + index
                        if (partition, letter) not in known:
                            self._asked.append((partition, letter, int(headers[index]["offset"]), body))
                            await self._ask(*self._asked[-1], number=0)
                at = batches[-1].end

    async def _ask(self, partition: int, letter: int, offset: int, body: bytes, *, number: int) -> None:
        event = from_json("jobs", body)
        assert event is not None
        command = Command("redrive", letter, offset, body, event.key.encode())
        batch = NewBatch("work.redrive", partition, 1, Rows.of([encode(command)]))
        publish = Publish(f"operator-{self._process.name}-{partition}-{letter}-{number}", 0, 0, [batch])
        while isinstance(answer := await tried(self._channel, publish), Unknown):
            await self._clock.sleep(LOOK_S)
        if isinstance(answer, Refused):
            raise PenstockError(answer.reason)


async def _published_and_redriven(process: Host, channel: FaultyChannel, system: System) -> None:
    await publish_all(process, channel, system)
    await Operator(process, channel, system).run()


def blocking() -> Scenario:
    """Keys wait for an operator, who redrives each letter more than once: each event is done once, in order."""
    options = {"retry": Retry(2, first_s=0.03), "on_failure": OnFailure(given_up="block")}
    made = _scenario(_app(options, _until_redriven), "blocking")
    return replace(made, produce=_published_and_redriven, keys=3)
