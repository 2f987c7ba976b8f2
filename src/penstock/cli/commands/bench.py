"""`penstock bench`: the project's benchmarks where they are at hand, else a small test of this disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from penstock.cli import exits, output
from penstock.cli.options import json_option, wants_json


@click.command("bench", short_help="Measure on this machine.")
@click.argument("rows", nargs=-1)
@click.option("--dir", "directory", type=click.Path(exists=True, file_okay=False, path_type=Path), default=Path(),
              help="Where the self-test writes; the working directory by default.")  # fmt: skip
@json_option()
def command(*, rows: tuple[str, ...], directory: Path) -> int:
    """Measure: in the project's repository its benchmarks (all, or ROWS), elsewhere a self-test of this disk.

    The self-test takes a few seconds and says only what this disk does with small and large commits.
    """
    if _repository(Path.cwd()):
        return _project(rows)
    if rows:
        msg = "ROWS are rows of the project's benchmarks; run this in its repository, or leave them out"
        raise click.UsageError(msg)
    from penstock.cli.selftest import measure  # noqa: PLC0415 - loads the log

    output.note("a self-test of this disk; the project's benchmarks need its repository (make bench)")
    found = measure(directory)
    if wants_json():
        output.document({"kind": "self-test", "directory": str(directory.absolute()), "measured": found})
        return exits.DONE
    output.table(("what", "value", "unit", "workload"), [(m.name, round(m.value), m.unit, m.workload) for m in found])
    return exits.DONE


def _project(rows: tuple[str, ...]) -> int:
    """Run `python -m bench`; with --json what it says goes to stderr, and its document to stdout."""
    chosen = [part for row in rows for part in ("--only", row)]
    shown = sys.stderr if wants_json() else None
    done = subprocess.run([sys.executable, "-m", "bench", *chosen], check=False, stdout=shown)
    if wants_json() and done.returncode == 0:
        click.echo(Path("build/bench.json").read_text().rstrip())
    return done.returncode


def _repository(directory: Path) -> bool:
    """Whether this is the project's own repository."""
    project = directory / "pyproject.toml"
    return (
        (directory / "bench" / "__main__.py").exists()
        and project.exists()
        and 'name = "penstock"' in project.read_text()
    )
