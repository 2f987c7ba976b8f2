"""`penstock dlq`: the events that were given up, why, and their original bytes."""

from __future__ import annotations

import sys
from base64 import b64encode
from typing import TYPE_CHECKING, Any

import click
import msgspec

from penstock.cli import output
from penstock.cli.options import Log, json_option, log_option, wants_json, with_log

if TYPE_CHECKING:
    from penstock.observe.letters import Cause, Found


@click.group("dlq", short_help="Look at dead letters.")
def command() -> None:
    """Look at dead letters: events that a handler, flow or sink rejected or could not handle.

    They keep their original bytes. As a table: penstock query 'from "GROUP.dead"'.
    """


@command.command("list", short_help="Count dead letters by group and cause.")
@click.argument("groups", nargs=-1)
@log_option()
@json_option()
def list_causes(*, groups: tuple[str, ...]) -> None:
    """Count dead letters by group (all, or GROUPS) and cause, the most frequent first."""

    async def work(opened: Log) -> tuple[str, list[Cause]]:
        from penstock.observe import letters  # noqa: PLC0415 - opens the log's libraries

        topics = opened.channel.topics()
        chosen = list(groups) or letters.dead_letter_groups(topics)
        return str(opened.directory), await letters.causes(opened.channel, topics, chosen)

    directory, found = with_log(work)
    total = sum(cause.count for cause in found)
    if wants_json():
        output.document({"log": directory, "dead_letters": total, "causes": [_told(cause) for cause in found]})
        return
    output.note(f"log {directory}")
    if not found:
        output.say("no dead letters")
        return
    rows = [(c.group, c.count, c.error, c.cause, output.moment(c.last_us), c.example) for c in found]
    output.table(("group", "count", "error", "cause", "last", "example"), rows)
    output.note(f"{total:,} dead letters; see one: penstock dlq show {found[0].example}")


def _told(cause: Cause) -> dict[str, Any]:
    told = msgspec.structs.asdict(cause)
    first, last = told.pop("first_us"), told.pop("last_us")
    return told | {"first": output.moment(first), "last": output.moment(last)}


@command.command("show", short_help="Show one dead letter whole.")
@click.argument("letter")
@log_option()
@json_option()
@click.option("--raw", is_flag=True, help="Write the event's original bytes to stdout and nothing else.")
def show(*, letter: str, raw: bool) -> None:
    """Show LETTER, an event's id or GROUP/PARTITION/OFFSET: original bytes, reason, stack and attempts."""
    if wants_json() and raw:
        msg = "--json and --raw exclude each other; choose one"
        raise click.UsageError(msg)

    async def work(opened: Log) -> Found:
        from penstock.observe import letters  # noqa: PLC0415 - opens the log's libraries

        return await letters.find(opened.channel, opened.channel.topics(), letter)

    found = with_log(work)
    if raw:
        sys.stdout.buffer.write(found.letter.body)
        sys.stdout.buffer.flush()
    elif wants_json():
        output.document(_letter(found))
    else:
        _print(found)


def _letter(found: Found) -> dict[str, Any]:
    told = msgspec.structs.asdict(found.letter)
    body, key = told.pop("body"), told.pop("key")
    told |= {"position": found.position, "given_up": output.moment(found.recorded_us)}
    told["key"] = None if key is None else key.decode(errors="backslashreplace")
    try:
        told["body"] = body.decode()
    except UnicodeDecodeError:
        told["body_base64"] = b64encode(body).decode()
    return told


def _print(found: Found) -> None:
    letter = found.letter
    facts = {
        "position": found.position,
        "event": f"{letter.topic}/{letter.partition}/{letter.offset}",
        "id": letter.id,
        "key": letter.key,
        "given up": output.moment(found.recorded_us),
        "attempts": letter.attempts,
        "error": letter.error,
        "reason": letter.reason,
    }
    for name, value in facts.items():
        if value not in (None, ""):
            output.say(f"{name + ':':<10}{output.cell(value)}")
    if letter.stack:
        output.say("stack:")
        for line in letter.stack.splitlines():
            output.say("  " + line)
    output.say("body:")
    output.say("  " + output.cell(letter.body))
