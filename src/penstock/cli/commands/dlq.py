"""`penstock dlq`: the events that were given up, why, their original bytes, and having them handled again."""

from __future__ import annotations

import math
import sys
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

import click
import msgspec

from penstock.cli import output
from penstock.cli.options import Decorated, Log, json_option, log_option, reveal_option, wants_json, with_log
from penstock.cli.redriving import Action, Choice, carry_out
from penstock.errors import ConfigError

if TYPE_CHECKING:
    from penstock.observe.letters import Cause, Found


@click.group("dlq", short_help="Look at dead letters, redrive and skip them.")
def command() -> None:
    """Look at dead letters, redrive and skip them: events that a handler or flow gave up, or a source could not read.

    They keep their original bytes. As a table: penstock query 'from "GROUP.dead"'.
    """


@command.command("list", short_help="Count dead letters by group and cause.")
@click.argument("groups", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Count those too that were redriven or skipped.")
@log_option()
@json_option()
def list_causes(*, groups: tuple[str, ...], everything: bool) -> None:
    """Count open dead letters by group (all, or GROUPS) and cause, the most frequent first."""

    async def work(opened: Log) -> tuple[str, list[Cause], list[str]]:
        from penstock.observe import letters, redriving  # noqa: PLC0415 - opens the log's libraries

        topics = opened.channel.topics()
        chosen = list(groups) or letters.dead_letter_groups(topics)
        dealt = await redriving.dealt_with(opened.channel, chosen)

        def dealt_with(found: Found) -> bool:
            return redriving.place_of(found) in dealt[found.letter.group]

        found = await letters.causes(opened.channel, topics, chosen, dealt_with=dealt_with, everything=everything)
        again = [cause.group for cause in found if cause.open and redriving.takes_back(topics, cause.group)]
        return str(opened.directory), found, again

    directory, found, again = with_log(work)
    total = sum(cause.count for cause in found)
    if wants_json():
        output.document({"log": directory, "dead_letters": total, "causes": [_told(cause) for cause in found]})
        return
    output.note(f"log {directory}")
    if not found:
        output.say("no dead letters" if everything else "no open dead letters")
        return
    rows = [(c.group, c.count, c.open, c.error, c.cause, output.moment(c.last_us), c.example) for c in found]
    output.table(("group", "count", "open", "error", "cause", "last", "example"), rows)
    example = found[0]
    output.note(f"{output.counted(total, 'dead letter')}; see one: penstock dlq show {example.example}")
    if again:
        output.note(f"handle them again: penstock dlq redrive {again[0]} --all --dry-run")


def _told(cause: Cause) -> dict[str, Any]:
    told = msgspec.structs.asdict(cause)
    first, last = told.pop("first_us"), told.pop("last_us")
    return told | {"first": output.moment(first), "last": output.moment(last)}


@command.command("show", short_help="Show one dead letter whole.")
@click.argument("letter")
@log_option()
@json_option()
@click.option("--raw", is_flag=True, help="Write the event's original bytes to stdout and nothing else.")
@reveal_option()
def show(*, letter: str, raw: bool, reveal: bool) -> None:
    """Show LETTER, an event's id or GROUP/PARTITION/OFFSET: original bytes, reason, stack and attempts."""
    if wants_json() and raw:
        msg = "--json and --raw exclude each other; choose one"
        raise click.UsageError(msg)

    async def work(opened: Log) -> Found:
        from penstock.observe import letters  # noqa: PLC0415 - opens the log's libraries
        from penstock.observe.showing import Showing  # noqa: PLC0415

        topics = opened.channel.topics()
        found, showing = await letters.find(opened.channel, topics, letter), Showing(topics, reveal=reveal)
        if raw and showing.hides(found.letter.topic):
            msg = f"events of topic {found.letter.topic} have personal fields; to write them out add --reveal"
            raise ConfigError(msg, path="--raw")
        return showing.letter(found)

    found = with_log(work)
    if raw:
        sys.stdout.buffer.write(found.letter.body)
        sys.stdout.buffer.flush()
    elif wants_json():
        output.document(_letter(found))
    else:
        _print(found)


class _Rate(click.FloatRange):
    """Of letters, a second. The range alone lets through what compares with nothing."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if math.isnan(found):
            self.fail("nan is no number", param, ctx)
        return found


def _choice(action: Action) -> Decorated:
    """The options that redrive and skip share: which letters, and how; `_chosen` makes them one value."""
    option = partial(click.option, expose_value=False, callback=_keep)
    rate = _Rate(min=0.001, max=1e6)
    options = (
        click.argument("letters", nargs=-1, metavar="LETTER|GROUP..."),
        option("--all", "everything", is_flag=True, help="Every open letter of the group."),
        option("--matching", metavar="TEXT", help="The group's open letters whose error or reason holds TEXT."),
        option("--first", type=click.IntRange(min=1), metavar="N", help="At most N of them, the oldest first."),
        option("--dry-run", is_flag=True, help=f"Say which would be meant, {action} none."),
        option("--rate", type=rate, metavar="N", help="At most N letters a second."),
        log_option(),
        json_option(),
    )

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorated in reversed(options):
            function = decorated(function)
        return function

    return decorate


def _keep(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    ctx.meta.setdefault("penstock.choice", {})[parameter.name] = value


def _chosen(action: Action, letters: tuple[str, ...]) -> Choice:
    given = click.get_current_context().meta["penstock.choice"]
    return msgspec.convert({"action": action, "wanted": letters, **given}, Choice)


@command.command("redrive", short_help="Have dead letters handled again.")
@_choice("redrive")
@click.option("--edit", is_flag=True, help="Edit the one letter's bytes first, in $EDITOR.")
@click.option("--body", type=click.File("rb"), metavar="FILE", help="Handle these bytes instead (- is stdin).")
@reveal_option("With --edit: the editor shows personal fields, too.")
def redrive(*, letters: tuple[str, ...], edit: bool, body: BinaryIO | None, reveal: bool) -> None:
    """Have LETTERs (by id or GROUP/PARTITION/OFFSET), or letters of GROUP, handled again by their group.

    Each is handled once, however often it is asked for. Where the group's policy is block, its key has waited and goes
    on behind it, in order; where it is continue, the event comes late and is marked so. Interrupted, nothing is lost.
    """
    given = None if body is None else body.read()
    carry_out(msgspec.structs.replace(_chosen("redrive", letters), edit=edit, body=given, reveal=reveal))


@command.command("skip", short_help="Close dead letters; a key that waits for one goes on.")
@_choice("skip")
def skip(*, letters: tuple[str, ...]) -> None:
    """Close LETTERs (by id or GROUP/PARTITION/OFFSET), or letters of GROUP, without handling them.

    Where the group's policy is block, the letter's key goes on with its next event. The letter stays where it is.
    """
    carry_out(_chosen("skip", letters))


def _letter(found: Found) -> dict[str, Any]:
    told = msgspec.structs.asdict(found.letter)
    body, key = told.pop("body"), told.pop("key")
    told |= {"position": found.position, "given_up": output.moment(found.recorded_us)}
    told["tries"] = [
        {"at": output.moment(one.at_us), "error": one.error, "reason": one.reason} for one in found.letter.tries
    ]
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
        "holds": "its key until it is redriven or skipped" if letter.holds else "",
    }
    for name, value in facts.items():
        if value not in (None, ""):
            output.say(f"{name + ':':<10}{output.cell(value)}")
    for number, one in enumerate(letter.tries, 1):
        output.say(f"try {number}:    {output.moment(one.at_us)} {output.cell(f'{one.error}: {one.reason}')}")
    if letter.stack:
        output.say("stack:")
        for line in letter.stack.splitlines():
            output.say("  " + line)
    output.say("body:")
    output.say("  " + output.cell(letter.body))
