"""Runs a row: floor, measurement, floor, measurement …, and turns the pairs into results."""

from __future__ import annotations

import gc
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import msgspec

from bench.row import Budget, Figure, Figures, NotBuilt, Row
from bench.stats import Better, median_ratio, within


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One object of build/bench.json.

    `value` and `floor` are medians, `ratio` is the median of the pairs' ratios; `pairs` holds [value, floor] as they
    were measured. `value`, `ratio` and `met` are null where the product cannot do it yet, and `note` says so. `budget`
    limits `budget_of`, from below where higher is better, from above where lower is.
    """

    name: str
    workload: str
    value: float | None
    unit: str
    better: Better
    floor: float
    pairs: list[tuple[float | None, float]]
    ratio: float | None
    budget: float
    budget_of: str
    met: bool | None
    quick: bool = False
    note: str = ""


def run_row(row: Row, home: Path, *, pairs: int, quick: bool, progress: Callable[[str], None]) -> list[Result]:
    """Measure `row` in a fresh directory below `home`; one result per figure, in the row's order.

    The first floor and measurement are not recorded: they warm caches up.
    """
    home.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix=f"{row.name}-", dir=home))
    floors: list[Figures] = []
    values: list[Figures] = []
    missing = ""
    try:
        progress(f"{row.name}: setup")
        row.setup(directory, quick=quick)
        for turn in range(pairs + 1):
            progress(f"{row.name}: " + (f"pair {turn} of {pairs}" if turn else "warming up"))
            gc.collect()
            floors.append(row.floor())
            if missing:
                continue
            gc.collect()
            try:
                values.append(row.measure())
            except NotBuilt as exc:
                missing = f"not built yet: {exc}"
    finally:
        row.close()
        shutil.rmtree(directory)
    return results_of(row, values=values[1:], floors=floors[1:], quick=quick, missing=missing)


def results_of(row: Row, *, values: list[Figures], floors: list[Figures], quick: bool, missing: str) -> list[Result]:
    """The row's results from what was measured; `values` is ignored when something is `missing`."""
    results = [
        _pending(row, figure, floors, missing) if missing else _result(row, figure, values, floors)
        for figure in row.figures
    ]
    if row.any_of and not missing:
        met = any(result.met for result in results)
        note = "met when one of the row's budgets is"
        results = [msgspec.structs.replace(result, met=met, note=note) for result in results]
    return [msgspec.structs.replace(result, quick=quick) for result in results]


def name_of(row: Row, figure: Figure) -> str:
    """The result's name: the row's, and the figure's label where there are several."""
    return f"{row.name}/{figure.label}" if figure.label else row.name


def _pending(row: Row, figure: Figure, floors: list[Figures], missing: str) -> Result:
    theirs = [floor[figure.floor_key] for floor in floors]
    return Result(
        name=name_of(row, figure),
        workload=row.workload,
        value=None,
        unit=figure.unit,
        better=figure.better,
        floor=median(theirs),
        pairs=[(None, floor) for floor in theirs],
        ratio=None,
        budget=figure.budget.limit,
        budget_of=figure.budget.of,
        met=None,
        note=missing,
    )


def _result(row: Row, figure: Figure, values: list[Figures], floors: list[Figures]) -> Result:
    ours = [value[figure.key] for value in values]
    theirs = [floor[figure.floor_key] for floor in floors]
    pairs = list(zip(ours, theirs, strict=True))
    ratio = median_ratio(pairs)
    return Result(
        name=name_of(row, figure),
        workload=row.workload,
        value=median(ours),
        unit=figure.unit,
        better=figure.better,
        floor=median(theirs),
        pairs=list(pairs),
        ratio=ratio,
        budget=figure.budget.limit,
        budget_of=figure.budget.of,
        met=keeps(figure.budget, figure.better, value=median(ours), ratio=ratio),
    )


def keeps(budget: Budget, better: Better, *, value: float, ratio: float) -> bool:
    """Whether the budget is kept by the ratio, or by the value where it limits that."""
    return within(ratio if budget.of == "ratio" else value, budget.limit, better)
