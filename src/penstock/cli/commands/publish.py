"""`penstock publish`: events into a topic, checked against its recorded type, one answer a line."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from penstock.cli import exits, output
from penstock.cli.options import Log, json_option, log_option, wants_json, with_log
from penstock.errors import ConfigError, PenstockError, Rejected

if TYPE_CHECKING:
    from penstock.channel.api import TopicSpec
    from penstock.cli.lines import Line
    from penstock.cli.publishing import Publisher, Told

COMPLAINTS_MAX = 20


@click.command("publish", short_help="Publish events, one JSON object a line.")
@click.argument("topic")
@click.argument("events", nargs=-1)
@log_option()
@json_option("Print one JSON object a line: what became of it, and where it lies.")
@click.option("--key", metavar="KEY", help="The key of every event, for a topic whose type has no key field.")
@click.option("--header", "-H", "headers", multiple=True, metavar="NAME=VALUE", help="A header of every event.")
def command(*, topic: str, events: tuple[str, ...], key: str | None, headers: tuple[str, ...]) -> int:
    """Publish EVENTS, or the lines of stdin, to TOPIC: JSON, or any bytes where the topic has no type.

    Each line is checked against the type that the log has recorded. Good lines are stored, in order; bad ones are
    named with the reason, and the exit code is then 3.
    """
    pairs = _pairs(headers)

    async def work(opened: Log) -> Counter[str]:
        from penstock.cli.publishing import Publisher, handfuls  # noqa: PLC0415 - opens the log's libraries
        from penstock.observe.reading import typed  # noqa: PLC0415

        found = typed(opened.channel.topic(topic))
        _check(found.spec, key)
        publisher = Publisher(opened, found, key=key, headers=pairs)
        counts: Counter[str] = Counter()
        async for lines in _lines(opened, events, found.spec.event_bytes_max):
            for part in handfuls(lines):
                await _publish(publisher, part, counts)
        return counts

    counts = with_log(work)
    output.note(", ".join(f"{counts[what]:,} {what}" for what in ("acked", "rejected", "unknown") if counts[what])
                or "nothing to publish")  # fmt: skip
    if counts["unknown"]:
        return exits.UNKNOWN
    return exits.PARTLY if counts["rejected"] else exits.DONE


def _pairs(headers: Sequence[str]) -> dict[str, str]:
    """The headers, by the rules that every publisher keeps to."""
    from penstock.event.checks import check_headers  # noqa: PLC0415 - few commands need it

    pairs: dict[str, str] = {}
    for name, value in map(_pair, headers):
        if name in pairs:
            msg = f"--header {name}: given twice; an event has a header once"
            raise click.UsageError(msg)
        pairs[name] = value
    try:
        check_headers(pairs)
    except Rejected as exc:
        msg = f"--header: {exc}"
        raise click.UsageError(msg) from exc
    return pairs


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        msg = f"--header {text!r}: expected NAME=VALUE"
        raise click.UsageError(msg)
    return name, value


def _check(spec: TopicSpec, key: str | None) -> None:
    if spec.internal or (spec.schema is not None and spec.schema["kind"] == "columns"):
        msg = "flows and handlers of a program write this topic; publish to one of its inputs"
        raise ConfigError(msg, path=f"topics.{spec.name}")
    if key is not None and spec.key is not None:
        msg = f"the key of topic {spec.name} is the field {spec.key} of each event; leave --key out"
        raise ConfigError(msg, path="--key")


async def _lines(opened: Log, events: Sequence[str], event_bytes_max: int) -> AsyncIterator[list[Line]]:
    from penstock.cli.lines import Line, Lines  # noqa: PLC0415 - beside what it is used with

    if events:
        bodies = [os.fsencode(event) for event in events]  # an argument may be any bytes
        yield [Line(number, body, len(body)) for number, body in enumerate(bodies, 1)]
        return
    stdin: Any = sys.stdin.buffer  # a BufferedReader; its stub is less
    reader = Lines(stdin.read1, line_bytes_max=event_bytes_max)
    while found := await opened.system.offload.run(reader.next):
        yield found


async def _publish(publisher: Publisher, lines: Sequence[Line], counts: Counter[str]) -> None:
    too_long = [line for line in lines if line.size > len(line.body)]
    try:
        told = await publisher.publish([line for line in lines if line.size == len(line.body)])
    except PenstockError:
        output.note(f"{counts['acked']:,} acked; no line from line {lines[0].number} on was stored")
        raise
    told += [_too_long(line) for line in too_long]
    for one in sorted(told, key=lambda t: t.line):
        counts[one.outcome] += 1
        if wants_json():
            output.lines([one])
        elif one.outcome != "acked":
            _complain(one, counts)


def _too_long(line: Line) -> Any:
    from penstock.cli.publishing import Told  # noqa: PLC0415 - loaded by now

    reason = f"{line.size} bytes, more than the topic's event_bytes_max; store the body elsewhere, publish a reference"
    return Told(line.number, "rejected", reason=reason)


def _complain(told: Told, counts: Counter[str]) -> None:
    named = counts["rejected"] + counts["unknown"]
    if named <= COMPLAINTS_MAX:
        output.note(f"line {told.line}: {told.outcome}: {told.reason}")
    elif named == COMPLAINTS_MAX + 1:
        output.note("more lines were not stored; --json names each")
