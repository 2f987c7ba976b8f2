"""Every block of every page is run and does what the page says; links lead somewhere; what is named exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs import pages
from tests.docs.pages import ROOT, blocks, matches, run_page

PAGES = [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages.pages()]
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_MAKE = re.compile(r"\bmake ([a-z-]+)")


def _prose(page: Path) -> str:
    """The page without what stands in its fenced blocks."""
    lines = page.read_text().splitlines()
    for block in blocks(page.read_text()):
        lines[block.first : block.last] = [""] * (block.last - block.first)
    return "\n".join(lines)


@pytest.mark.parametrize("page", PAGES)
def test_what_it_says_is_what_happens(page: Path, tmp_path: Path) -> None:
    """A reader who types the blocks in order sees the outputs of the page (or: python -m tests.docs.pages)."""
    for shown in run_page(page, tmp_path):
        assert shown.agrees, (
            f"{page.name}, line {shown.block.first}: printed\n{shown.printed}\nbut it says\n{shown.expected}"
        )


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: Path) -> None:
    """Files and headings that a page links to exist; other sites are not asked."""
    for target in _LINK.findall(_prose(page)):
        if target.startswith(("https://", "mailto:")):
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), f"{page.name} links to {target}"
        if anchor:
            anchors = [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in _HEADING.findall(there.read_text())]
            assert anchor in anchors, f"{page.name} links to {target}; it has {', '.join(anchors)}"


def test_every_page_is_found_from_the_index() -> None:
    """docs/README.md links to each page, itself or by way of a folder's index."""
    reached = {ROOT / "docs" / "README.md"}
    waiting = list(reached)
    while waiting:
        page = waiting.pop()
        linked = {(page.parent / target.partition("#")[0]).resolve() for target in _LINK.findall(page.read_text())}
        new = {there for there in linked if there.suffix == ".md" and there.is_file()} - reached
        reached |= new
        waiting += new
    lost = [str(page.relative_to(ROOT)) for page in pages.pages() if page not in reached and page != ROOT / "README.md"]
    assert lost == [], "link it from docs/README.md, a decision from docs/adr/README.md"


def test_make_targets_exist() -> None:
    """What a page tells to make can be made."""
    makefile = (ROOT / "Makefile").read_text()
    for page in pages.pages():
        shell = "".join(block.text for block in blocks(page.read_text()) if block.kind == "sh")
        spoken = " ".join(re.findall(r"`make [a-z-]+`", page.read_text()))
        for target in _MAKE.findall(shell + spoken):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page.name}: make {target}"


def test_every_example_is_named_and_says_what_it_is() -> None:
    """An example that no page names is found by nobody."""
    said = "".join(page.read_text() for page in pages.pages())
    for example in (ROOT / "examples").glob("*.py"):
        assert f"examples/{example.name}" in said


@pytest.mark.parametrize(
    ("expected", "printed", "agree"),
    [
        ("log ~/project/x\n2 acked", "log   ~/project/x\n2 acked\n", True),
        ("2 acked", "3 acked", False),
        ("a\n...\nz", "a\nb\nc\nz", True),
        ("a\n...\nz", "a\nb\nc", False),
        ("done in 1.3 s, 45.1 KB", "done in 22 s, 1.0 MB", True),
        ("x 2026-11-25T17:23:53.554750Z", "x 2027-01-01T00:00:00Z", True),
        ("x 2013-01-01T10:15:00Z", "x 2013-01-01T10:15:01Z", False),
        ("check handler orders 5 9 0", "check handler orders 5 700 0", True),
        ("check handler orders 5 9 0", "check handler orders 6 9 0", False),
        ("check handler orders 5 9 0", "check handler orders 5 9 1", False),
    ],
)
def test_what_may_differ(expected: str, printed: str, agree: bool) -> None:
    """Times, sizes, rates and white space; nothing else."""
    assert matches(expected, printed) is agree


def test_what_a_page_lets_vary() -> None:
    """Only what the comment above the block names."""
    assert matches("rows 490, dead 0", "rows 475, dead 0", varies=r"rows \d+")
    assert not matches("rows 490, dead 0", "rows 475, dead 1", varies=r"rows \d+")


def test_a_wrong_page_is_noticed(tmp_path: Path) -> None:
    """An output that is not what the block prints, and a block that prints nothing although the page says so."""
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n\n```console\n$ echo a\nb\n```\n")
    (tmp_path / "run").mkdir()
    shown = run_page(page, tmp_path / "run")
    assert [one.printed for one in shown] == ["2\n", "$ echo a\na\n"]
    assert not any(one.agrees for one in shown)
