"""`penstock log`: operating a log: trimming it, backing it up and restoring it, verifying it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from penstock.cli import exits, output
from penstock.cli.options import Log, ask, json_option, log_option, wants_json, with_log
from penstock.cli.progress import counter
from penstock.errors import ConfigError

if TYPE_CHECKING:
    from penstock.channel.drivers.embedded.upkeep import Report
    from penstock.log.backup import Copied
    from penstock.log.quarantine import Quarantined
    from penstock.log.verify import Verified


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
        ask("remove events that groups have not settled? They stop with an error then")

    async def work(opened: Log) -> tuple[str, Report | None]:
        from penstock.channel.drivers.embedded.upkeep import Upkeep  # noqa: PLC0415 - opens the log's libraries
        from penstock.observe.keeping import apart_of  # noqa: PLC0415

        for name in topics:
            opened.channel.row(name)  # a name that is not there is answered with close ones
        return str(opened.directory), await Upkeep(opened.channel, opened.system, apart_of=apart_of).once(
            force=force, topics=topics or None
        )

    directory, report = with_log(work)
    if wants_json():
        told: dict[str, Any] = {"log": directory, "busy": report is None}
        output.document(told if report is None else told | msgspec.to_builtins(report))
    else:
        output.note(f"log {directory}")
        _print_trimmed(report, topics)
    failed = report is None or any(topic.failed for topic in report.topics)
    return exits.PARTLY if failed else exits.DONE


def _print_trimmed(report: Report | None, asked: Sequence[str]) -> None:
    if report is None:
        output.note("another process looks after this log just now; try again")
        return
    looked_at = [topic.topic for topic in report.topics]
    for name in asked:
        if name not in looked_at:
            output.say(f"topic {name} declares no retention: it keeps everything")
    if not looked_at:
        if not asked:
            output.say("no topic declares a retention: everything is kept")
        return
    rows = [(t.topic, t.events, output.size(t.bytes), "; ".join(t.held) or t.failed) for t in report.topics]
    output.table(("topic", "events removed", "size", "stopped by"), rows, width_max=400)
    for name in report.warned:
        output.note(f"group {name} was not here for long; in a while it holds nothing up any more")


@command.command("backup", short_help="Copy the log while programs go on.")
@click.argument("directory", type=click.Path(path_type=Path))
@log_option()
@json_option()
def backup(*, directory: Path) -> None:
    """Copy the log into the new DIRECTORY, as it is at one moment; programs go on publishing meanwhile.

    The copy is a log of its own, witness included. It is there whole, or not at all.
    """

    async def work(opened: Log) -> tuple[str, Copied]:
        from penstock.channel.drivers.embedded.port import RealPort  # noqa: PLC0415 - opens the log's libraries
        from penstock.log.backup import back_up  # noqa: PLC0415

        port = opened.channel.port
        assert isinstance(port, RealPort)
        log = port.log
        with counter("copying") as show:
            told = partial(_pages, show)
            return str(opened.directory), await opened.system.offload.run(lambda: back_up(log, directory, told))

    source, copied = with_log(work)
    _print_copied(copied, "backup", source)


@command.command("restore", short_help="Make a log of a backup.")
@click.argument("backup", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("directory", type=click.Path(path_type=Path))
@json_option()
@click.option("--replace", is_flag=True, help="Keep the log that is there now under another name beside it.")
def restore_log(*, backup: Path, directory: Path, replace: bool) -> None:
    """Make a log in DIRECTORY of BACKUP; it gets a new incarnation.

    Groups go on where they were when the backup was made. Sinks whose target was written from the log that was
    copied stop with an error and skip nothing: they need a new target.
    """
    from penstock.log.backup import restore  # noqa: PLC0415 - opens the log's libraries
    from penstock.system import real_system  # noqa: PLC0415

    system = real_system()
    try:
        with counter("copying") as show:
            copied = restore(backup, directory, system, replace=replace, on_progress=partial(_pages, show))
    finally:
        system.offload.close()
    _print_copied(copied, "restored", str(backup))


def _pages(show: Callable[[str], None], done: int, total: int) -> None:
    show(f"{done:,} of {total:,} pages")


def _print_copied(copied: Copied, what: str, source: str) -> None:
    identity = copied.identity
    if wants_json():
        told = {"log": source, what: str(copied.directory), "identity": identity.log, "bytes": copied.bytes}
        output.document(told | {"incarnation": identity.incarnation, "commits": copied.commits})
        return
    output.note(f"log {source}")
    size = output.size(copied.bytes)
    output.say(f"{what}: {copied.directory}, {size}, {copied.commits:,} commits, incarnation {identity.incarnation}")


@command.command("verify", short_help="Read everything and check every checksum.")
@log_option()
@json_option()
def verify_log() -> int:
    """Read everything; list each damage with its place and the way out. The exit code is 1 when there is one.

    Checked are every block's and row's checksum, that no offset is missing, and that progress, ledgers, sequences and
    indexes fit what they speak of. Nothing is changed.
    """

    async def work(opened: Log) -> tuple[str, Verified]:
        from penstock.log.verify import verify  # noqa: PLC0415 - opens the log's libraries

        with counter("verifying") as show:
            told = partial(_blocks, show)
            return str(opened.directory), await opened.system.offload.run(
                lambda: verify(opened.channel.port.look, told)
            )

    directory, found = with_log(work)
    if wants_json():
        output.document({"log": directory, "whole": not found.damages} | msgspec.to_builtins(found))
        return exits.FAILED if found.damages else exits.DONE
    output.note(f"log {directory}")
    for damage in found.damages:
        output.say(f"damaged: {damage.what}")
        output.say(f"  way out: {damage.way_out}")
    for one in found.quarantined:
        output.say(f"quarantined: topic {one.topic}/{one.partition}, offsets {one.first} to {one.end - 1}")
    whole = "every checksum matches" if not found.damages else output.counted(len(found.damages), "damaged place")
    output.say(f"{found.blocks:,} blocks with {found.events:,} events, {found.rows:,} rows: {whole}")
    return exits.FAILED if found.damages else exits.DONE


def _blocks(show: Callable[[str], None], blocks: int, events: int) -> None:
    show(f"{blocks:,} blocks, {events:,} events")


@command.command("quarantine", short_help="Have damaged events passed over.")
@click.argument("place", metavar="TOPIC/PARTITION")
@click.option("--offsets", required=True, metavar="FIRST:LAST", help="The damaged offsets, as `verify` names them.")
@log_option()
@json_option()
@click.option("--yes", is_flag=True, help="Do not ask.")
def quarantine(*, place: str, offsets: str, yes: bool) -> None:
    """Have the damaged events of TOPIC/PARTITION at these offsets passed over by readers and groups.

    Only what cannot be read can be quarantined. Its bytes stay where they are; what is passed over is counted, and
    listed by `penstock log verify` and `penstock doctor --deep`.
    """
    topic, _, number = place.rpartition("/")
    first, _, last = offsets.partition(":")
    if not (topic and number.isdecimal() and first.isdecimal() and last.isdecimal()):
        msg = f"{place} --offsets {offsets}; expected TOPIC/PARTITION --offsets FIRST:LAST"
        raise click.UsageError(msg)
    if not yes:
        ask(f"pass over offsets {first} to {last} of {place}? Nobody will be given these events")

    async def work(opened: Log) -> tuple[str, Quarantined]:
        from penstock.log.quarantining import damaged, pass_over  # noqa: PLC0415 - opens the log's libraries
        from penstock.log.verify import Place  # noqa: PLC0415

        pids = opened.channel.row(topic).pids
        if int(number) >= len(pids):
            raise ConfigError(f"partition {number}; expected 0 to {len(pids) - 1}", path=f"topics.{topic}")
        where, now_us = Place(topic, int(number), pids[int(number)]), opened.system.clock.now_us()
        wanted = damaged(opened.channel.port.look, where, int(first), int(last) + 1, now_us=now_us)
        found = await opened.channel.port.write(lambda db: pass_over(db, wanted))
        return str(opened.directory), found

    directory, found = with_log(work)
    if wants_json():
        output.document({"log": directory, "topic": topic, "partition": int(number)} | msgspec.to_builtins(found))
        return
    output.note(f"log {directory}")
    output.say(f"quarantined: topic {place}, offsets {found.first} to {found.end - 1}; readers pass over them now")
