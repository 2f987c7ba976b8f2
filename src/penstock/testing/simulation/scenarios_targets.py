"""What stands at the ends under faults: a sink's transactional target, a source, and a client that publishes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from penstock.app.aclient import AsyncClient
from penstock.app.app import App
from penstock.app.declared import TopicHandle
from penstock.app.outcome import Acked, Outcome, Unknown
from penstock.app.plan import plan_app
from penstock.app.running import RunOptions
from penstock.channel.api import Owned
from penstock.errors import Fenced, LogRegressed, OutcomeUnknown, PenstockError, TransientError
from penstock.event.batch import Rows
from penstock.schema import Schema
from penstock.sink.api import Claim, Roll, Sink, Staged
from penstock.source.api import Bad, Chunk, Source
from penstock.system.chance import Random
from penstock.system.ports import System
from penstock.testing.simulation.faults import FaultyChannel
from penstock.testing.simulation.history import Place
from penstock.testing.simulation.outcome import Anomaly
from penstock.testing.simulation.outcome import Outcome as WorldOutcome
from penstock.testing.simulation.process import host
from penstock.testing.simulation.scenario import RETRY_S, Host, Scenario
from penstock.testing.simulation.scenarios_app import Job, effects_in, job_of, opened_on, parts_of, scenario_of, to_json
from penstock.testing.simulation.scenarios_handlers import handling
from penstock.testing.simulation.tape import KINDS, OPERATIONS, PATIENT

TARGET = "table"
BUSY = 0.1
RESTORED = 0.3

# -- a sink --------------------------------------------------------------------------------------------------------


class _Place(msgspec.Struct, frozen=True):
    """One partition as the target has it: who may write, how far it is, and the rows."""

    epoch: int = 0
    position: int = 0
    rows: tuple[bytes, ...] = ()


class Target:
    """A transactional target that outlives every process: a partition changes as one value."""

    def __init__(self) -> None:
        self.places: dict[int, _Place] = {}
        self.copies: dict[int, list[_Place]] = {}

    def put(self, partition: int, place: _Place) -> None:
        """Commit."""
        self.copies.setdefault(partition, []).append(self.places.get(partition, _Place()))
        self.places[partition] = place


class TargetSink(msgspec.Struct, frozen=True):
    """What a program would declare of it."""

    seconds: float = 0.2
    needs: tuple[str, ...] = ()

    def open(self) -> Sink:
        """The sink in the simulated process that runs here."""
        process = host()
        target = process.disk.setdefault(TARGET, Target())
        return _TargetSink(target, Roll(events_max=3, seconds=self.seconds), process.chance)


class _TargetSink:
    """See `Sink`. At times the target is busy, or an older copy of it was put back."""

    def __init__(self, target: Target, roll: Roll, chance: Random) -> None:
        self.name = TARGET
        self.roll = roll
        self.together = False
        self._target = target
        self._chance = chance
        self._staged: dict[Owned, tuple[int, list[bytes]]] = {}

    def claim(self, claim: Claim) -> int:
        """See `Sink`."""
        self._busy()
        partition = claim.owned.partition
        place = self._target.places.get(partition, _Place())
        if place.epoch > claim.owned.epoch:
            raise Fenced(f"{TARGET}/{partition} belongs to epoch {place.epoch}; this is {claim.owned.epoch}")
        copies = self._target.copies.get(partition)
        if copies and self._chance.random() < RESTORED:  # nobody puts a copy back while an owner is at work
            place = copies[self._chance.randrange(len(copies))]
        if place.position > claim.tip:
            raise LogRegressed(f"{TARGET}/{partition} is at {place.position}, the log ends at {claim.tip}")
        self._target.places[partition] = msgspec.structs.replace(place, epoch=claim.owned.epoch)
        self._staged[claim.owned] = (place.position, [])
        return place.position

    def write(self, staged: Staged) -> None:
        """See `Sink`."""
        end, rows = self._staged[staged.owned]
        assert staged.first == end, f"staged {staged.first} after {end}: a gap, or twice the same"
        rows += [msgspec.json.encode(row) for row in staged.table.to_pylist()]
        self._staged[staged.owned] = (staged.end, rows)

    def commit(self, owned: Owned) -> int:
        """See `Sink`."""
        self._busy()
        end, rows = self._staged[owned]
        place = self._target.places[owned.partition]
        if place.epoch != owned.epoch:
            del self._staged[owned]
            raise Fenced(f"{TARGET}/{owned.partition} belongs to epoch {place.epoch}; this is {owned.epoch}")
        if rows:
            self._target.put(owned.partition, _Place(owned.epoch, end, (*place.rows, *rows)))
            self._staged[owned] = (end, [])
        return end

    def close(self) -> None:
        """See `Sink`."""
        self._staged.clear()

    def _busy(self) -> None:
        if self._chance.random() < BUSY:
            msg = f"{TARGET} is held by somebody else"
            raise TransientError(msg)


def rows_of(disk: Mapping[str, Any]) -> dict[Place, Sequence[bytes]]:
    """The target's rows, as `Scenario.targets` wants them."""
    target: Target = disk.get(TARGET) or Target()
    return {(TARGET, partition): place.rows for partition, place in target.places.items()}


def caught_up(disk: Mapping[str, Any], tips: Mapping[Place, int]) -> bool:
    """An older copy of the target has been filled up again."""
    target: Target = disk.get(TARGET) or Target()
    ends = [(partition, tip) for (topic, partition), tip in tips.items() if topic == "passed"]
    return all(target.places.get(partition, _Place()).position >= tip for partition, tip in ends)


