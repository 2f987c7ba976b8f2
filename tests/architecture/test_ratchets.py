"""The repository as it stands keeps every ratchet; tests/architecture/test_rules.py shows that each can fail."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.architecture import rules
from tests.architecture.rules import ROOT

Rule = Callable[[str], list[str]]


def _files(*patterns: str) -> list[Path]:
    """Files that git knows or would add, matching one of `patterns`; all of them from an unpacked archive."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *patterns],
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        return sorted({p for pattern in patterns for p in ROOT.glob(pattern) if p.is_file()})
    return sorted({ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()})


def _complaints(files: list[Path], rule: Rule) -> str:
    assert files, "no file to look at: the pattern is wrong"
    return "\n".join(f"{f.relative_to(ROOT)}: {c}" for f in files for c in rule(f.read_text()))


SOURCE_RULES: dict[str, Rule] = {
    "file length": rules.too_long,
    "function length": rules.long_functions,
    "parameters": rules.parameter_lists,
    "nothing runs data as code": partial(rules.banned_calls, names=rules.DANGEROUS),
}


@pytest.mark.parametrize("name", SOURCE_RULES)
def test_sources(name: str) -> None:
    """Each file under src keeps the rule."""
    assert _complaints(_files("src/*.py"), SOURCE_RULES[name]) == ""


def test_each_module_says_what_it_is_for() -> None:
    """Everywhere but in an empty test package, the first line is one sentence."""
    assert _complaints(_files("src/*.py", "bench/*.py", "examples/*.py", "tests/*.py"), rules.first_line) == ""


def test_no_file_is_too_long_to_read() -> None:
    """Tests, bench and examples have more room than the product, but not all of it."""
    rule = partial(rules.too_long, lines_max=rules.FILE_LINES_NEVER)
    assert _complaints(_files("tests/*.py", "bench/*.py", "examples/*.py"), rule) == ""


def test_the_outer_world_is_reached_at_the_edges_only() -> None:
    """Time, chance, threads, sockets and files come from `penstock.system`, or belong to a driver, source or sink."""
    inner = [f for f in _files("src/*.py") if not rules.is_edge(f.relative_to(ROOT).as_posix())]
    names = rules.BANNED | rules.BANNED_BUILTINS
    assert _complaints(inner, lambda text: rules.banned_calls(text, names=names) + rules.sleeps(text)) == ""


def test_no_path_of_one_machine() -> None:
    """What is committed works wherever it is cloned."""
    texts = [f for f in _files() if f.suffix not in {".png", ".parquet", ".gz", ".zip"}]
    assert _complaints(texts, rules.machine_paths) == ""


def test_locks_hold_versions_and_hashes_only() -> None:
    """Every lock is complete and names no address: the machine's own index is used."""
    locks = [ROOT / "requirements" / f"{name}.txt" for name in ("base", "dev", "build", "data")]
    assert _complaints(locks, lambda text: rules.addresses(text) + rules.unlocked(text)) == ""


def test_shell_scripts_are_executable() -> None:
    """A clone can run them."""
    scripts = [f for f in _files() if f.suffix == ".sh" or (f.name == "run" and f.parent.name == ".ci")]
    assert scripts
    assert [str(f) for f in scripts if not os.access(f, os.X_OK)] == []
