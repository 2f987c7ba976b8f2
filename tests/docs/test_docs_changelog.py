"""Changelog fragments are named so that a release can sort them, and say something."""

from __future__ import annotations

import re

from tests.docs.pages import ROOT

_NAME = re.compile(r"[a-z]+(-[a-z0-9]+)+\.(added|changed|fixed|removed|security)\.md")


def test_fragments_are_named_and_short() -> None:
    """`<area>-<few-words>.<kind>.md`, with a sentence or a few."""
    fragments = [path for path in (ROOT / "changelog.d").iterdir() if path.name != "README.md"]
    assert [path.name for path in fragments if not _NAME.fullmatch(path.name)] == []
    assert [path.name for path in fragments if not 20 < len(path.read_text()) < 1_000] == []
