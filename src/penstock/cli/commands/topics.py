"""`penstock topics`: what a log holds, and the type of a topic."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from penstock.cli import output
from penstock.cli.options import Log, json_option, log_option, wants_json, with_log


@click.group("topics", invoke_without_command=True, short_help="List the topics of a log, or show one.")
@log_option()
@json_option()
@click.option("--all", "all_topics", is_flag=True, help="Also those that flows and dead letters use.")
@click.pass_context
def command(ctx: click.Context, *, all_topics: bool) -> None:
    """List the topics of a log: their types, sizes and times."""
    if ctx.invoked_subcommand is not None:
        return

    async def work(opened: Log) -> dict[str, Any]:
        from penstock.observe.inventory import topic_facts  # noqa: PLC0415 - opens the log's libraries

        facts = topic_facts(opened.channel)
        return {"log": str(opened.directory), "topics": [_told(fact) for fact in facts]}

    found = with_log(work)
    if wants_json():
        output.document(found)
        return
    output.note(f"log {found['log']}")
    shown = [topic for topic in found["topics"] if all_topics or not topic["internal"]]
    names = ("topic", "type", "partitions", "events", "skew", "size", "first", "last", "schema")
    rows = [
        (t["name"], t["type"] or "bytes", t["partitions"], t["events"], t["skew"],
         output.size(t["bytes"]), t["first"], t["last"], t["schema_id"])
        for t in shown
    ]  # fmt: skip
    output.table(names, rows)
    if hidden := len(found["topics"]) - len(shown):
        output.note(f"and {hidden} internal ones: --all")


def _told(fact: Any) -> dict[str, Any]:
    """Facts as JSON: times are of events where the topic has them, of recording else."""
    told = msgspec.structs.asdict(fact)
    limits = [told.pop(f"{kind}_{end}_us") for kind in ("time", "recorded") for end in ("min", "max")]
    first, last, recorded_first, recorded_last = map(output.moment, limits)
    return told | {"first": first or recorded_first or None, "last": last or recorded_last or None}


@command.command("show", short_help="Show a topic, its partitions and the fields of its type.")
@click.argument("topic")
@log_option()
@json_option()
def show(*, topic: str) -> None:
    """Show a topic: what was declared, what each partition holds, and the fields of its recorded type."""

    async def work(opened: Log) -> dict[str, Any]:
        from penstock.observe import inventory  # noqa: PLC0415 - opens the log's libraries

        opened.channel.row(topic)  # a name that is not there is answered with close ones
        fact = next(f for f in inventory.topic_facts(opened.channel) if f.name == topic)
        spec = opened.channel.topic(topic).spec
        fields = [] if spec.schema is None else inventory.field_facts(spec.schema)
        return _told(fact) | {
            "log": str(opened.directory),
            "disorder_s": spec.disorder_s,
            "event_bytes_max": spec.event_bytes_max,
            "parts": [msgspec.structs.asdict(p) for p in inventory.partition_facts(opened.channel, topic)],
            "fields": [msgspec.structs.asdict(field) for field in fields],
        }

    found = with_log(work)
    if wants_json():
        output.document(found)
        return
    shown = "name log type events skew first last key time disorder_s event_bytes_max"
    for name in shown.split():
        output.say(f"{name + ':':<17}{output.cell(found[name])}")
    output.say()
    output.table(
        ("partition", "first offset", "next offset", "blocks", "size"),
        [(p["partition"], p["begin"], p["next"], p["blocks"], output.size(p["bytes"])) for p in found["parts"]],
    )
    output.say()
    if found["fields"]:
        rows = [(f["name"], f["type"], "" if f["required"] else _default(f)) for f in found["fields"]]
        output.table(("field", "type", "when missing"), rows)
    else:
        output.say("raw bytes: the topic has no type")


def _default(field: dict[str, Any]) -> str:
    return output.to_json(field["default"])
