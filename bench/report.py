"""Shows results as a table and keeps them as build/bench.json."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from bench.runner import Result

_MET = {True: "met", False: "NOT MET", None: "not built yet"}
_GROUPED_FROM = 1000
_HEADINGS = ("row", "figure", "floor", "ratio", "budget", "")


def number(value: float | None) -> str:
    """A figure for people: three significant digits, thousands apart."""
    if value is None:
        return "-"
    if value >= _GROUPED_FROM:
        return f"{round(value, 3 - len(str(int(value)))):,.0f}"
    return f"{value:.3g}"


def budget_text(result: Result) -> str:
    """The budget with its direction: ``≥ 0.8 x`` of the floor, or ``≤ 10 ms`` for the value itself."""
    sign = "≥" if result.better == "higher" else "≤"
    return f"{sign} {result.budget:g} " + ("x" if result.budget_of == "ratio" else result.unit)


def cells(result: Result) -> tuple[str, ...]:
    """One line of the table."""
    return (
        result.name,
        f"{number(result.value)} {result.unit}" if result.value is not None else "-",
        f"{number(result.floor)} {result.unit}",
        number(result.ratio),
        budget_text(result),
        _MET[result.met],
    )


def table(results: Iterable[Result]) -> str:
    """The results as aligned text; names to the left, figures to the right."""
    lines = [_HEADINGS, *(cells(result) for result in results)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(_HEADINGS))]
    right = range(1, 5)
    return "\n".join(
        "  ".join(
            c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def merged(before: Sequence[Result], now: Sequence[Result]) -> list[Result]:
    """What was measured `now`, and of `before` the rows that were not; in the order of `before`, new ones last."""
    fresh = {result.name: result for result in now}
    kept = [fresh.pop(result.name, result) for result in before]
    return kept + list(fresh.values())


def load(path: Path) -> list[Result]:
    """The results of an earlier run; none when the file is missing or of another layout."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Result])
    except (FileNotFoundError, msgspec.DecodeError):
        return []


def save(path: Path, results: Sequence[Result]) -> None:
    """Replace the file in one go: a reader sees the old results or the new ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(list(results)), indent=1) + b"\n")
    os.replace(temporary, path)
