"""`penstock demo`: the main job on real data, from events to results, and what to try next."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from penstock.cli import exits, output
from penstock.cli.options import json_option, opened, wants_json

if TYPE_CHECKING:
    from penstock.app.running import RunReport
    from penstock.cli.demo.report import DemoReport


@click.group("demo", short_help="Run a demonstration on real data.")
def command() -> None:
    """Run a demonstration on real data; what it writes may be deleted afterwards."""


@command.command("flights", short_help="All flights that left New York in 2013.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("build/demo"), show_default=True,
              help="Where the log and the results go; the report goes beside it, to <out>.json.")  # fmt: skip
@click.option("--republish", is_flag=True, help="Publish every event again; the log answers with the first offsets.")
@json_option("Print the report as one JSON document.")
def flights(*, out: Path, republish: bool) -> int:
    """Turn 336,776 flights into a million events, reject those that never left, and keep delays per carrier.

    A second run finds nothing new to do; killed anywhere and run again, the results are the same.
    """
    import asyncio  # noqa: PLC0415 - takes as long to load as all that --help needs

    from penstock.cli.demo import data, report  # noqa: PLC0415 - loads the log
    from penstock.cli.program import load_app  # noqa: PLC0415
    from penstock.cli.running import shown  # noqa: PLC0415

    data.data_directory()  # without the data: say so before anything else
    out = out.absolute()
    os.environ["PENSTOCK_DEMO_OUT"] = str(out)
    program = Path(__file__).parents[1] / "demo" / "flights.py"
    app = load_app(program)
    output.note(f"log {app.directory}")
    with shown() as show:
        run = app.run(until_idle=True, republish=republish, on_progress=show)
    found = asyncio.run(_report(app.directory, out, run))
    if found is None:
        output.note("stopped before the end; run it again to go on from here")
        return exits.INTERRUPTED
    saved = out.with_name(f"{out.name}.json")
    report.save(found, saved)
    if wants_json():
        output.document(found)
    else:
        _print(found, program, saved)
    return exits.DONE


async def _report(directory: Path, out: Path, run: RunReport) -> DemoReport | None:
    from penstock.cli.demo.report import report, whole  # noqa: PLC0415 - loaded by now

    async with opened(directory) as log:
        return await report(log.channel, out, run) if whole(log.channel) else None


def _print(found: DemoReport, program: Path, saved: Path) -> None:
    done = [(name, f"{count:,}", f"{found.events_per_s[name]:,.0f}") for name, count in found.worked_on.items()]
    if any(found.worked_on.values()):
        output.say(f"Done in {found.seconds:.1f} s:")
        output.table(("part", "events", "events/s"), done)
    else:
        output.say(f"Nothing new in {found.seconds:.1f} s: everything was published and worked on before.")
    output.say()
    from penstock.cli.demo.report import STREAMS  # noqa: PLC0415 - loaded by now

    published = sum(found.events[f"flight_{stream}"] for stream in STREAMS)
    output.say(
        f"{published:,} events published. The log holds "
        + ", ".join(f"{count:,} {topic}" for topic, count in found.events.items())
    )
    for rejected in found.rejected:
        output.say(f"Rejected by {rejected.group}: {rejected.count:,} ({rejected.reason})")
    output.say()
    for name, result in found.results.items():
        output.say(f"{name}: {result.rows:,} rows in {_short(Path(result.path))}")
    output.say(f"the program: {_short(program)}; this report: {_short(saved)}; hash of the results: {found.hash[:16]}")
    output.say()
    log = _short(Path(found.log))
    output.say("Try next:")
    sql = "select carrier, count(*) as flights, avg(delay_min) from departures group by all order by 2 desc"
    output.say(f'  penstock query --log {log} "{sql}"')
    output.say(f"  penstock dlq list --log {log}")
    output.say(f"  penstock tail departures -n 5 --log {log}")


def _short(path: Path) -> str:
    """The path as it is typed here."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
