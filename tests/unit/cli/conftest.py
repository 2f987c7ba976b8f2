"""A project with one filled log, and a command line that runs in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import click.testing
import msgspec
import pytest

from penstock.cli.entry import outcome
from tests.unit.observe.observe_kit import Kit, fill


class Said(msgspec.Struct):
    """How a command line ended, and what it wrote."""

    code: int
    out: str
    err: str

    def json(self) -> object:
        """The one document on stdout."""
        return msgspec.json.decode(self.out)

    def lines(self) -> list[dict[str, object]]:
        """The objects on stdout, one a line."""
        return [msgspec.json.decode(line, type=dict[str, object]) for line in self.out.splitlines()]


Penstock = Callable[..., Said]


@pytest.fixture
def penstock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Penstock:
    """Run `penstock` with these arguments from the project's folder; `given` is its stdin."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text("")  # here the search for logs ends

    def run(*arguments: str, given: bytes | str | None = None) -> Said:
        runner = click.testing.CliRunner()
        with runner.isolation(input=given, color=True) as (out, err, _):
            code = outcome(list(arguments))
            return Said(code, out.getvalue().decode(), err.getvalue().decode())

    return run


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The project's folder, with the log `.penstock/flights`."""

    async def make() -> None:
        kit = Kit(tmp_path / ".penstock" / "flights")
        await fill(kit)
        await kit.settle("check", "flights", partition=1, floor=5)
        await kit.close()

    asyncio.run(make())
    return tmp_path
