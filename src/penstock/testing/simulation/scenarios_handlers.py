"""Handlers under faults: results, rejections, retries, and events that kill the process that handles them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import msgspec

from penstock.app.app import App
from penstock.channel.api import LedgerWrite
from penstock.delivery.lot import SPACE as PARKED
from penstock.delivery.retry import Retry
from penstock.engine.context import Context
from penstock.engine.place import ATTEMPTS
from penstock.errors import Reject
from penstock.testing.simulation.history import Stored
from penstock.testing.simulation.outcome import Anomaly, Event, Outcome
from penstock.testing.simulation.process import host
from penstock.testing.simulation.scenario import Scenario
from penstock.testing.simulation.scenarios_app import Job, effects_in, scenario_of

TRIES = 3
DEATHS = 2


class Done(msgspec.Struct):
    """What handling a job gives."""

    key: str
    number: int
    attempt: int


def handling() -> App:
    """Jobs that are done, refused, tried again with success, and given up after the last try."""
    app = App("simulated")
    jobs = app.topic("jobs", Job, key="key", partitions=2)
    done = app.topic("done", Done, key="key", partitions=2)

    @app.handle(jobs, into=done, retry=Retry(TRIES, first_s=0.05))
    def work(job: Job, ctx: Context) -> Done | list[Done]:  # pyright: ignore[reportUnusedFunction]
        match job.number % 5:
            case 1:
                raise Reject("not to be done")
            case 2 if ctx.attempt < TRIES:
                raise ConnectionError("not yet")
            case 3:
                raise ValueError("never")
            case 4:
                return [Done(job.key, job.number, ctx.attempt)]
            case _:
                return Done(job.key, job.number, ctx.attempt)

    return app


def rightly_given_up(outcome: Outcome, twin: Outcome | None) -> Iterator[Anomaly]:
    """Dead letters say what they must, and the ids of effects do not depend on where steps ended."""
    wanted = {1: ("Reject", "1"), 3: ("ValueError", str(TRIES))}
    for kept in effects_in(outcome.topics, "work.dead"):
        found = (kept.headers.get("error"), kept.headers.get("attempts"))
        expected = wanted.get(kept.event.number % 5) if kept.event is not None else None
        if found != expected:
            yield Anomaly("twin", f"dead letter of {kept.event}: {found}; expected {expected}")
    if twin is None:
        return
    names = {topic: _ids(twin, topic) for topic in ("done", "work.dead")}
    for topic, ids in names.items():
        mine = _ids(outcome, topic)
        if mine.keys() == ids.keys() and mine != ids:
            differ = [event for event in ids if ids[event] != mine[event]]
            yield Anomaly("twin", f"topic {topic}: other ids than the twin's of {differ}")


def _ids(outcome: Outcome, topic: str) -> Mapping[Event | None, str]:
    return {kept.event: kept.id for kept in effects_in(outcome.topics, topic)}


def _nothing_on_record(events: object) -> dict[tuple[str, bytes], bytes]:
    """No event keeps attempts, and none waits, once it is settled."""
    return {}


def handlers() -> Scenario:
    """Outputs, dead letters and retries of one handler."""
    app = handling()
    made = scenario_of(app, app.topics["jobs"], name="handlers", outputs=("done", "work.dead"))
    return replace(made, spaces=(ATTEMPTS, PARKED), fold=_nothing_on_record, judges=(rightly_given_up,))


# -- killers -------------------------------------------------------------------------------------------------------


def is_killer(event: Event) -> bool:
    """One or two events of a world kill every process that handles them."""
    return event.number == 2 and event.key in {"k0", "k1"}


def killing() -> App:
    """Jobs some of which end the process in the middle of their handling."""
    app = App("simulated")
    jobs = app.topic("jobs", Job, key="key", partitions=2)
    done = app.topic("done", Done, key="key", partitions=2)

    @app.handle(jobs, into=done, retry=Retry(DEATHS, first_s=0.05))
    async def work(job: Job, ctx: Context) -> Done:  # pyright: ignore[reportUnusedFunction]
        event = Event(job.key, job.number)
        if is_killer(event):
            process = host()
            process.disk.setdefault("deaths", Counter[Event]())[event] += 1
            await process.die()
        return Done(job.key, job.number, 1)

    return app


def charged_rightly(outcome: Outcome, twin: Outcome | None) -> Iterator[Anomaly]:
    """Killers, and only they, are charged; each is given up, after so many deaths and hardly more."""
    inputs = {(topic, p): contents for (topic, p), contents in outcome.topics.items() if topic == "jobs"}
    for _, entry in outcome.history.entries:
        if not isinstance(entry, Stored):
            continue
        place = (entry.step.owned.topic, entry.step.owned.partition)
        for offset in _charged(entry.step.ledger):
            event = inputs[place][offset].event if offset < len(inputs[place]) else None
            if event is None or not is_killer(event):
                yield Anomaly("charged", f"{event} at {place}@{offset} is charged and has killed nobody")
    deaths: Counter[Event] = outcome.disk.get("deaths", Counter())
    # A fault may strike between a death and its record: that death is not charged, and another one follows. Or it stops
    # a process that goes on beside its heir: then two die of the event before either death is on record.
    most = DEATHS + len(outcome.struck)
    for kept in effects_in(outcome.topics, "work.dead"):
        if kept.event is None or not is_killer(kept.event):
            yield Anomaly("charged", f"{kept.event} is given up and has killed nobody: {kept.headers.get('reason')}")
        elif not DEATHS <= int(kept.headers.get("attempts", "0")) <= deaths[kept.event] <= most:
            told = f"{deaths[kept.event]} deaths, {kept.headers.get('attempts')} on record"
            yield Anomaly("charged", f"{kept.event} is given up after {told}; expected {DEATHS}, at most {most} deaths")


def _charged(ledger: Sequence[LedgerWrite]) -> Iterator[int]:
    return (int.from_bytes(w.key) for w in ledger if w.space == ATTEMPTS and w.value is not None)


def killers() -> Scenario:
    """A handler whose process dies in the middle of some events."""
    app = killing()
    made = scenario_of(app, app.topics["jobs"], name="killers", outputs=("done", "work.dead"))
    return replace(made, spaces=(ATTEMPTS,), fold=_nothing_on_record, judges=(charged_rightly,), events=10)
