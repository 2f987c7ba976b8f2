"""The pages under docs/reference that are made from the code: every command, every option, every error.

python -m tests.docs.reference      writes them
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

import penstock
from penstock import errors
from penstock.app.app import App
from penstock.cli import exits
from penstock.cli.entry import COMMANDS, cli

HOME = Path(__file__).resolve().parents[2] / "docs" / "reference"
_MADE = "<!-- made by `python -m tests.docs.reference`; a test holds it to the code -->"
_ARGUMENT = re.compile(r"^(\w+): (.+)$")


# -- commands ------------------------------------------------------------------------------------------------------


def commands() -> str:
    """docs/reference/cli.md."""
    parts = ["# Commands", _MADE, str(inspect.cleandoc(cli.help or ""))]
    parts += [
        "Every command that prints something takes `--json`; control characters in what it prints are escaped. "
        "Progress and remarks go to stderr, results to stdout.",
        " ".join(exits.TEXT.split()),
    ]
    with click.Context(cli, info_name="penstock") as context:
        parts.append(_table(("command", ""), [(f"[`{n}`](#penstock-{n})", text) for n, text in COMMANDS.items()]))
        for name in COMMANDS:
            found = cli.get_command(context, name)
            assert found is not None
            parts += _command(found, context, name, level=2)
    parts += [
        "## What --json prints",
        "One document, whose names stay; more may be added. A list's items are in brackets, times are RFC 3339 in UTC, "
        "sizes bytes, names that end in `_s` seconds; null or empty text says that there is none. `publish` prints an "
        "object a line (`line outcome partition offset reason`), `query` a row, `tail` a CloudEvent.",
        _table(("command", "names"), [(f"`{name}`", f"`{names}`") for name, names in DOCUMENTS.items()]),
    ]
    return _page(parts)


def _command(command: click.Command, parent: click.Context, name: str, *, level: int) -> Iterator[str]:
    with click.Context(command, info_name=name, parent=parent) as context:
        yield f"{'#' * level} {context.command_path}"
        yield f"```text\n{' '.join([context.command_path, *command.collect_usage_pieces(context)])}\n```"
        yield from _prose(command.help or "")
        rows = [
            _option(p, context) for p in command.get_params(context) if isinstance(p, click.Option) and not p.hidden
        ]
        yield _table(("option", ""), [row for row in rows if "`--help`" not in row[0]])
        if isinstance(command, click.Group):
            for inner in command.list_commands(context):
                found = command.get_command(context, inner)
                assert found is not None
                yield from _command(found, context, inner, level=level + 1)


def _prose(text: str) -> Iterator[str]:
    r"""A command's help as Markdown; what follows a \b is an example as it stands."""
    for part in inspect.cleandoc(text).split("\n\n"):
        example = part.startswith(("\b", r"\b"))
        yield f"```sh\n{part.removeprefix(chr(8)).removeprefix(chr(92) + 'b').strip()}\n```" if example else part


def _option(option: click.Option, context: click.Context) -> tuple[str, str]:
    names, text = option.get_help_record(context) or ("", "")
    return ", ".join(f"`{name}`" for name in re.split(r", (?=-)", names)), re.sub(r"  \[x\S+\]$", "", text)


DOCUMENTS: dict[str, str] = {
    "run": "log seconds parts[name kind topic state reason stopped events dead steps repeated gauge]",
    "topics": "log topics[name type internal partitions events skew blocks bytes schema_id key time first last]",
    "topics show": (
        "name log type internal partitions events skew blocks bytes schema_id key time first last disorder_s "
        "event_bytes_max parts[partition begin next blocks bytes] fields[name type required default]"
    ),
    "groups list": (
        "log groups[name kind topic state owner lag lag_s trend holds "
        "partitions[partition owner epoch floor holes parked end lag lag_s trend]]"
    ),
    "groups seek": "group done partitions[partition floor to again skipped forgets]",
    "dlq list": "log dead_letters causes[group error cause count open reason example first last]",
    "dlq show": (
        "position id group topic partition offset key given_up attempts tries error reason stack again holds body"
    ),
    "dlq redrive, dlq skip": "log action dry_run letters passed_over[letter state]",
    "log backup": "log backup identity bytes incarnation commits",
    "log restore": "log restored identity bytes incarnation commits",
    "log trim": "log busy topics warned steps pages bundled",
    "log verify": "log whole blocks events rows damages quarantined",
    "doctor": "log ok findings[check state detail]",
    "doctor PROGRAM": (
        "of each app: app log processing durability durability_why edges[start end by processing durability order why]"
    ),
}
"""What commands print with --json; a test of the command line holds this to them."""


