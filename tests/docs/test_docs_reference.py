"""The reference pages are those that the code makes: no command, option or error is missing."""

from __future__ import annotations

import inspect
import re

import pytest

from penstock import errors
from tests.docs import reference
from tests.docs.pages import ROOT


@pytest.mark.parametrize("page", reference.PAGES)
def test_it_is_what_the_code_says(page: str) -> None:
    """After a change: python -m tests.docs.reference."""
    assert (reference.HOME / page).read_text() == reference.PAGES[page]()


def test_every_option_is_explained() -> None:
    """What it means, its unit and what may be meant by None."""
    page = (reference.HOME / "configuration.md").read_text()
    assert "| option | default |\n" not in page
    assert [line for line in page.splitlines() if line.startswith("| `") and line.endswith("|  |")] == []


def test_every_error_has_its_place() -> None:
    """The page has the whole tree."""
    text = reference.error_tree()
    names = [n for n, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.PenstockError)]
    assert names
    assert [name for name in names if f"`{name}`: " not in text] == []


def test_every_counter_is_explained() -> None:
    """What the code counts is told in operating.md, and nothing else."""
    found = {
        n for file in (ROOT / "src").rglob("*.py") for n in re.findall(r'"(penstock_\w+_total)"', file.read_text())
    }
    told = set(re.findall(r"`(penstock_\w+_total)`", (ROOT / "docs" / "operating.md").read_text()))
    assert told == found
