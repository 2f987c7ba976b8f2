"""A whole program that runs until it is idle: source, handler, flow and sink in one process that may die anywhere."""

from __future__ import annotations

from dataclasses import replace

from penstock.app.plan import plan_app
from penstock.app.running import RunOptions
from penstock.errors import OutcomeUnknown
from penstock.system.ports import System
from penstock.testing.simulation.faults import FaultyChannel
from penstock.testing.simulation.scenario import RETRY_S, Host, Scenario
from penstock.testing.simulation.scenarios_app import parts_of, scenario_of
from penstock.testing.simulation.scenarios_handlers import handling, rightly_given_up
from penstock.testing.simulation.scenarios_targets import TARGET, Feed, TargetSink, caught_up, each_bad_once, rows_of
from penstock.testing.simulation.tape import OPERATIONS

IDLE_S = 1e9


def program() -> Scenario:
    """Run, killed and run again until it says that it is done: then everything is done, and nobody else does it."""
    import polars as pl  # noqa: PLC0415 - a scenario is declared when it is asked for

    app = handling()
    jobs, done = app.topics["jobs"], app.topics["done"]
    app.read(Feed(), into=jobs, name="feed0")
    app.flow("passed", done).filter(pl.col("number") >= 0).to(TargetSink())
    plan = plan_app(app)

    async def run(process: Host, channel: FaultyChannel, system: System) -> None:
        options = RunOptions(until_idle=True)
        while True:
            supervisor = await parts_of(app, plan, options, host=process, channel=channel, system=system)
            try:
                await supervisor.run()
            except OutcomeUnknown:  # the program would end here, and be started again
                await system.clock.sleep(RETRY_S)
            else:
                return

    async def nobody(process: Host, channel: FaultyChannel, system: System) -> None:
        await system.clock.sleep(IDLE_S)

    made = scenario_of(app, jobs, name="program", outputs=(TARGET, "work.dead"))
    return replace(
        made,
        produce=run,
        member=nobody,
        members=1,
        producers=1,
        events=12,
        targets=rows_of,
        at_rest=caught_up,
        judges=(each_bad_once, rightly_given_up),
        operations=(*OPERATIONS, "offload"),
    )
