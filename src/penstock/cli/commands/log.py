"""`penstock log`: operating a log: trimming it, backing it up and restoring it, verifying it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec

from penstock.cli import exits, output
from penstock.cli.options import Log, json_option, log_option, wants_json, with_log

if TYPE_CHECKING:
    from penstock.channel.drivers.embedded.upkeep import Report


@click.group("log", short_help="Trim, back up, restore and verify a log.")
def command() -> None:
    """Operate a log. A running program does what `trim` does by itself, now and then."""


@command.command("trim", short_help="Remove what topics need not keep any more.")
@click.argument("topics", nargs=-1)
@log_option()
@json_option()
@click.option("--force", is_flag=True, help="Also what consumer groups have not settled: they will stop with an error.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def trim(*, topics: tuple[str, ...], force: bool, yes: bool) -> int:
    """Remove events that are older, or more, than topics (all, or TOPICS) declare to keep.

    What a live consumer group still needs stays; --force removes it too. The exit code is 3 when another process is at
    it, or a topic could not be trimmed to its end.
    """
    if force and not yes:
        click.confirm("remove events that groups have not settled? They stop with an error then", abort=True)

    async def work(opened: Log) -> tuple[str, Report | None]:
        from penstock.channel.drivers.embedded.upkeep import Upkeep  # noqa: PLC0415 - opens the log's libraries

        for name in topics:
            opened.channel.row(name)  # a name that is not there is answered with close ones
        return str(opened.directory), await Upkeep(opened.channel, opened.system).once(
            force=force, topics=topics or None
        )

    directory, report = with_log(work)
    if wants_json():
        told: dict[str, Any] = {"log": directory, "busy": report is None}
        output.document(told if report is None else told | msgspec.to_builtins(report))
    else:
        output.note(f"log {directory}")
        _print_trimmed(report)
    failed = report is None or any(topic.failed for topic in report.topics)
    return exits.PARTLY if failed else exits.DONE


def _print_trimmed(report: Report | None) -> None:
    if report is None:
        output.note("another process looks after this log just now; try again")
        return
    if not report.topics:
        output.say("no topic declares a retention: everything is kept")
        return
    rows = [(t.topic, t.events, output.size(t.bytes), "; ".join(t.held) or t.failed) for t in report.topics]
    output.table(("topic", "events removed", "size", "stopped by"), rows, width_max=400)
    for name in report.warned:
        output.note(f"group {name} was not here for long; in a while it holds nothing up any more")