def sink() -> Scenario:
    """A flow and a sink into a target that keeps the position: each input is there once, whatever dies when."""
    app = App("simulated")
    jobs = app.topic("jobs", Job, key="key", partitions=2)
    app.flow("passed", jobs).filter(_everything()).to(TargetSink())
    made = scenario_of(app, jobs, name="sink", outputs=(TARGET,))
    return replace(made, targets=rows_of, at_rest=caught_up, operations=(*OPERATIONS, "offload"))


def _everything() -> Any:
    import polars as pl  # noqa: PLC0415

    return pl.col("number") >= 0


# -- a source ------------------------------------------------------------------------------------------------------


class Feed(msgspec.Struct, frozen=True):
    """A source over what its producer is to publish: see `SourceSpec`."""

    def open_source(self, base: Path, name: str, *, event_bytes_max: int) -> Source:
        """The source in the simulated process that runs here."""
        return _Feed(name, [to_json(event) for events in host().load for event in events])


class _Feed:
    """Lines in memory; before every third one stands a line that is no event."""

    finite = True

    def __init__(self, name: str, lines: list[bytes]) -> None:
        self.name = name
        self._lines = lines
        self._at = 0

    def open(self, schema: Schema[Any] | None, position: bytes) -> None:
        """See `Source`."""
        self._at = int(position or b"0")

    def read(self, *, events_max: int, bytes_max: int, until: bytes | None = None) -> Chunk | None:
        """See `Source`: chunks of one to three lines, by the position."""
        first = self._at
        if first >= len(self._lines):
            return None
        self._at = int(until or min(len(self._lines), first + 1 + first % 3))
        bad = [_bad(self.name, number) for number in range(first, self._at) if number % 3 == 0]
        return Chunk(Rows.of(self._lines[first : self._at]), b"%d" % self._at, bad)

    def close(self) -> None:
        """See `Source`."""


def _bad(name: str, number: int) -> Bad:
    return Bad(f"line {number}", f"{name} {number}".encode(), "no event")


def source() -> Scenario:
    """Two sources, read to their ends whatever dies meanwhile, before the handlers of `scenarios_handlers`."""
    app = handling()
    jobs = app.topics["jobs"]
    for number in range(2):
        app.read(Feed(), into=jobs, name=f"feed{number}")
    plan = plan_app(app)

    async def produce(process: Host, channel: FaultyChannel, system: System) -> None:
        number = process.name.rpartition("-")[2]
        reading = copy(app)
        reading.handlers, reading.sources = {}, {f"feed{number}": app.sources[f"feed{number}"]}
        while True:
            supervisor = await parts_of(reading, plan, RunOptions(), host=process, channel=channel, system=system)
            try:
                await supervisor.run()
            except OutcomeUnknown:  # a program would end here, and be started again
                await system.clock.sleep(RETRY_S)
            else:
                return

    made = scenario_of(app, jobs, name="source", outputs=("done", "work.dead"))
    return replace(made, produce=produce, judges=(each_bad_once,), operations=("publish", "offload"))


def each_bad_once(outcome: WorldOutcome, twin: WorldOutcome | None) -> Iterator[Anomaly]:
    """What could not be read is laid aside once, in its order, for each source."""
    for number in range(2):
        name = f"feed{number}"
        found = [kept.body for kept in effects_in(outcome.topics, f"source.{name}.dead")]
        wanted = [_bad(name, line).body for line in range(0, 3 * len(found), 3)]
        if found != wanted:
            yield Anomaly("duplicated", f"source {name} laid {found} aside; expected {wanted}")


# -- a client ------------------------------------------------------------------------------------------------------


def client() -> Scenario:
    """A client whose publishes are lost, late and doubled on the way, before the handlers of `scenarios_handlers`."""
    app = handling()
    jobs = app.topics["jobs"]
    plan = plan_app(app)

    async def produce(process: Host, channel: FaultyChannel, system: System) -> None:
        publisher = AsyncClient(app)
        await publisher.attach(await opened_on(plan, channel, system))
        told: list[tuple[Job, Acked]] = process.disk.setdefault("told", [])
        for events in process.load:
            found = await _published(publisher, jobs, [*map(job_of, events)], system)
            for event, outcome in zip(events, found, strict=True):
                while isinstance(outcome, Unknown):
                    await system.clock.sleep(RETRY_S)
                    with suppress(TransientError):
                        outcome = await publisher.resolve(outcome)  # noqa: PLW2901 - until it is known
                if not isinstance(outcome, Acked):
                    raise PenstockError(outcome.reason)
                told.append((job_of(event), outcome))

    made = scenario_of(app, jobs, name="client", outputs=("done", "work.dead"))
    kinds = {**KINDS, "publish": PATIENT}
    return replace(made, produce=produce, judges=(where_told,), kinds=kinds, operations=("publish",))


async def _published(
    publisher: AsyncClient, topic: TopicHandle[Job], events: list[Job], system: System
) -> list[Outcome]:
    """Either way, and never side by side: what is published behind an unknown outcome may be stored before it."""
    while True:
        try:
            if len(events) == 1:
                return [await publisher.publish(topic, events[0])]
            return await publisher.publish_many(topic, events)
        except TransientError:
            await system.clock.sleep(RETRY_S)


def where_told(outcome: WorldOutcome, twin: WorldOutcome | None) -> Iterator[Anomaly]:
    """Every event lies where its own outcome says."""
    told: list[tuple[Job, Acked]] = outcome.disk.get("told", [])
    for job, acked in told:
        contents = outcome.topics[acked.topic, acked.partition]
        there = contents[acked.offset].body if acked.offset < len(contents) else b""
        if there != msgspec.json.encode(job):
            place = f"{acked.topic}/{acked.partition}@{acked.offset}"
            yield Anomaly("lost", f"{job} was acked at {place}; found {there!r} there")
