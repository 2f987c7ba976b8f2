"""Options that many commands share, and the one way in which they open a log."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from penstock.cli.place import find_log
from penstock.errors import ConfigError

if TYPE_CHECKING:
    from penstock.channel.drivers.embedded import EmbeddedChannel
    from penstock.system import System

T = TypeVar("T")
Decorated = Callable[[Callable[..., Any]], Callable[..., Any]]


def log_option() -> Decorated:
    """`--log`; `with_log` and `log_directory` look it up."""
    text = "A log's directory, or its name below .penstock; without it, the project's only log."
    return click.option("--log", metavar="DIR", default=None, expose_value=False, callback=_remember, help=text)


def json_option(text: str = "Print one JSON document.") -> Decorated:
    """`--json`; `wants_json` tells whether it was given."""
    return click.option("--json", is_flag=True, expose_value=False, callback=_remember, help=text)


def reveal_option(text: str = "Show personal fields, too; they are hidden otherwise.") -> Decorated:
    """`--reveal`."""
    return click.option("--reveal", is_flag=True, help=text)


def _remember(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Keep a shared option where a group and its commands both find it."""
    if value:
        ctx.meta[f"penstock.{parameter.name}"] = value


def wants_json() -> bool:
    """Whether the running command was given `--json`."""
    return bool(click.get_current_context().meta.get("penstock.json"))


def names_log() -> bool:
    """Whether the running command was given `--log`."""
    return "penstock.log" in click.get_current_context().meta


def ask(question: str) -> None:
    """Go on after a yes only. It is asked on stderr: what is printed may be a document that another program reads.

    Raises:
        click.Abort: the answer was no.
        click.UsageError: nobody is there who could answer.
    """
    try:
        click.confirm(question, abort=True, err=True)
    except click.Abort as exc:
        if sys.stdin.isatty() or not isinstance(exc.__context__, EOFError):
            raise
        click.echo(err=True)
        msg = "nobody answered, so nothing was done; to go on without being asked add --yes"
        raise click.UsageError(msg) from None


@dataclass(frozen=True, slots=True)
class Log:
    """An open log, and the machine it is on."""

    directory: Path
    channel: EmbeddedChannel
    system: System


def log_directory() -> Path:
    """The log that the running command is about; see `find_log`."""
    try:
        here = Path.cwd()
    except FileNotFoundError as exc:
        raise ConfigError("the current directory was removed or renamed; go to another one", path="--log") from exc
    return find_log(click.get_current_context().meta.get("penstock.log"), here)


def with_log(work: Callable[[Log], Awaitable[T]]) -> T:
    """Open the log that is meant, do `work`, close it, and return what `work` did.

    Raises:
        PenstockError: there is no such log, or what opening it and `work` raise.
    """
    import asyncio  # noqa: PLC0415 - takes as long to load as all that --help needs

    directory = log_directory()

    async def inside() -> T:
        async with opened(directory) as found:
            return await work(found)

    return asyncio.run(inside())


@asynccontextmanager
async def opened(directory: Path) -> AsyncGenerator[Log, None]:
    """An existing log, closed at the end."""
    from penstock.channel.drivers.embedded import EmbeddedChannel  # noqa: PLC0415
    from penstock.log.log import LogConfig  # noqa: PLC0415
    from penstock.system import real_system  # noqa: PLC0415

    system = real_system()
    channel = EmbeddedChannel(directory, system=system, config=LogConfig(create=False))
    try:
        await channel.open([])
        yield Log(directory, channel, system)
    finally:
        await channel.close()
        system.offload.close()
