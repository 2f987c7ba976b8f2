"""What `penstock dlq redrive` and `skip` do: choose letters, say what would be done, ask for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import click
import msgspec

from penstock.cli import output
from penstock.cli.options import Log, wants_json, with_log
from penstock.errors import ConfigError, DecodeError

if TYPE_CHECKING:
    from penstock.observe.letters import Found
    from penstock.observe.redriving import Asker, Place, State

Action = Literal["redrive", "skip"]
TOGETHER_MAX = 500
TOGETHER_BYTES_MAX = 4_000_000


class Choice(msgspec.Struct, frozen=True):
    """Which letters are meant, and how they are asked for.

    `wanted` are letters by id or position, or one group's name with `everything`, `matching` (part of error or
    reason) or `first`. `rate` is a number of letters a second. With `reveal` the editor shows personal fields.
    """

    action: Action
    wanted: tuple[str, ...]
    everything: bool = False
    matching: str | None = None
    first: int | None = None
    dry_run: bool = False
    rate: float | None = None
    edit: bool = False
    body: bytes | None = None
    reveal: bool = False


def carry_out(choice: Choice) -> None:
    """Do it, and say what was done.

    Raises:
        click.UsageError: the choice contradicts itself.
        PenstockError: there is no such letter, or the log refuses.
    """
    if choice.matching == "":  # as of a variable of the shell that is not set
        msg = "--matching without a text would mean every letter; say which, or --all"
        raise click.UsageError(msg)
    many = choice.everything or choice.matching is not None or choice.first is not None
    if many and len(choice.wanted) != 1:
        msg = f"name one group with --all, --matching or --first; found {len(choice.wanted)} names"
        raise click.UsageError(msg)
    if not choice.wanted:
        msg = f"name letters, or a group with --all: penstock dlq {choice.action} GROUP --all"
        raise click.UsageError(msg)
    if (choice.edit or choice.body is not None) and (many or len(choice.wanted) != 1):
        msg = "--edit and --body are for one letter; name it"
        raise click.UsageError(msg)
    with_log(lambda log: _carried_out(log, choice, many=many))


async def _carried_out(log: Log, choice: Choice, *, many: bool) -> None:
    from penstock.observe import redriving  # noqa: PLC0415 - opens the log's libraries

    named = [] if many else await _named(log, choice.wanted)
    groups = list(choice.wanted) if many else sorted({one.letter.group for one in named})
    states = await redriving.dealt_with(log.channel, groups)
    found = await _chosen(log, choice, states[groups[0]]) if many else named
    askers = {group: redriving.Asker(log.channel, group, log.system) for group in groups}
    open_: list[Found] = []
    closed: list[tuple[Found, State]] = []
    for one in found:
        state = states[one.letter.group].get(redriving.place_of(one))
        if state is None:
            open_.append(one)
        else:
            closed.append((one, state))
    body = choice.body
    if choice.edit and open_:
        _check_shown(log, open_[0], reveal=choice.reveal)
        body = _edited(open_[0].letter.body)
    if body is not None and open_:
        _check_body(log, open_[0], body)
    if not choice.dry_run:
        await _asked(log, choice, askers, open_, body)
    _told(log, choice, open_, closed)


async def _named(log: Log, wanted: Sequence[str]) -> list[Found]:
    from penstock.observe import letters  # noqa: PLC0415

    topics = log.channel.topics()
    return [await letters.find(log.channel, topics, one) for one in dict.fromkeys(wanted)]


async def _chosen(log: Log, choice: Choice, dealt: Mapping[Place, State]) -> list[Found]:
    """The group's open letters that are meant, in the order they were given up in each partition."""
    from penstock.observe import letters, redriving  # noqa: PLC0415

    (group,) = choice.wanted
    out: list[Found] = []
    async for found in letters.letters(log.channel, log.channel.topics(), group):
        text = f"{found.letter.error}: {found.letter.reason}"
        if choice.matching is not None and choice.matching not in text:
            continue
        if redriving.place_of(found) in dealt:
            continue
        if choice.first is not None and len(out) >= choice.first:
            break
        out.append(found)
    return out


