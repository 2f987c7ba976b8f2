"""docs/guarantees.md says what the last runs have shown, and `penstock doctor` prints the same levels."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from msgspec import Struct

from penstock import App, count, duckdb_table, files, parquet
from penstock.cli.promises import promises
from penstock.log.opening import file_system
from penstock.observe.health import MEMORY_FILE_SYSTEMS
from penstock.testing.conformance.report import Finding
from tests.docs import guarantees
from tests.docs.guarantees import PAGE, README, section
from tests.faults.report import Row

REQUIRED = {
    "A": tuple(range(1, 21)),
    "B": tuple(range(1, 13)),
    "C": (6, 12, 13),
    "D": (1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 16, 17),
    "E": (1, 6, 9, 10),
    "G": (1, 7),
    "H": (9, 10, 13, 14, 19),
}
_ROW = re.compile(r"^\| (\w+) \| `(\w[^`]*)` \| (\d+) \| (?:`([^`]*)`)?([^|]*) \|$", re.MULTILINE)


class Tick(Struct):
    name: str
    value: int


def _rows() -> list[tuple[str, str, str, str, str]]:
    """(fault, test, points, control, what is said of the control) of the page, the test as its node id."""
    found = _ROW.findall(section(PAGE.read_text(), "faults"))
    return [(fault, "tests/" + test.replace(": ", "::"), *rest) for fault, test, *rest in found]


def test_the_levels_are_those_that_doctor_prints(tmp_path: Path) -> None:
    """One app with an edge of each kind: processing, durability and order as on the page."""
    app = App("all", tmp_path / "log")
    ticks, kept = app.topic("ticks", Tick, key="name"), app.topic("kept", Tick, key="name")
    app.read(files("*.ndjson"), into=ticks)
    app.handle(ticks, into=kept, name="keep")(lambda tick: tick)
    app.flow("lake", kept).to(parquet(tmp_path / "lake"))
    app.flow("sums", kept).by("name").agg(n=count()).to(duckdb_table(tmp_path / "x.duckdb", table="t"))
    on_memory = file_system(tmp_path) in MEMORY_FILE_SYSTEMS  # a power loss takes what is there, and doctor says so
    durability = {"D2": "D1"} if on_memory else {}
    said = {edge: [p, durability.get(d, d), o] for edge, p, d, o, _ in guarantees.EDGES}
    kinds = {
        "source ticks": "files → topic",
        "handler keep": "topic → handler → topic, dead letters",
        "flow lake": "topic → flow → topic",
        "flow sums": "topic → flow → topic",
        "sink lake.parquet": "topic → Parquet directory",
        "sink sums.duckdb": "topic → DuckDB table",
    }
    told = {edge.by: [edge.processing, edge.durability, edge.order] for edge in promises(app).edges}
    assert told == {by: said[edge] for by, edge in kinds.items()}


def test_only_the_three_words_are_used() -> None:
    """Every level is one of those that the page defines, and nobody promises more."""
    defined = set(re.findall(r"\*\*([a-z-]+)\*\*: ", PAGE.read_text()))
    assert defined == {"at-least-once", "effectively-once", "atomic"}
    assert {processing for _, processing, *_ in guarantees.EDGES} <= defined


def test_every_required_fault_is_on_the_page() -> None:
    """With what is required, and with what shows it or the plain word that nothing does yet."""
    assert [f"{a}{n}" for a, numbers in REQUIRED.items() for n in numbers if f"{a}{n}" not in guarantees.WORDS] == []
    shown = section(PAGE.read_text(), "faults")
    assert [fault for fault in guarantees.WORDS if f"| {fault} |" not in shown] == []


def test_tests_and_controls_that_it_names_exist() -> None:
    """Nothing on the page has been renamed or taken away since."""
    rows = _rows()
    assert rows
    assert [test for _, test, *_ in rows if not guarantees.exists(test)] == []
    home = guarantees.MANIFEST.parent
    assert [control for *_, control, _ in rows if ".patch" in control and not (home / control).exists()] == []


def test_the_tables_are_made_from_the_code() -> None:
    """Edges and words; after a change: python -m tests.docs.guarantees."""
    assert section(PAGE.read_text(), "edges") == guarantees.edges(mechanism=True)
    assert section(README.read_text(), "edges") == guarantees.edges(mechanism=False)
    assert section(PAGE.read_text(), "words") == guarantees.words()


@pytest.mark.last
def test_the_page_is_what_the_fault_tests_showed(fault_rows: Iterable[Row]) -> None:
    """Whatever it claims passed when it ran last, lost nothing, and its control turned it red, where that was tried."""
    rows = {(row.fault, row.test): row for row in fault_rows}
    for fault, test, points, control, doubt in _rows():
        row = rows.get((fault, test))
        if row is None:
            continue  # not run on this machine (make test-long, or skipped here)
        assert row.passed, f"{fault}: {test} is red"
        assert int(points) > 0, f"{fault}: {test}"
        assert not (control and not doubt and row.control_failed is False), (
            f"{fault}: {test} stays green under {control}"
        )
    passed = {(r.fault, r.test) for r in rows.values() if r.passed and r.fault in guarantees.WORDS}
    missing = {key for key in passed if guarantees.exists(key[1])} - {(fault, test) for fault, test, *_ in _rows()}
    assert missing == set(), "not on the page yet: python -m tests.docs.guarantees"


@pytest.mark.last
def test_the_page_is_what_the_conformance_suites_showed(findings: Iterable[Finding]) -> None:
    """Every promise, kept or not run and why, as it was seen last."""
    assert section(PAGE.read_text(), "channels") == guarantees.channels(findings)
    assert section(PAGE.read_text(), "sinks") == guarantees.sinks(findings)


def test_planted_bugs_that_it_names_exist() -> None:
    """And each was found in nearly every range: 19 of 20, or all of fewer."""
    found = re.findall(
        r"^\| `([^`]+)` \| \S+ \| (\d+) of (\d+) ranges", section(PAGE.read_text(), "simulation"), re.MULTILINE
    )
    assert found
    assert [patch for patch, *_ in found if not (guarantees.MANIFEST.parent / patch).exists()] == []
    assert [patch for patch, seen, ranges in found if int(seen) < int(ranges) - int(ranges) // 20] == []
