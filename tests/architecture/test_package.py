"""The package as users get it: its names exist, it imports lightly, and its wheel holds what it should."""

from __future__ import annotations

import importlib
import pkgutil
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import penstock
from tests.architecture import rules
from tests.architecture.rules import PROJECT, ROOT

HEAVY = ("pyarrow", "polars", "duckdb", "apsw", "rich")


@pytest.mark.parametrize("name", sorted(penstock.EXPORTS))
def test_each_exported_name_exists(name: str) -> None:
    """`from penstock import name` works, from a name that says where it is defined."""
    assert getattr(penstock, name) is not None
    assert name in dir(penstock)


def test_an_unknown_name_is_refused_with_those_that_exist() -> None:
    """A typing error in an import shows what there is."""
    with pytest.raises(AttributeError, match=r"'no_such_name'.*PenstockError"):
        getattr(penstock, "no_such_name")  # noqa: B009 - the point is the look-up by name


def test_the_version_is_the_metadata_s() -> None:
    """One place states the version."""
    assert penstock.__version__ == PROJECT["project"]["version"]


def test_each_name_in_all_exists() -> None:
    """No `__all__` names what is not there."""
    missing = [
        f"{module.name}.{name}"
        for module in pkgutil.walk_packages(penstock.__path__, "penstock.")
        if not module.name.endswith("__main__")
        for name in getattr(importlib.import_module(module.name), "__all__", ())
        if not hasattr(importlib.import_module(module.name), name)
    ]
    assert missing == []


def _loaded_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_import_is_light() -> None:
    """`import penstock` loads no library that is slow to load."""
    assert _loaded_by("import penstock").isdisjoint(HEAVY)


def test_import_is_light_control() -> None:
    """The look at what is loaded would see one."""
    assert "apsw" in _loaded_by("import apsw")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy by the locked backend without the network."""
    work = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "LICENSE", PROJECT["project"].get("readme", "LICENSE")):
        shutil.copy(ROOT / name, work)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", ".ruff_cache")
    shutil.copytree(ROOT / "src", work / "src", ignore=ignored)
    build = "import setuptools.build_meta as b; print(b.build_wheel('out'))"
    (work / "out").mkdir()
    done = subprocess.run([sys.executable, "-c", build], cwd=work, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next((work / "out").glob("*.whl"))


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    """Every module, the marker of typing and the licence; no tests."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    modules = {p.relative_to(ROOT / "src").as_posix() for p in (ROOT / "src" / "penstock").rglob("*.py")}
    assert modules <= names
    assert "penstock/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"penstock"}


def test_nothing_in_the_wheel_runs_data_as_code(wheel: Path) -> None:
    """No pickle, eval or exec reaches a user."""
    with zipfile.ZipFile(wheel) as archive:
        sources = {n: archive.read(n).decode() for n in archive.namelist() if n.endswith(".py")}
    assert sources
    found = {name: rules.banned_calls(text, names=rules.DANGEROUS) for name, text in sources.items()}
    assert {name: complaints for name, complaints in found.items() if complaints} == {}
