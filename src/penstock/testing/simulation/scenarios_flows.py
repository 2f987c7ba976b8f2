"""Flows under faults: a stateless one with rows that cannot be computed, and a running aggregate over two stages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import msgspec

from penstock.app.app import App
from penstock.app.plan import plan_app
from penstock.engine.flowing import STATE
from penstock.errors import PermanentError
from penstock.event.batch import Columns
from penstock.flow.aggregates import count, max_, sum_
from penstock.testing.simulation.history import Stored
from penstock.testing.simulation.outcome import Anomaly, Event, Outcome
from penstock.testing.simulation.scenario import Scenario
from penstock.testing.simulation.scenarios_app import Job, job_of, scenario_of

if TYPE_CHECKING:
    import polars as pl

Totals = dict[int, tuple[int, int, int]]
"""Bucket → (how many, sum, greatest)."""


def _refuse(frame: pl.DataFrame) -> pl.DataFrame:
    if bool((frame["number"] % 6 == 4).any()):
        msg = "a row that cannot be computed"
        raise PermanentError(msg)
    return frame


def flow() -> Scenario:
    """A stateless flow; every sixth row of a key is given up."""
    import polars as pl  # noqa: PLC0415 - a scenario is declared when it is asked for

    app = App("simulated")
    jobs = app.topic("jobs", Job, key="key", partitions=2)
    app.flow("doubled", jobs).with_columns(double=pl.col("number") * 2).map(_refuse)
    made = scenario_of(app, jobs, name="flow", outputs=("doubled", "doubled.dead"))
    return made


def totals() -> Scenario:
    """A running aggregate by something else than the topic's key: partial rows, an internal topic, the merge."""
    app = App("simulated")
    jobs = app.topic("jobs", Job, key="key", partitions=2)
    app.flow("totals", jobs).by("bucket").agg(jobs=count(), total=sum_("number"), top=max_("number"))
    first, last = (planned.stage for planned in plan_app(app).stages)
    names = _Names(first.name, last.name, last.topic)

    def judge(outcome: Outcome, twin: Outcome | None) -> Iterable[Anomaly]:
        return running(outcome, names)

    made = scenario_of(app, jobs, name="totals", outputs=())
    return replace(made, spaces=(STATE,), judges=(judge,), events=20)


class _Names(msgspec.Struct, frozen=True):
    """The groups of both stages, and the topic between them."""

    partial: str
    merge: str
    between: str


def running(outcome: Outcome, names: _Names) -> Iterator[Anomaly]:
    """After every committed step of the merge its results are the fold of all inputs that it rests on."""
    inputs = {p: [kept.event for kept in found] for (t, p), found in outcome.topics.items() if t == "jobs"}
    parts: dict[tuple[int, int], Totals] = {}
    states: dict[int, Totals] = {}
    for _, entry in outcome.history.entries:
        if not isinstance(entry, Stored):
            continue
        if entry.step.group == names.partial:
            settle = entry.step.settle
            part = inputs[entry.step.owned.partition][settle.floor_before : settle.floor_after]
            yield from _summed(entry, fold_of(part), parts)
        elif entry.step.group == names.merge:
            state = states.setdefault(entry.step.owned.partition, {})
            yield from _merged(entry, parts, state)
    yield from _all(inputs, states)


def fold_of(events: Iterable[Event | None]) -> Totals:
    """What a batch query over these inputs would give."""
    out: Totals = {}
    for event in events:
        if event is not None:
            _add(out, job_of(event).bucket, (1, event.number, event.number))
    return out


def _add(totals: Totals, bucket: int, more: tuple[int, int, int]) -> None:
    number, total, top = totals.get(bucket, (0, 0, -1))
    totals[bucket] = (number + more[0], total + more[1], max(top, more[2]))


def _rows(payload: object) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", payload.table.to_pylist()) if isinstance(payload, Columns) else []


def _summed(entry: Stored, expected: Totals, parts: dict[tuple[int, int], Totals]) -> Iterator[Anomaly]:
    """The partial rows of one step add up to the inputs it settled; `parts` learns where they lie."""
    found: Totals = {}
    for batch, first in zip(entry.step.outputs, entry.first, strict=True):
        for index, row in enumerate(_rows(batch.payload)):
            part = (row["jobs.count"], row["total.sum"], row["top.max"])
            parts[batch.partition, first + index] = {row["bucket"]: part}
            _add(found, row["bucket"], part)
    if found != expected:
        where = f"partition {entry.step.owned.partition}, step to {entry.step.settle.floor_after} by {entry.process}"
        yield Anomaly("state", f"{where}: partial rows {found}; its inputs give {expected}")


def _merged(entry: Stored, parts: Mapping[tuple[int, int], Totals], state: Totals) -> Iterator[Anomaly]:
    settle, partition = entry.step.settle, entry.step.owned.partition
    touched: set[int] = set()
    for offset in range(settle.floor_before, settle.floor_after):
        for bucket, more in parts.get((partition, offset), {}).items():
            _add(state, bucket, more)
            touched.add(bucket)
    found = {
        row["bucket"]: (row["jobs"], row["total"], row["top"])
        for batch in entry.step.outputs
        for row in _rows(batch.payload)
    }
    expected = {bucket: state[bucket] for bucket in touched}
    if found != expected:
        where = f"partition {partition}, step to {settle.floor_after} by {entry.process}"
        yield Anomaly("state", f"{where}: results {found}; the inputs so far give {expected}")


def _all(inputs: Mapping[int, Iterable[Event | None]], states: Mapping[int, Totals]) -> Iterator[Anomaly]:
    """In the end every input is part of the state."""
    wanted = fold_of(event for events in inputs.values() for event in events)
    there: Totals = {}
    for state in states.values():
        there.update(state)
    if wanted != there:
        yield Anomaly("state", f"all inputs give {wanted}; the steps of the merge came to {there}")
