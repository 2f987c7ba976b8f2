"""`penstock groups`: who owns each consumer group, where it stands and how far it is behind."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from penstock.cli import output
from penstock.cli.options import Log, json_option, log_option, wants_json, with_log


@click.command("groups", short_help="List consumer groups: owners and lag.")
@click.argument("names", nargs=-1)
@log_option()
@json_option()
def command(*, names: tuple[str, ...]) -> None:
    """List consumer groups (all, or NAMES) with their lag: events that are recorded and not settled yet."""

    async def work(opened: Log) -> dict[str, Any]:
        from penstock.channel.rules import unknown_name  # noqa: PLC0415 - opens the log's libraries
        from penstock.errors import ConfigError  # noqa: PLC0415
        from penstock.observe.inventory import group_facts  # noqa: PLC0415

        facts = group_facts(opened.channel)
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
        (g["name"] if first else "", g["kind"] if first else "", g["topic"] if first else "",
         p["partition"], p["epoch"], p["floor"], p["end"], p["lag"], _state(g) if first else "")
        for g in found["groups"]
        for first, p in ((p is g["partitions"][0], p) for p in g["partitions"])
    ]  # fmt: skip
    output.table(("group", "kind", "topic", "partition", "epoch", "floor", "end", "lag", "state"), rows)


def _state(group: dict[str, Any]) -> str:
    if group["state"] == "gone":
        return "gone: holds retention up for another day" if group["holds"] else "gone: holds retention up no more"
    return f"running: {group['owner']}" if group["owner"] else group["state"]
