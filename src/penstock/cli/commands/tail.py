"""`penstock tail`: events of a topic as people or programs read them, and new ones as they come."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from penstock.cli import output
from penstock.cli.options import Log, json_option, log_option, reveal_option, wants_json, with_log
from penstock.errors import ConfigError

if TYPE_CHECKING:
    from penstock.event.envelope import RecordedEvent
    from penstock.observe.events import TopicEvents

LAST = 10


@click.command("tail", short_help="Print events of a topic.")
@click.argument("topic")
@log_option()
@json_option("Print each event as a CloudEvents 1.0 object on a line.")
@click.option("--from", "start", metavar="WHERE", default=None,
              help=f"earliest, latest, an offset, or when recorded; without it the last {LAST}.")  # fmt: skip
@click.option("-n", "count", type=click.IntRange(min=1), metavar="N", help="At most N events.")
@click.option("--follow", "-f", is_flag=True, help="Go on with new events as they come.")
@click.option("--partition", "-p", type=click.IntRange(min=0), metavar="P", help="One partition only.")
@reveal_option()
def command(
    *, topic: str, start: str | None, count: int | None, follow: bool,
    partition: int | None, reveal: bool,
) -> None:  # fmt: skip
    """Print events of TOPIC in the order they were recorded: partition/offset, time, key and the event as JSON."""
    place = _place(start)

    async def work(opened: Log) -> None:
        from penstock.observe.events import TopicEvents  # noqa: PLC0415 - opens the log's libraries
        from penstock.observe.reading import typed  # noqa: PLC0415
        from penstock.observe.showing import Showing  # noqa: PLC0415

        found = opened.channel.topic(topic)
        every = range(found.spec.partitions)
        if partition is not None and partition not in every:
            msg = f"{partition}; topic {topic} has partitions 0 to {found.spec.partitions - 1}"
            raise ConfigError(msg, path="--partition")
        showing = Showing(opened.channel.topics(), reveal=reveal)
        events = TopicEvents(opened.channel, typed(found), partitions=every if partition is None else [partition])
        pids = opened.channel.row(topic).pids
        with closing(opened.channel.port.tidings(pids)) as tidings:
            left = count
            async for event in _stream(events, place, LAST if count is None else count, tidings if follow else None):
                _print(showing.event(event))
                if left is not None:
                    left -= 1
                    if left == 0:
                        return

    with_log(work)


def _place(text: str | None) -> str | int | datetime | None:
    """What `--from` means: a word, an offset or a moment."""
    if text is None or text in {"earliest", "latest"}:
        return text
    if text.isdecimal():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        msg = f"--from {text}: expected earliest, latest, an offset such as 1200, or a time such as 2013-01-01T06:00Z"
        raise click.UsageError(msg) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


async def _stream(
    events: TopicEvents, place: str | int | datetime | None, last: int, tidings: Any
) -> AsyncIterator[RecordedEvent]:
    tips = await events.tips()
    if place is None:
        for event in await events.last(last):
            yield event
        starts = tips
    elif place == "latest":
        starts = tips
    elif isinstance(place, datetime):
        starts = await events.recorded_from(round(place.timestamp() * 1_000_000))
    else:
        offset = place if isinstance(place, int) else 0
        starts = {partition: min(offset, tip) for partition, tip in tips.items()}
    stream = events.between(starts, tips) if tidings is None else events.follow(starts, tidings)
    async for event in stream:
        yield event


def _print(event: RecordedEvent) -> None:
    if wants_json():
        click.echo(output.event_json(event.to_cloudevent()))
        return
    key = "" if event.key is None else event.key.decode(errors="backslashreplace")
    body = event.data if isinstance(event.data, bytes) else output.event_json(event.data)
    parts = [f"{event.partition}/{event.offset}", event.recorded_time, key, body]
    output.say("  ".join(output.cell(part) for part in parts if part != ""))
