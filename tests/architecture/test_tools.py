"""The tools over the whole repository: format, lint, types and layers; each shown to complain of a planted break."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.rules import ROOT

BIN = Path(sys.executable).parent
pytestmark = pytest.mark.tools


def _run(*command: str, cwd: Path = ROOT, given: str | None = None) -> tuple[int, str]:
    """Run one of the environment's tools; its exit code and all it said."""
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]], cwd=cwd, input=given, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def _clean(*command: str) -> None:
    code, said = _run(*command)
    assert code == 0, f"{' '.join(command)}\n{said}"


def test_format() -> None:
    """`make format` has nothing to do."""
    _clean("ruff", "format", "--check", "--quiet", ".")


def test_format_control() -> None:
    """A badly laid out text is noticed."""
    code, _ = _run("ruff", "format", "--check", "--stdin-filename", "src/penstock/flow/x.py", "-", given="x  =  1\n")
    assert code == 1


def test_lint() -> None:
    """Ruff finds nothing."""
    _clean("ruff", "check", "--output-format", "concise", ".")


@pytest.mark.parametrize(
    ("path", "text", "code"),
    [
        ("src/penstock/flow/x.py", '"""X."""\n\nimport random\n', "TID251"),
        ("src/penstock/flow/x.py", '"""X."""\n\n\ndef f(x) -> None:\n    """X."""\n', "ANN001"),
        ("src/penstock/flow/x.py", '"""X."""\n\ntry:\n    x = 1\nexcept Exception:\n    x = 2\n', "BLE001"),
        ("src/penstock/flow/x.py", "x = 1\n", "D100"),
    ],
)
def test_lint_control(path: str, text: str, code: str) -> None:
    """What the style forbids has its rule switched on for the product."""
    found, said = _run("ruff", "check", "--output-format", "concise", "--stdin-filename", path, "-", given=text)
    assert found == 1
    assert code in said


def test_types() -> None:
    """What ships is strictly typed."""
    _clean("pyright", "--pythonpath", sys.executable)


def test_types_of_tests() -> None:
    """Tests and bench are typed as far as the basic rules go."""
    _clean("pyright", "--pythonpath", sys.executable, "-p", "tests/pyrightconfig.json")


def test_types_control(tmp_path: Path) -> None:
    """The project's own settings refuse an untyped parameter and a wrong return."""
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "x.py").write_text("def f(x) -> int:\n    return 'x'\n")
    code, said = _run("pyright", cwd=tmp_path)
    assert code == 1
    assert "reportReturnType" in said
    assert "reportMissingParameterType" in said


def test_layers() -> None:
    """Every import contract is kept."""
    _clean("lint-imports", "--no-cache")


@pytest.mark.parametrize(
    ("path", "text", "broken", "named"),
    [
        (
            "event/x.py",
            "import penstock.channel.api\n",
            "layers",
            "penstock.event is not allowed to import penstock.channel",
        ),
        ("novel/__init__.py", "", "layers", "penstock.novel"),
        ("event/x.py", "import asyncio\n", "pure", "penstock.event.x is not allowed to import asyncio"),
        ("schema/x.py", "import redis\n", "pure", "penstock.schema.x is not allowed to import redis"),
        (
            "flow/x.py",
            "import penstock.channel.api\n",
            "pure",
            "penstock.flow.x is not allowed to import penstock.channel",
        ),
        (
            "channel/drivers/memory/x.py",
            "import penstock.channel.drivers.embedded.driver\n",
            "drivers",
            "drivers.memory",
        ),
        ("log/api.py", "import penstock.log.log\n", "cycles", "No cycles are allowed in penstock.log"),
    ],
)
def test_layers_control(tmp_path: Path, *, path: str, text: str, broken: str, named: str) -> None:
    """One import too many, in a copy of the package, breaks the contract that stands against it."""
    for source in (ROOT / "src" / "penstock").rglob("*.py"):
        copy = tmp_path / source.relative_to(ROOT / "src")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(source.read_text())
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    planted = tmp_path / "penstock" / path
    planted.parent.mkdir(exist_ok=True)
    (planted.parent / "__init__.py").touch()
    planted.write_text(planted.read_text() + text if planted.exists() else text)
    code, said = _run("lint-imports", "--no-cache", "--contract", broken, cwd=tmp_path)
    assert code == 1
    assert named in " ".join(said.split())
