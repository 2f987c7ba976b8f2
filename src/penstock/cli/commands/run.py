"""`penstock run`: a program's handlers and flows, until they are stopped or have nothing left to do."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from penstock.cli import exits, output
from penstock.cli.options import json_option, wants_json

if TYPE_CHECKING:
    from penstock.app.app import App
    from penstock.app.running import RunOptions, RunReport


@click.command("run", short_help="Run a program's handlers and flows.")
@click.argument("program", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--app", "name", metavar="NAME", help="Which app, when the program has several.")
@click.option("--until-idle", is_flag=True, help="End when every source is read and everything is worked on.")
@click.option(
    "--workers", type=click.IntRange(1, 64), default=1, metavar="N", help="How many processes share the work."
)
@click.option("--worker", hidden=True, default="", help="This process is one of several, of this name.")
@click.option("--republish", is_flag=True, help="Publish every source again; what is stored already is not doubled.")
@json_option("Print the report as one JSON document at the end.")
def command(*, program: Path, name: str | None, until_idle: bool, workers: int, worker: str, republish: bool) -> int:
    """Run PROGRAM, a Python file that declares an app.

    It goes on where it stopped. SIGTERM or Ctrl-C finishes what is in hand and commits it; a second one ends at once,
    and nothing acked is lost. With --workers, so many processes share the partitions, and one that dies is replaced;
    starting the command again elsewhere on this machine adds more.
    """
    from penstock.app.running import RunOptions  # noqa: PLC0415
    from penstock.cli.program import load_app  # noqa: PLC0415 - loads the program's libraries
    from penstock.cli.running import shown  # noqa: PLC0415

    if worker:
        from penstock.cli.workers import serve  # noqa: PLC0415

        return serve(lambda: load_app(program, name), RunOptions(until_idle, republish, worker))
    with redirect_stdout(sys.stderr if wants_json() or workers > 1 else sys.stdout):  # of what the program prints
        app = load_app(program, name)
        output.note(f"log {app.directory}")
        if workers > 1:
            report, code = _together(app, program, workers, RunOptions(until_idle, republish))
        else:
            with shown() as show:
                report, code = app.run(until_idle=until_idle, republish=republish, on_progress=show), exits.DONE
    _tell(app, report)
    return code


def _together(app: App, program: Path, workers: int, options: RunOptions) -> tuple[RunReport, int]:
    from penstock.cli.running import shown  # noqa: PLC0415
    from penstock.cli.workers import Plan, run_workers  # noqa: PLC0415

    if options.republish:
        msg = "--republish publishes from one process; leave --workers out"
        raise click.UsageError(msg)
    with shown() as show:
        return run_workers(Plan(program.resolve(), app.name, workers, until_idle=options.until_idle), show)


def _tell(app: App, report: RunReport) -> None:
    if wants_json():
        output.document({"log": str(app.directory), **told(report)})
    else:
        show_report(report)


def told(report: RunReport) -> dict[str, Any]:
    """A run's report, fit for JSON."""
    parts = [msgspec.structs.asdict(part) for part in report.parts]
    return {"seconds": round(report.seconds, 3), "parts": parts}


def show_report(report: RunReport) -> None:
    """A run's report for people."""
    rows = [
        (part.name, part.kind, part.topic, f"{part.events:,}", f"{part.events / report.seconds:,.0f}", f"{part.dead:,}")
        for part in report.parts
    ]
    output.table(("part", "kind", "topic", "events", "events/s", "dead"), rows)
    output.note(f"{report.seconds:.1f} s")
