"""`python -m bench`: runs the rows, prints the table, writes build/bench.json."""

from __future__ import annotations

import argparse
import sys
import traceback
from pathlib import Path

from bench.disk import memory_only
from bench.report import load, merged, save, table
from bench.row import Row
from bench.rows import all_rows
from bench.runner import Result, run_row

_ROOT = Path(__file__).resolve().parent.parent
PAIRS_MIN = 5


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="rows whose name starts so; repeatable"
    )
    parser.add_argument("--pairs", type=int, default=PAIRS_MIN, help="pairs of (figure, floor) per row; at least 5")
    parser.add_argument("--quick", action="store_true", help="a few events, to see that it runs; any number of pairs")
    parser.add_argument("--list", action="store_true", help="name the rows and their workloads, measure nothing")
    parser.add_argument("--out", type=Path, default=_ROOT / "build" / "bench.json", help="where the results go")
    options = parser.parse_args(argv)
    least = 1 if options.quick else PAIRS_MIN
    if options.pairs < least:
        parser.error(f"--pairs {options.pairs}: expected at least {least}" + ("" if options.quick else ", or --quick"))
    return options


def chosen(rows: list[Row], only: list[str]) -> list[Row]:
    """The rows whose name starts with one of `only`; all when it is empty.

    Raises:
        SystemExit: a name fits no row.
    """
    for name in only:
        if not any(row.name.startswith(name) for row in rows):
            sys.exit(f"--only {name}: no such row; the rows are {', '.join(row.name for row in rows)}")
    return [row for row in rows if not only or row.name.startswith(tuple(only))]


def progress(text: str) -> None:
    """One line that is written over, where somebody watches."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def main() -> None:
    """Run what was asked for; results are kept after each row, and a row that fails costs only itself.

    Raises:
        SystemExit: a row failed; the others were measured.
    """
    options = arguments()
    rows = chosen(all_rows(), options.only)
    if options.list:
        print("\n".join(f"{row.name}: {row.workload}" for row in rows))
        return
    home = _ROOT / "build" / "bench"
    home.mkdir(parents=True, exist_ok=True)
    if memory_only(home):
        print(
            f"warning: {home} lies in memory: syncs cost nothing there and durable rows mean nothing", file=sys.stderr
        )
    before = load(options.out) if options.only else []
    results: list[Result] = []
    failed: list[str] = []
    for row in rows:
        try:
            results += run_row(row, home, pairs=options.pairs, quick=options.quick, progress=progress)
        except Exception:  # noqa: BLE001 - the other rows are worth their figures
            progress("")
            traceback.print_exc()
            failed.append(row.name)
        save(options.out, merged(before, results))
    progress("")
    print(table(results))
    print(f"\nratio = median over {options.pairs} interleaved pairs of figure / floor; written to {options.out}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
