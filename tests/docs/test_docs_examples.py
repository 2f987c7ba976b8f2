"""The other examples do what they say: a notebook's cells in a running loop, and files to Parquet, also when killed."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl

from tests.docs.examples_kit import EXAMPLES, loaded


async def test_a_notebook_cell_by_cell(tmp_path: Path) -> None:
    """In a running loop, as a kernel does it: each cell is run, awaited when it awaits, and its last value is kept."""
    file = tmp_path / "notebook.py"
    text = (EXAMPLES / "notebook.py").read_text()
    file.write_text(text)
    assert asyncio.get_running_loop().is_running()
    module = ModuleType("notebook")
    module.__file__ = str(file)
    sys.modules["notebook"] = module  # where types look up the names in their annotations
    try:
        values = [await _cell(cell, vars(module)) for cell in text.split("# %%")]
    finally:
        del sys.modules["notebook"]
    _, _, outcome, means, newest = values
    assert outcome.offset == 0
    assert sorted(means["station"]) == ["EWR", "JFK"]
    last = newest.group_by("station", maintain_order=True).last().sort("station")
    assert last["readings"].to_list() == [24, 24]
    assert last["mean_celsius"].round(6).to_list() == means.sort("station")["celsius"].round(6).to_list()
    assert (tmp_path / ".penstock" / "weather").is_dir()


async def _cell(text: str, names: dict[str, Any]) -> Any:
    """Run one cell; what its last line comes to, as a notebook shows it."""
    tree = ast.parse(text if text.startswith(('"""', "\n")) else "#" + text)
    if tree.body and isinstance(tree.body[-1], ast.Expr):
        tree.body[-1] = ast.copy_location(ast.Assign([ast.Name("_", ast.Store())], tree.body[-1].value), tree.body[-1])
        ast.fix_missing_locations(tree)
    code = compile(tree, "cell", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    made = eval(code, names)
    if inspect.iscoroutine(made):
        await made
    return names.get("_")


def _lake(directory: Path) -> pl.DataFrame:
    return pl.read_parquet(directory / "lake" / "readings" / "**" / "*.parquet")


def test_files_to_parquet(tmp_path: Path, seed: int) -> None:
    """Every line of every file, once, whatever was in it; a second run changes nothing."""
    chance = random.Random(seed)
    written = [{"station": chance.choice("ABC"), "celsius": chance.uniform(-30, 40)} for _ in range(3_000)]
    (tmp_path / "data").mkdir()
    for number in range(3):
        lines = [json.dumps(event) for event in written[number::3]]
        (tmp_path / "data" / f"{number}.ndjson").write_text("\n".join(lines) + "\n")
    with loaded("files_to_parquet", tmp_path) as example:
        assert example.app.run(until_idle=True).part("readings").events == 3_000
        assert example.app.run(until_idle=True).part("readings").events == 0
    found = _lake(tmp_path)
    assert found.sort("station", "celsius").equals(pl.DataFrame(written).sort("station", "celsius"))


def test_files_to_parquet_killed(tmp_path: Path, seed: int) -> None:
    """Killed at points of its own code, several times, then to the end: each line is in the lake once."""
    count = 40_000
    (tmp_path / "data").mkdir()
    events = [{"station": f"s{number % 17}", "celsius": float(number)} for number in range(count)]
    (tmp_path / "data" / "all.ndjson").write_text("".join(json.dumps(event) + "\n" for event in events))
    with loaded("files_to_parquet", tmp_path) as example:
        chance = random.Random(seed)
        command = [sys.executable, "-c", f"{KILLED}\nfrom files_to_parquet import app\napp.run(until_idle=True)"]
        lives = [
            subprocess.run([*command, str(at)], cwd=tmp_path, check=False) for at in chance.sample(range(1, 60), 3)
        ]
        assert -signal.SIGKILL in [life.returncode for life in lives]
        example.app.run(until_idle=True)
    assert _lake(tmp_path)["celsius"].sort().to_list() == [float(number) for number in range(count)]


# The process kills itself at the n-th of the named points of its own code, wherever that is.
KILLED = """
import os, signal, sys
from penstock.system import points

left = int(sys.argv[1])

def observe(name):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

hook = points.hooked(observe)
hook.__enter__()
"""
