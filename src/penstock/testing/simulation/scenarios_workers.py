"""Several workers of one program that come, go, stop and die while they share the partitions of its groups."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from penstock.app.app import App
from penstock.testing.simulation.history import Left, Took, TurnedAway
from penstock.testing.simulation.outcome import Anomaly, Outcome
from penstock.testing.simulation.process import host
from penstock.testing.simulation.scenario import Scenario
from penstock.testing.simulation.scenarios_app import Job, scenario_of
from penstock.testing.simulation.scenarios_handlers import Done
from penstock.testing.simulation.tape import KINDS, Kind

PARTITIONS = 4
WORK_S = 0.15
"""Long enough that partitions are asked back while events are in hand."""
_COMING_AND_GOING: tuple[Kind, ...] = ("crash_before", "freeze_after", "freeze_before", "delay_after", "stop", "stop")


def passing_twice() -> App:
    """Two groups, one behind the other, over four partitions."""
    app = App("simulated")
    jobs = app.topic("jobs", Job, key="key", partitions=PARTITIONS)
    half = app.topic("half", Done, key="key", partitions=PARTITIONS)
    done = app.topic("done", Done, key="key", partitions=PARTITIONS)

    @app.handle(jobs, into=half)
    async def begin(job: Job) -> Done:  # pyright: ignore[reportUnusedFunction]
        await host().system.clock.sleep(WORK_S)
        return Done(job.key, job.number, 1)

    @app.handle(half, into=done)
    async def end(job: Done) -> Done:  # pyright: ignore[reportUnusedFunction]
        await host().system.clock.sleep(WORK_S / 2)
        return job

    return app


def shared(outcome: Outcome, twin: Outcome | None) -> Iterator[Anomaly]:
    """Each partition of each group was somebody's, and where no fault struck nobody got one twice in a row.

    Unless somebody was on the way to tell: an answer that is delayed for longer than the world lasts.
    """
    end_s = max((at_s for at_s, _ in outcome.history.entries), default=0.0)
    delayed = any(f.operation == "next" and f.kind == "delay_after" and f.seconds >= end_s for f in outcome.struck)
    for group in ("begin", "end"):
        took = [e for _, e in outcome.history.entries if isinstance(e, Took) and e.group == group]
        missing = set(range(PARTITIONS)) - {e.assigned.owned.partition for e in took}
        if missing and not delayed:
            yield Anomaly("stuck", f"partitions {sorted(missing)} of {group} were never anybody's")
        last: dict[int, str] = {}
        for entry in took:
            partition = entry.assigned.owned.partition
            if not outcome.struck and last.get(partition) == entry.process:
                yield Anomaly("moved_back", f"{entry.process} gave {group}/{partition} up and took it again")
            last[partition] = entry.process


def owned_by_one(outcome: Outcome, twin: Outcome | None) -> Iterator[Anomaly]:
    """Nobody takes what another member has, who lives and has not left it: its work in hand would be for nothing.

    Members that were given up while they stood still are left out for the rest of their lives: they may be told of what
    was theirs before, and is another's since.
    """
    owner: dict[tuple[str, int], Took] = {}
    given_up: set[str] = set()
    for _, entry in outcome.history.entries:
        if isinstance(entry, Left):
            if not entry.group:
                (given_up.add if entry.lives else given_up.discard)(entry.process)
            for place, took in list(owner.items()):
                theirs = took.process == entry.process and entry.group in ("", took.group)
                if theirs and entry.owned in (None, took.assigned.owned):
                    del owner[place]
        elif isinstance(entry, TurnedAway):  # the member knows that it has lost it
            place = (entry.step.group, entry.step.owned.partition)
            if place in owner and owner[place].assigned.owned == entry.step.owned:
                del owner[place]
        elif isinstance(entry, Took):
            place = (entry.group, entry.assigned.owned.partition)
            before = owner.pop(place, None)
            if entry.process in given_up:
                continue
            if before is not None and before.process != entry.process:
                text = f"{entry.process} takes {entry.group}/{place[1]}, which {before.process} has not left"
                yield Anomaly("claimed", text)
            owner[place] = entry


def workers() -> Scenario:
    """Up to three workers."""
    app = passing_twice()
    made = scenario_of(app, app.topics["jobs"], name="workers", outputs=("done", "begin.dead", "end.dead"))
    kinds = {**KINDS, "next": _COMING_AND_GOING}
    return replace(made, members=3, keys=6, events=20, judges=(shared, owned_by_one), kinds=kinds)
