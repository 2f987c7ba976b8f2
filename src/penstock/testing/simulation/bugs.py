"""Planted bugs: a patch takes one guard out of a copy of the product's code, and the seeds must find it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import penstock
from penstock.errors import ConfigError

_CHILD = """
import sys, traceback
sys.path.insert(0, sys.argv.pop(1))
try:
    from penstock.testing.simulation.runner import main
    code = main(sys.argv[1:])
except Exception:
    traceback.print_exc()
    code = 3
sys.exit(code)
"""


@contextmanager
def patched(patch: Path) -> Generator[Path, None, None]:
    """A directory to import the patched package from, for the time of the block.

    Raises:
        ConfigError: there is no such patch, or it does not apply.
    """
    if not patch.is_file():
        raise ConfigError(f"{patch} is no file; expected a patch of src/penstock", path="bug")
    with tempfile.TemporaryDirectory(prefix="penstock-bug-") as scratch:
        source = Path(scratch) / "src"
        package = Path(penstock.__file__).parent
        shutil.copytree(package, source / "penstock", ignore=shutil.ignore_patterns("__pycache__"))
        done = subprocess.run(_tool(patch), cwd=scratch, capture_output=True, text=True, check=False)
        if done.returncode:
            msg = f"{patch} does not apply: {(done.stdout + done.stderr).strip()}; make it again against this code"
            raise ConfigError(msg, path="bug")
        yield source


def _tool(patch: Path) -> list[str]:
    """Either tool will do; both are told to take the patch whole or not at all."""
    if shutil.which("git"):
        return ["git", "apply", "-p1", str(patch.resolve())]
    return ["patch", "-p1", "--batch", "--fuzz=0", "--input", str(patch.resolve())]


def run_patched(patch: Path, arguments: Sequence[str]) -> str:
    """Run the runner in a process of its own on the patched package; its standard output.

    Raises:
        ConfigError: the runner failed by itself (1 only says that something was found).
    """
    with patched(patch) as source:
        command = [sys.executable, "-c", _CHILD, str(source), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        msg = f"the run with {patch} failed: {done.stderr.strip()[-2000:]}"
        raise ConfigError(msg, path="bug")
    return done.stdout