# -- configuration -------------------------------------------------------------------------------------------------

_DECLARED: list[tuple[str, Callable[..., Any]]] = [
    ("App", App),
    ("app.topic", App.topic),
    ("app.retain", App.retain),
    ("app.deduplicate", App.deduplicate),
    ("app.handle", App.handle),
    ("app.handle_batch", App.handle_batch),
    ("app.read", App.read),
    ("app.flow", App.flow),
    ("app.run", App.run),
    ("app.serve", App.serve),
    ("app.client", App.client),
    ("Retry", penstock.Retry),
    ("OnFailure", penstock.OnFailure),
    ("files", penstock.files),
    ("Csv", penstock.Csv),
    ("Gzip", penstock.Gzip),
    ("parquet", penstock.parquet),
    ("duckdb_table", penstock.duckdb_table),
    ("Roll", penstock.Roll),
    ("NewEvent", penstock.NewEvent),
]


def configuration() -> str:
    """docs/reference/configuration.md."""
    parts = [
        "# Configuration",
        _MADE,
        "Everything is said in the program, where it is used: there is no configuration file. A wrong value is refused "
        "before anything runs, with the path of the option, what was found and what was expected. Durations are "
        'seconds or text such as `"90s"`, `"1.5h"`, `"200ms"`.',
        "Environment: Penstock itself reads none. `SEED` seeds what is random in the project's own tests.",
    ]
    for name, what in _DECLARED:
        parts += _declared(name, what)
    return _page(parts)


def _declared(name: str, what: Callable[..., Any]) -> Iterator[str]:
    told = inspect.getdoc(what) or ""
    prose, explained = _docstring(told)
    yield f"## {name}"
    yield prose
    rows = [
        (f"`{p.name}`", _default(p), explained.get(p.name, ""))
        for p in inspect.signature(what).parameters.values()
        if p.name != "self"
    ]
    yield _table(("option", "default", ""), rows)


def _docstring(text: str) -> tuple[str, dict[str, str]]:
    """The prose before the first section, and what is said of each argument or attribute."""
    prose, *sections = re.split(r"\n(?=(?:Args|Attributes|Returns|Raises):\n)", text)
    explained: dict[str, str] = {}
    for section in sections:
        title, _, body = section.partition("\n")
        if title not in ("Args:", "Attributes:"):
            continue
        name = ""
        for line in inspect.cleandoc(body).splitlines():
            found = _ARGUMENT.match(line)
            if found is not None:
                name = found[1]
            text = found[2] if found is not None else line.strip()
            explained[name] = f"{explained[name]} {text}" if found is None else text
    return _code(prose.strip()), {name: _code(said) for name, said in explained.items()}


def _code(text: str) -> str:
    return text.replace("``", "`")


def _default(parameter: inspect.Parameter) -> str:
    value = parameter.default
    if value is inspect.Parameter.empty:
        return "required"
    if repr(value).startswith("<"):  # made anew each time
        return "empty"
    return f"`{value!r}`" if not isinstance(value, msgspec.Struct) else f"`{value}`"


# -- errors --------------------------------------------------------------------------------------------------------


def error_tree() -> str:
    """docs/reference/errors.md."""
    parts = [
        "# Errors",
        _MADE,
        "The tree is named by what happens next. Every message says what was found, what was expected, and the way "
        "out. All are in `penstock.errors`.",
        "\n".join(_branch(errors.PenstockError, 0)),
    ]
    return _page(parts)


def _branch(kind: type[Exception], depth: int) -> Iterator[str]:
    text = _code((inspect.getdoc(kind) or "").partition("\n\n")[0].replace("\n", " "))
    yield f"{'  ' * depth}- `{kind.__name__}`: {text}"
    known = [below for below in vars(errors).values() if isinstance(below, type)]  # in the order they are written
    for below in known:
        if kind in below.__bases__:
            yield from _branch(below, depth + 1)


# -- pages ---------------------------------------------------------------------------------------------------------


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    if not any(row[-1] for row in rows):
        head, rows = head[:-1], [row[:-1] for row in rows]
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _page(parts: list[str]) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"


PAGES: dict[str, Callable[[], str]] = {"cli.md": commands, "configuration.md": configuration, "errors.md": error_tree}

if __name__ == "__main__":
    for file, make in PAGES.items():
        (HOME / file).write_text(make())
