"""`ctx.once` under faults: two events ask for each effect, some after they failed, and each effect is there once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec

from penstock.app.app import App
from penstock.delivery.lot import SPACE as PARKED
from penstock.delivery.retry import Retry
from penstock.engine.context import Context
from penstock.engine.place import ATTEMPTS
from penstock.testing.simulation.loop import SimLoop
from penstock.testing.simulation.outcome import Anomaly, Event, Outcome
from penstock.testing.simulation.scenario import Scenario
from penstock.testing.simulation.scenarios_app import Job, effects_in, scenario_of
from penstock.testing.simulation.system import sleep

TOGETHER = 2
"""So many events of a key, one after the other, have one token."""


class Effect(msgspec.Struct):
    """What the first event with a token gives; the number is the token's."""

    key: str
    number: int


def _guarded(job: Job, ctx: Context) -> list[Effect]:
    """The effect, when it is new; every third event fails at first, after it has asked."""
    number = job.number // TOGETHER
    new = ctx.once(f"{job.key}/{number}")
    if job.number % 3 == 0 and ctx.attempt == 1:
        raise ValueError("not yet")
    return [Effect(job.key, number)] if new else []


def once_each(outcome: Outcome, twin: Outcome | None) -> Iterator[Anomaly]:
    """An oracle: exactly one effect for each token that the inputs have."""
    del twin
    inputs = {kept.event for kept in effects_in(outcome.topics, "jobs") if kept.event is not None}
    wanted = {Event(event.key, event.number // TOGETHER) for event in inputs}
    there = Counter(kept.event for kept in effects_in(outcome.topics, "effects"))
    missing = sorted(token for token in wanted if not there[token])
    if missing:
        yield Anomaly("lost", f"tokens without effect: {missing}")
    doubled = sorted(token for token in wanted if there[token] > 1)
    if doubled:
        yield Anomaly("duplicated", f"tokens with more than one effect: {doubled}")


def _scenario(name: str, options: dict[str, Any], handler: Any) -> Scenario:
    app = App("simulated")
    jobs = app.topic("jobs", Job, key="key", partitions=2)
    effects = app.topic("effects", Effect, key="key", partitions=2)
    app.handle(jobs, into=effects, retry=Retry(4, first_s=0.03), name="work", **options)(handler)
    made = scenario_of(app, jobs, name=name, outputs=())
    return replace(made, spaces=(ATTEMPTS, PARKED), fold=lambda _: {}, judges=(once_each,))


def once() -> Scenario:
    """Events one after the other."""
    return _scenario("once", {}, _guarded)


def once_side_by_side() -> Scenario:
    """Events of different keys at once."""

    async def work(job: Job, ctx: Context) -> list[Effect]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimLoop)
        made = _guarded(job, ctx)
        await sleep(loop, (job.number * 7 % 5) * 0.06)
        return made

    return replace(_scenario("once_side_by_side", {"concurrency": 4}, work), keys=6)
