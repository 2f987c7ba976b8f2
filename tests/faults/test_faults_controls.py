"""The planted controls fit the code as it is: each patch applies, each named test exists, no fault is without one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.controls.manifest import HOME, ROOT, Control, apply, controls, copied
from tests.faults.report import Row, Tally, merge, read

# What this version must survive (docs/guarantees says more); H1 and others come with what they protect.
FAULTS = [
    *(f"A{number}" for number in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 15, 16, 17, 19, 20)),
    *(f"B{number}" for number in (3, 4, 5, 8, 9, 10, 11)),
    *(f"D{number}" for number in (1, 2, 3, 4, 5, 7, 8, 12)),
    *("G1", "G7", "H9", "H10", "H13", "H19"),
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as it is."""
    root = tmp_path_factory.mktemp("controls")
    copied(root)
    return root


@pytest.mark.parametrize("patch", sorted(p.name for p in HOME.glob("*.patch")))
def test_each_patch_applies(copy: Path, patch: str) -> None:
    """A patch that rots guards nothing: make it again against the code as it is now."""
    assert apply(HOME / patch, copy, check=True) == ""
    text = (HOME / patch).read_text()
    assert apply(HOME / patch, copy) == ""
    try:
        for file in re.findall(r"^\+\+\+ b/(.+)$", text, re.MULTILINE):
            ast.parse((copy / file).read_text())  # elsewhere than it was meant for it may break the file
    finally:
        assert apply(HOME / patch, copy, undo=True) == ""


def test_a_patch_that_does_not_fit_is_noticed(copy: Path, tmp_path: Path) -> None:
    """The look above would see one."""
    patch = tmp_path / "rotten.patch"
    text = sorted(HOME.glob("fault_*.patch"))[0].read_text()
    patch.write_text("".join(f"{line[0]}no such line\n" if line[:1] in "- " and line[:3] != "---" else line
                             for line in text.splitlines(keepends=True)))  # fmt: skip
    assert apply(patch, copy, check=True) != ""


@pytest.mark.parametrize("control", controls(), ids=lambda control: control.patch)
def test_each_control_names_a_test(control: Control) -> None:
    path, _, name = control.test.partition("::")
    tree = ast.parse((ROOT / path).read_text())
    names = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert name.partition("[")[0] in names
    assert (HOME / control.patch).is_file()


def test_no_fault_is_without_a_control() -> None:
    watched = {fault for control in controls() for fault in control.faults}
    assert sorted(set(FAULTS) - watched) == []


def test_no_patch_is_forgotten() -> None:
    """Those of the simulation have a runner of their own."""
    listed = {control.patch for control in controls()}
    assert {p.name for p in HOME.glob("*.patch") if not p.name.startswith("sim_")} == listed


def test_what_a_tally_counts() -> None:
    """Lost, doubled and reordered are told apart."""
    tally = Tally(["A1"])
    tally.compare("abcd", "abcd")
    assert tally.clean
    tally.compare("abcd", "acbbx")
    assert (tally.lost, tally.doubled, tally.reordered) == (1, 2, 1)
    assert not tally.clean


def test_rows_of_tests_that_are_gone_are_dropped(tmp_path: Path) -> None:
    """A report tells of what is there."""
    path = tmp_path / "faults.json"
    here = "tests/faults/test_faults_controls.py::test_rows_of_tests_that_are_gone_are_dropped"
    merge(
        path, [Row("A1", here), Row("A1", "tests/faults/test_faults_controls.py::test_gone"), Row("A1", "test_x.py::y")]
    )
    merge(path, [Row("A2", "tests/long/kill.py::log")])
    assert [row.test for row in read(path)] == [here, "tests/long/kill.py::log"]


def test_rows_are_merged_over_runs(tmp_path: Path) -> None:
    """A run replaces its rows and keeps the others, and what the controls showed."""
    path = tmp_path / "build" / "faults.json"
    merge(path, [Row("A2", "t", points=1, control="x.patch", control_failed=True), Row("A10", "t")])
    merge(path, [Row("A2", "t", points=5, passed=True)])
    assert read(path) == [
        Row("A2", "t", points=5, passed=True, control="x.patch", control_failed=True),
        Row("A10", "t"),
    ]
