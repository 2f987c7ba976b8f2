"""`penstock groups`: who owns each partition of each consumer group, how far it is behind, and putting it elsewhere."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
import msgspec

from penstock.cli import output
from penstock.cli.options import Log, ask, json_option, log_option, wants_json, with_log

if TYPE_CHECKING:
    from penstock.observe.seeking import Aim, Seeking


class _Groups(click.Group):
    """Lists groups unless a command is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group("groups", cls=_Groups, short_help="List consumer groups: owners and lag.")
def command() -> None:
    """List consumer groups, or put one elsewhere. Without a command: list."""


@command.command("list", short_help="Owners and lag of each partition.")
@click.argument("names", nargs=-1)
@log_option()
@json_option()
def list_groups(*, names: tuple[str, ...]) -> None:
    """List consumer groups (all, or NAMES): owners, and the lag: events that are recorded and not settled yet.

    The lag in seconds is the age of the first event that is not settled; its trend is by how many events it has grown
    in the last minute. Parked events failed, or wait behind one of their key that did; they count as settled.
    """

    async def work(opened: Log) -> dict[str, Any]:
        from penstock.channel.rules import unknown_name  # noqa: PLC0415 - opens the log's libraries
        from penstock.errors import ConfigError  # noqa: PLC0415
        from penstock.observe.inventory import group_facts  # noqa: PLC0415

        facts = group_facts(opened.channel, now_us=opened.system.clock.now_us())
        known = [fact.name for fact in facts]
        for name in names:
            if name not in known:
                raise ConfigError(unknown_name(name, known, what="group"), path="groups")
        chosen = [msgspec.to_builtins(fact) for fact in facts if not names or fact.name in names]
        return {"log": str(opened.directory), "groups": chosen}

    found = with_log(work)
    if wants_json():
        output.document(found)
        return
    output.note(f"log {found['log']}")
    rows = [
        (g["name"] if first else "", g["kind"] if first else "", g["topic"] if first else "", p["partition"],
         p["epoch"], p["floor"], p["holes"], p["parked"], p["end"], p["lag"], f"{p['lag_s']:.1f}", f"{p['trend']:+,}",
         p["owner"] or (_state(g) if first and not g["owner"] else ""))
        for g in found["groups"]
        for first, p in ((p is g["partitions"][0], p) for p in g["partitions"])
    ]  # fmt: skip
    names_of = (
        "group",
        "kind",
        "topic",
        "partition",
        "epoch",
        "floor",
        "holes",
        "parked",
        "end",
        "lag",
        "lag s",
        "trend",
        "owner",
    )
    output.table(names_of, rows)


@command.command("seek", short_help="Put a group's progress elsewhere.")
@click.argument("group")
@click.option(
    "--to-offset", metavar="OFFSET", help="An offset, `earliest` (the first that is kept) or `latest` (the end)."
)
@click.option("--to-time", metavar="TIME", help="The first event recorded then or later: 2026-01-31T12:00, in UTC.")
@click.option("--to-event", metavar="PLACE", help="One event, as in [TOPIC/]PARTITION@OFFSET; other partitions stay.")
@click.option("--partition", "partitions", type=int, multiple=True, help="Only this partition; may be given again.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@log_option()
@json_option()
def seek(
    *,
    group: str,
    to_offset: str | None,
    to_time: str | None,
    to_event: str | None,
    partitions: tuple[int, ...],
    yes: bool,
) -> None:
    """Put GROUP's progress elsewhere: events are read again, or skipped. It says which first, and asks.

    The group must not be running. What it remembers of its partitions (parked events, attempts, a flow's state) is
    forgotten: a flow's state begins anew where it is put. Results that were written stay, so what is read again is
    written again, with the same ids.
    """
    aim = _aim(to_offset, to_time, to_event, partitions)

    async def look(opened: Log) -> Seeking:
        from penstock.observe.seeking import plan  # noqa: PLC0415 - opens the log's libraries

        return plan(opened.channel, group, aim)

    seeking = with_log(look)
    if wants_json():
        if yes:
            _carry_out(seeking)
        output.document({"group": group, "done": yes, "partitions": msgspec.to_builtins(seeking.shifts)})
        return
    rows = [(s.partition, s.floor, s.to, s.again, s.skipped, _forgotten(s.forgets)) for s in seeking.shifts]
    output.table(("partition", "floor", "to", "read again", "skipped", "forgotten"), rows)
    again, skipped = (sum(getattr(s, name) for s in seeking.shifts) for name in ("again", "skipped"))
    output.note(f"group {group}: {again:,} events are read again, {skipped:,} are skipped")
    if not yes:
        ask("Do it?")
    _carry_out(seeking)
    output.say(f"group {group} goes on from there when it runs again")


def _carry_out(seeking: Seeking) -> None:
    async def work(opened: Log) -> None:
        from penstock.observe.seeking import carry_out  # noqa: PLC0415

        await carry_out(opened.channel, seeking)

    with_log(work)


def _forgotten(forgets: Any) -> str:
    return ", ".join(f"{count} {space}" for space, count in forgets.items())


def _aim(to_offset: str | None, to_time: str | None, to_event: str | None, partitions: tuple[int, ...]) -> Aim:
    from penstock.observe.seeking import Aim  # noqa: PLC0415 - opens the log's libraries

    if sum(value is not None for value in (to_offset, to_time, to_event)) != 1:
        msg = "one of --to-offset, --to-time and --to-event says where to"
        raise click.UsageError(msg)
    chosen = partitions or None
    if to_event is not None:
        match = re.fullmatch(r"(?:(.+)/)?([0-9]+)@([0-9]+)", to_event)
        if match is None:
            msg = f"--to-event {to_event}; expected PARTITION@OFFSET, such as 3@1207"
            raise click.UsageError(msg)
        if partitions:
            raise click.UsageError("--to-event names its partition; leave --partition out")
        return Aim(int(match[3]), partitions=[int(match[2])], topic=match[1] or "")
    if to_time is not None:
        try:
            moment = datetime.fromisoformat(to_time)
        except ValueError as exc:
            msg = f"--to-time {to_time}; expected a time such as 2026-01-31T12:00"
            raise click.UsageError(msg) from exc
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        return Aim(time_us=int(moment.timestamp() * 1_000_000), partitions=chosen)
    assert to_offset is not None
    if to_offset == "latest":
        return Aim(partitions=chosen)
    if to_offset == "earliest":
        return Aim(time_us=0, partitions=chosen)
    if not to_offset.isdecimal():
        msg = f"--to-offset {to_offset}; expected a number, earliest or latest"
        raise click.UsageError(msg)
    return Aim(int(to_offset), partitions=chosen)


def _state(group: dict[str, Any]) -> str:
    if group["state"] == "gone":
        return "gone: holds retention up for another day" if group["holds"] else "gone: holds retention up no more"
    return group["state"]
