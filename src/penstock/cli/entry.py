"""The entry point: the list of commands, loaded when they are called, and what becomes of every error."""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from penstock.cli import exits, output
from penstock.errors import PenstockError
from penstock.telemetry.emit import clean

# Command -> what it does, in one line; the function `command` of the module of that name is the command itself.
COMMANDS: dict[str, str] = {
    "run": "Run a program's handlers and flows until it is stopped.",
    "demo": "Run a demonstration on real data.",
    "topics": "List the topics of a log, or show one with its schema.",
    "publish": "Publish events, one JSON object a line.",
    "tail": "Print events of a topic, and new ones as they come.",
    "query": "Run SQL over topics as tables.",
    "groups": "List consumer groups: who owns them and how far behind they are.",
    "dlq": "Look at dead letters: the events that were given up, and why.",
    "log": "Trim, back up, restore and verify a log.",
    "doctor": "Check a log, its disk and what they promise.",
    "bench": "Measure on this machine.",
}


class Interrupted(Exception):
    """Ctrl-C."""


class OutputClosed(Exception):
    """Whoever read the output went away."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, not when they are listed."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what click would turn into its own messages goes on under names of ours."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted from None
        except BrokenPipeError:
            raise OutputClosed from None

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return import_module(f"penstock.cli.commands.{cmd_name}").command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_paragraph()
        formatter.write_text(exits.TEXT)
        formatter.write_paragraph()
        formatter.write_text('Shell completion: eval "$(_PENSTOCK_COMPLETE=bash_source penstock)", or zsh_source.')


def _show_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version  # noqa: PLC0415

        click.echo(f"penstock {version('penstock')}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_show_version, help="Show it.")
def cli() -> None:
    """Events from typed messages to durable results.

    A log is a directory, by default .penstock/NAME beside the program that made it. Commands find the one of this
    project by themselves; --log names another.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line (the process's own by default) and exit with its code."""
    _have_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        codecs.register_error(output.ESCAPED, output.escaped)
        sys.stdout.reconfigure(errors=output.ESCAPED)
    sys.exit(outcome(sys.argv[1:] if arguments is None else list(arguments)))


def _have_streams() -> None:
    """A service may be started without them (``<&-``); else the next file, such as a lock, has their place.

    In their order: a file gets the lowest number that is free.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def outcome(arguments: list[str]) -> int:
    """Run a command line; returns the exit code, after saying on stderr what went wrong."""
    try:
        code = cli.main(arguments, prog_name="penstock", standalone_mode=False)
    except click.ClickException as exc:
        _complain_of_usage(exc)
        return exc.exit_code
    except (click.Abort, Interrupted):
        click.echo("interrupted", err=True)
        return exits.INTERRUPTED
    except OutputClosed:
        _close_output()
        return exits.OUTPUT_CLOSED
    except (PenstockError, OSError) as exc:
        complain(exc)
        return exits.FAILED
    return code if isinstance(code, int) else exits.DONE


def complain(error: PenstockError | OSError) -> None:
    """Print one error for people; control characters of what it quotes cannot act on the terminal."""
    lines = _text(error).splitlines() or [type(error).__name__]
    click.echo("\n".join(["error: " + clean(lines[0]), *(clean(line) for line in lines[1:])]), err=True)


def _text(error: PenstockError | OSError) -> str:
    """What is said of an error; a file of another user's gets its way out here, wherever it was met first."""
    if isinstance(error, PermissionError) and error.filename is not None:
        return (
            f"{error.filename} is closed to this user ({error.strerror}); run this as the user whose it is, or change "
            "the owner or mode of the file and of the directories above it"
        )
    return str(error)


def _complain_of_usage(error: click.ClickException) -> None:
    """As click does, but what it quotes of the command line cannot act on the terminal."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):  # a group of commands without one: its help is the text
        click.echo(error.format_message(), err=True)
        return
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is not None:
        click.echo(context.get_usage(), err=True)
        click.echo(f"Try '{context.command_path} --help' for help.", err=True)
    click.echo("error: " + clean(error.format_message()), err=True)


def _close_output() -> None:
    """Let the interpreter's last flush go nowhere, so that it does not complain about the closed pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
