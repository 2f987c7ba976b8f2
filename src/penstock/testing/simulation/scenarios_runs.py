"""Runs of calls under faults: many events of a run fail, and its results are more than a run may give."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import msgspec

from penstock.app.app import App
from penstock.delivery.lot import SPACE as PARKED
from penstock.delivery.retry import Retry
from penstock.engine import results
from penstock.engine.context import Context
from penstock.engine.place import ATTEMPTS
from penstock.system.ports import System
from penstock.testing.simulation.faults import FaultyChannel
from penstock.testing.simulation.scenario import Host, Scenario
from penstock.testing.simulation.scenarios_app import Job, scenario_of

RUN_BYTES = 20
"""Of a run's results, here: no more than one event."""


class Done(msgspec.Struct):
    """What handling a job gives."""

    key: str
    number: int


class _Runs:
    """How many members work with short runs just now; what the engine's bound was before."""

    working = 0
    before = 0


@contextmanager
def short_runs() -> Generator[None]:
    """Results of a run past RUN_BYTES are let go, as long as anybody is in here."""
    engine: Any = results
    if _Runs.working == 0:
        _Runs.before, engine.RUN_BYTES_MAX = engine.RUN_BYTES_MAX, RUN_BYTES
    _Runs.working += 1
    try:
        yield
    finally:
        _Runs.working -= 1
        if _Runs.working == 0:
            engine.RUN_BYTES_MAX = _Runs.before


def runs() -> Scenario:
    """Every third event fails, once or twice, in runs that are cut: each is done once, in the order of its key."""
    app = App("simulated")
    jobs = app.topic("jobs", Job, key="key", partitions=1)
    done = app.topic("done", Done, key="key", partitions=1)

    @app.handle(jobs, into=done, retry=Retry(4, first_s=0.03))
    def work(job: Job, ctx: Context) -> Done:  # pyright: ignore[reportUnusedFunction]
        if job.number % 3 == 0 and ctx.attempt <= 1 + job.number % 2:
            raise ValueError("not yet")
        return Done(job.key, job.number)

    made = scenario_of(app, jobs, name="runs", outputs=("done",))
    work_on = made.member

    async def member(process: Host, channel: FaultyChannel, system: System) -> None:
        with short_runs():
            await work_on(process, channel, system)

    return replace(
        made, member=member, spaces=(ATTEMPTS, PARKED), fold=lambda _: {}, keys=12, events=80, members=2, producers=1
    )
