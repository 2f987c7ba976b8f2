"""controls.toml as values: which patch takes which guard out, and which test must then be red."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import msgspec

HOME = Path(__file__).resolve().parent
ROOT = HOME.parents[1]


class Control(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One planted control. `guard` says in words what the patch takes out; `test` is a pytest node id."""

    patch: str
    faults: tuple[str, ...]
    test: str
    guard: str


class _File(msgspec.Struct, forbid_unknown_fields=True):
    control: list[Control]


def controls() -> list[Control]:
    """Every planted control, in the order of the file."""
    return msgspec.toml.decode((HOME / "controls.toml").read_bytes(), type=_File).control


def copied(target: Path) -> None:
    """Copy what the tests need of the project to `target`; never the environment or what was built."""
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*_cache")
    for name in ("src", "tests", "docs", "examples"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=ignored)
    for path in ROOT.iterdir():
        if path.is_file() and path.suffix in {".toml", ".md", ""} and not path.name.startswith("."):
            shutil.copy(path, target / path.name)


def apply(patch: Path, root: Path, *, check: bool = False, undo: bool = False) -> str:
    """Apply a patch to the copy in `root`, whole or not at all; what the tool complained of, empty when it applied.

    Args:
        patch: a patch of files under src.
        root: the copy.
        check: only say whether it would apply.
        undo: take it back.
    """
    back = ["-R"] if undo else []
    if shutil.which("git"):
        command = ["git", "apply", "-p1", "--whitespace=nowarn", *back, *(["--check"] if check else []), str(patch)]
    else:
        dry = ["--dry-run"] if check else []
        command = ["patch", "-p1", "--batch", "--fuzz=0", *back, *dry, f"--input={patch}"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else (done.stdout + done.stderr).strip()
