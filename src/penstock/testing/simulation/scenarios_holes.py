"""A handler that takes over partitions in which other keys' events were settled above the floor before."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import msgspec

from penstock.app.app import App
from penstock.app.plan import plan_app
from penstock.channel.api import Assigned, Delivery, GroupSpec, Owned, Settle, Step, Subscription
from penstock.errors import TransientError
from penstock.event.batch import NewBatch, Rows
from penstock.system.ports import System
from penstock.testing.simulation.faults import FaultyChannel
from penstock.testing.simulation.process import host
from penstock.testing.simulation.scenario import Host, Scenario, bodies
from penstock.testing.simulation.scenarios_app import Job, from_json, member_of, scenario_of
from penstock.testing.simulation.scenarios_handlers import Done

EVENTS_MAX = 6
WORK_S = 0.2
"""Long enough that steps end between holes."""


def passing() -> App:
    """Jobs that are all done, a few to a step."""
    app = App("simulated")
    jobs = app.topic("jobs", Job, key="key", partitions=2)
    done = app.topic("done", Done, key="key", partitions=2)

    @app.handle(jobs, into=done)
    async def work(job: Job) -> Done:  # pyright: ignore[reportUnusedFunction]
        await host().system.clock.sleep(WORK_S)
        return Done(job.key, job.number, 1)

    return app


def holes() -> Scenario:
    """Every second life settles the events of one key only, as a program with concurrency across keys may, and goes."""
    app = passing()
    member = member_of(app, plan_app(app))

    async def mixed(process: Host, channel: FaultyChannel, system: System) -> None:
        if process.number % 2 == 0:
            await _out_of_order(process, channel)
        await member(process, channel, system)

    made = scenario_of(app, app.topics["jobs"], name="holes", outputs=("done", "work.dead"))
    return replace(made, member=mixed)


async def _out_of_order(process: Host, channel: FaultyChannel) -> None:
    """Settle the events of one key in one delivery, and leave the others to the next owner."""
    intake = await channel.join(Subscription(GroupSpec("work", "jobs"), process.name))
    assigned: dict[Owned, Assigned] = {}
    for _ in range(8):
        taken = await intake.next(events_max=EVENTS_MAX, bytes_max=1 << 20, wait_s=0.1)
        if isinstance(taken, Assigned):
            assigned[taken.owned] = taken
        elif isinstance(taken, Delivery):
            # Only the first delivery begins at the floor: what lies before a later one is not settled.
            found = assigned.pop(taken.owned, None)
            step = None if found is None else _of_one_key(found, taken)
            if step is not None:
                with suppress(TransientError):
                    await intake.commit(step)
                break
    await intake.leave()


def _of_one_key(assigned: Assigned, delivery: Delivery) -> Step | None:
    """A step that settles the last event's key; None when the lowest event is of that key too."""
    rows = [row for batch in delivery.batches for row in enumerate(bodies(batch), batch.first)]
    jobs = [(offset, from_json("jobs", body)) for offset, body in rows if offset not in assigned.holes]
    events = [(offset, event) for offset, event in jobs if event is not None]
    if not events or events[0][1].key == events[-1][1].key:
        return None
    mine = [(offset, event) for offset, event in events if event.key == events[-1][1].key]
    outputs = [msgspec.json.encode(Done(event.key, event.number, 1)) for _, event in mine]
    batch = NewBatch("done", assigned.owned.partition, len(outputs), Rows.of(outputs))
    settled = sorted([*assigned.holes, *(offset for offset, _ in mine)])
    settle = Settle(assigned.floor, assigned.floor, settled, number=assigned.number)
    return Step("work", assigned.owned, settle, [batch])