def _check_shown(log: Log, found: Found, *, reveal: bool) -> None:
    from penstock.observe.showing import Showing  # noqa: PLC0415

    if Showing(log.channel.topics(), reveal=reveal).hides(found.letter.topic):
        msg = f"events of topic {found.letter.topic} have personal fields, which an editor shows; to edit add --reveal"
        raise ConfigError(msg, path="--edit")


def _edited(body: bytes) -> bytes:
    try:
        text = body.decode()
    except UnicodeDecodeError as exc:
        msg = "the letter's bytes are no text; give the new ones with --body FILE"
        raise ConfigError(msg, path="dlq.edit") from exc
    edited = click.edit(text, extension=".json")
    if edited is None:
        msg = "the editor was left without saving; nothing was done"
        raise ConfigError(msg, path="dlq.edit")
    return edited.rstrip("\n").encode()


def _check_body(log: Log, found: Found, body: bytes) -> None:
    """What the handler could not decode is refused here, where somebody can mend it."""
    from penstock.observe.reading import typed  # noqa: PLC0415

    topic = typed(log.channel.topic(found.letter.topic))
    try:
        topic.decode(body)
    except DecodeError as exc:
        msg = f"the new bytes are no event of topic {topic.name}: {topic.hide(body)(str(exc))}"
        raise ConfigError(msg, path="dlq.edit") from exc


async def _asked(
    log: Log, choice: Choice, askers: dict[str, Asker], found: Sequence[Found], body: bytes | None
) -> None:
    """A transaction for a handful of letters; at a rate, for each one."""
    from penstock.observe import redriving  # noqa: PLC0415

    done = 0
    try:
        for part in _handfuls(found, 1 if choice.rate is not None else TOGETHER_MAX):
            by_group: dict[str, list[Any]] = {}
            for one in part:
                made = redriving.command_for(one, choice.action, body=body)
                by_group.setdefault(one.letter.group, []).append((redriving.place_of(one), made))
            for group, commands in by_group.items():
                await askers[group].ask(commands)
                done += len(commands)
            if choice.rate is not None and done < len(found):
                await log.system.clock.sleep(1 / choice.rate)
    finally:
        if done < len(found):
            output.note(f"ended early: {done:,} of {len(found):,} letters were asked for; ask again for the others")


def _handfuls(found: Sequence[Found], most: int) -> list[list[Found]]:
    out: list[list[Found]] = []
    size = 0
    for one in found:
        if not out or len(out[-1]) >= most or size > TOGETHER_BYTES_MAX:
            out.append([])
            size = 0
        out[-1].append(one)
        size += len(one.letter.body)
    return out


def _told(log: Log, choice: Choice, done: Sequence[Found], closed: Sequence[tuple[Found, State]]) -> None:
    if wants_json():
        output.document(
            {
                "log": str(log.directory),
                "action": choice.action,
                "dry_run": choice.dry_run,
                "letters": [one.position for one in done],
                "passed_over": [{"letter": one.position, "state": state} for one, state in closed],
            }
        )
        return
    verb = {"redrive": "handled again", "skip": "passed over"}[choice.action]
    if choice.dry_run:
        rows = [(one.position, one.letter.attempts, one.letter.error, one.letter.reason) for one in done]
        if rows:
            output.table(("letter", "attempts", "error", "reason"), rows)
        output.note(f"{output.counted(len(done), 'letter')} would be {verb}; nothing was done (--dry-run)")
    else:
        output.say(f"{output.counted(len(done), 'letter')} will be {verb}")
    for one, state in closed:
        output.note(f"{one.position} was left alone: {_WHY[state]}")
    if done and not choice.dry_run:
        output.note("the group does it as it runs (penstock run); what became of them: penstock dlq list --all")


_WHY: dict[State, str] = {
    "queued": "it was asked for already, and the group has not come to it yet",
    "handled": "it was redriven before, and handled",
    "skipped": "it was skipped before",
    "failed again": "it was redriven before, failed again, and has a newer letter",
}
