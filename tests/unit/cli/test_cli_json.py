"""The names in what `--json` prints are those that docs/reference/cli.md tells."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest

from tests.docs.reference import DOCUMENTS
from tests.unit.cli.conftest import Penstock


def _names(value: Any) -> set[str]:
    """Every name of a document, a list's items with it."""
    if isinstance(value, list):
        return set[str]().union(*map(_names, cast("list[Any]", value)))
    if not isinstance(value, dict):
        return set()
    found = cast("dict[str, Any]", value)
    return set(found).union(*(_names(v) for v in found.values() if isinstance(v, list)))


def _told(command: str) -> set[str]:
    return set(re.findall(r"\w+", DOCUMENTS[command].removeprefix("of each app: ")))


COMMANDS = {
    "topics": ["topics"],
    "topics show": ["topics", "show", "flights"],
    "groups list": ["groups", "list"],
    "groups seek": ["groups", "seek", "check", "--to-offset", "latest", "--yes"],
    "log backup": ["log", "backup", "kept"],
    "log verify": ["log", "verify"],
    "doctor": ["doctor"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_documents(penstock: Penstock, project: Path, command: str) -> None:
    said = penstock(*COMMANDS[command], "--json")
    assert said.code == 0, said.err
    assert _names(said.json()) == _told(command)


PROGRAM = """
from msgspec import Struct
from penstock import App, Reject

class Order(Struct):
    who: str

app = App("shop")
orders = app.topic("orders", Order, key="who")
app.retain(orders, age="1d")

@app.handle(orders)
def check(order: Order) -> None:
    raise Reject("no")
"""


def test_documents_of_a_program_and_its_letters(penstock: Penstock, tmp_path: Path) -> None:
    (tmp_path / "shop_json.py").write_text(PROGRAM)
    penstock("run", "shop_json.py", "--until-idle")
    assert penstock("publish", "orders", '{"who":"ann"}').code == 0
    for command, arguments in (
        ("run", ["run", "shop_json.py", "--until-idle"]),
        ("doctor PROGRAM", ["doctor", "shop_json.py"]),
        ("dlq list", ["dlq", "list"]),
        ("dlq show", ["dlq", "show", "check/2/0"]),
        ("dlq redrive, dlq skip", ["dlq", "redrive", "check", "--all", "--dry-run"]),
        ("log backup", ["log", "backup", "kept"]),
        ("log restore", ["log", "restore", "kept", "again"]),
    ):
        said = penstock(*arguments, "--json")
        assert said.code == 0, said.err
        left = _told(command) - _names(said.json())
        assert _names(said.json()) <= _told(command), command
        assert left <= {"letter", "state"}, command  # of letters that were passed over: there are none
