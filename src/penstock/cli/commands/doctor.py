"""`penstock doctor`: a log, its disk and what they promise; and the way on after a loss."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from penstock.cli import exits, output
from penstock.cli.options import ask, json_option, log_directory, log_option, names_log, opened, wants_json
from penstock.errors import PenstockError

if TYPE_CHECKING:
    from penstock.observe.health import Finding
    from penstock.system import System


@click.command("doctor", short_help="Check a log, its disk and what they promise.")
@click.argument("program", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False)
@log_option()
@json_option()
@click.option("--deep", is_flag=True, help="Read everything and check every checksum.")
@click.option("--accept-loss", is_flag=True, help="Go on with the log as it is after a loss.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def command(*, program: Path | None, deep: bool, accept_loss: bool, yes: bool) -> int:
    """Check a log and the disk it is on; with PROGRAM, what each edge of its apps promises too.

    The exit code is 1 when something is bad. --accept-loss raises the log's incarnation and writes a new witness:
    groups go on where they were, sinks that know more than the log refuse to go on.
    """
    if program is not None:
        _refuse_beside_a_program(deep=deep, accept_loss=accept_loss)
        return _promises(program)
    directory = log_directory()
    if accept_loss:
        return _accept(directory, yes=yes)
    import asyncio  # noqa: PLC0415 - takes as long to load as all that --help needs

    findings, read = asyncio.run(_examine(directory, deep=deep))
    bad = [finding for finding in findings if finding.state == "bad"]
    if wants_json():
        told: dict[str, Any] = {"log": str(directory), "ok": not bad, "findings": findings}
        output.document(told if read is None else told | {"read": read})
    else:
        output.note(f"log {directory}")
        output.table(("", "check", "finding"), [(f.state, f.check, f.detail) for f in findings], width_max=400)
    return exits.FAILED if bad else exits.DONE


def _refuse_beside_a_program(*, deep: bool, accept_loss: bool) -> None:
    """What is about one log is refused, not passed over: a loss would seem to be accepted, or a log to be whole.

    Raises:
        click.UsageError: such an option was given.
    """
    given = {"--accept-loss": accept_loss, "--deep": deep, "--log": names_log()}
    named = [name for name, was_given in given.items() if was_given]
    if named:
        msg = f"{named[0]} is about one log, and a program names its own; leave one of the two out"
        raise click.UsageError(msg)


async def _examine(directory: Path, *, deep: bool) -> tuple[list[Finding], Any]:
    from penstock.observe import health  # noqa: PLC0415 - opens the log's libraries
    from penstock.system import real_system  # noqa: PLC0415

    system: System = real_system()
    findings = list(health.look_at_disk(directory, system))
    system.offload.close()
    try:
        async with opened(directory) as log:
            findings += health.look_at_log(log.channel, directory, log.system)
            if not deep:
                return findings, None
            return _deep(log.channel, findings)
    except PenstockError as exc:
        return [*findings, health.cannot_open(exc)], None


def _deep(channel: Any, findings: list[Finding]) -> tuple[list[Finding], Any]:
    from penstock.cli.progress import counter  # noqa: PLC0415 - only long work shows progress
    from penstock.log.verify import verify  # noqa: PLC0415 - loaded by now
    from penstock.observe import health  # noqa: PLC0415

    with counter("checking") as show:
        read = verify(channel.port.look, lambda blocks, events: show(f"{blocks:,} blocks, {events:,} events"))
    found = [health.Finding("stored data", "bad", f"{damage.what}. {damage.way_out}") for damage in read.damages]
    found += [
        health.Finding(
            "quarantine", "warning", f"topic {q.topic}/{q.partition}, offsets {q.first} to {q.end - 1}: passed over"
        )
        for q in read.quarantined
    ]
    whole = f"{read.blocks:,} blocks with {read.events:,} events, {read.rows:,} rows: every checksum matches"
    if not read.damages:
        found.append(health.Finding("stored data", "ok", whole))
    return findings + found, msgspec.to_builtins(read)


def _accept(directory: Path, *, yes: bool) -> int:
    from penstock.log.opening import accept_loss  # noqa: PLC0415 - opens the log's libraries
    from penstock.system import real_system  # noqa: PLC0415

    if not yes:
        ask(f"{directory}: go on with what is there? What was lost stays lost; a backup would have to come first")
    system = real_system()
    try:
        identity = accept_loss(directory, system)
    finally:
        system.offload.close()
    if wants_json():
        output.document({"log": str(directory), "identity": identity.log, "incarnation": identity.incarnation})
    else:
        output.say(f"accepted: log {identity.log} is now incarnation {identity.incarnation}; start its programs again")
    return exits.DONE


def _probed(directory: Path) -> list[Finding]:
    """What probing a program's log has found; nothing when it is not there yet."""
    import asyncio  # noqa: PLC0415 - takes as long to load as all that --help needs

    from penstock.log.guard import DATABASE  # noqa: PLC0415 - opens the log's libraries

    if not (directory / DATABASE).exists():
        return []
    findings, _ = asyncio.run(_examine(directory, deep=False))
    return findings


def _promises(program: Path) -> int:
    from penstock.cli.program import load_apps  # noqa: PLC0415 - loads the program's libraries
    from penstock.cli.promises import promises  # noqa: PLC0415
    from penstock.observe.health import durability_of  # noqa: PLC0415

    probed = [(app, _probed(app.directory)) for app in load_apps(program)]
    found = [promises(app, durability_of(findings) if findings else None) for app, findings in probed]
    bad = [(app, finding) for app, findings in probed for finding in findings if finding.state == "bad"]
    for app, finding in bad:
        output.note(f"bad: app {app.name}, {finding.check}: {finding.detail}")
    code = exits.FAILED if bad else exits.DONE
    if wants_json():
        output.document(found)
        return code
    for told in found:
        output.say(f"app {told.app}: {told.processing}, {told.durability}; log {told.log}")
        rows = [(e.by, e.start, e.end, e.processing, e.durability, e.order) for e in told.edges]
        output.table(("edge", "from", "to", "processing", "durability", "order"), rows)
        output.note(f"{told.durability}: {told.durability_why}")
        for why in sorted({f"{e.processing}: {e.why}" for e in told.edges}):
            output.note(why)
    return code
