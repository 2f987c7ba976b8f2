"""One word per concept, as in docs/glossary.md: common synonyms are in neither code nor pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

# Synonym -> the glossary's word. A broker's own words are left to its driver, and to the decision that maps them.
INSTEAD = {
    r"exactly-once": "effectively-once, or atomic",
    r"poison(ed)? (message|event|pill)s?": "dead letter",
    r"error queues?": "dead letters",
    r"dead-letters?": "dead letter",
    r"shards?": "partition",
    r"subscribers?": "consumer group",
    r"journals?": "log",
    r"backlogs?": "lag",
    r"back-pressure": "backpressure",
    r"leaders?": "owner",
    r"ingest(s|ed|ion)?": "publish, or recorded time",
    r"segments?": "block",
    r"nack(s|ed)?": "reject",
}
GLOSSARY = ROOT / "docs" / "glossary.md"
ALLOWED = 'There is no "exactly-once delivery" here.'
ELSEWHERE = {GLOSSARY, ROOT / "docs" / "adr" / "0001-channel-contract.md"}


def complaints(text: str) -> list[str]:
    """Each line that says it otherwise, with the word to use."""
    return [
        f"line {number}: {found.group()}: say {word}"
        for number, line in enumerate(text.splitlines(), 1)
        if ALLOWED not in line
        for synonym, word in INSTEAD.items()
        for found in re.finditer(rf"\b{synonym}\b", line, re.IGNORECASE)
    ]


def _texts() -> list[Path]:
    folders = [(ROOT / "src", "*.py"), (ROOT / "examples", "*.py"), (ROOT / "docs", "*.md")]
    found = [path for folder, pattern in folders for path in sorted(folder.rglob(pattern))]
    return [path for path in [*found, ROOT / "README.md"] if path not in ELSEWHERE]


def test_one_word_per_concept() -> None:
    """The whole product and all its pages."""
    found = [f"{path.relative_to(ROOT)}: {c}" for path in _texts() for c in complaints(path.read_text())]
    assert "\n".join(found) == ""


@pytest.mark.parametrize(
    "text", ["exactly-once delivery", "a shard", "its Subscribers", "poison message", "it was nacked"]
)
def test_it_complains(text: str) -> None:
    """A synonym is found in any case."""
    assert complaints(text) != []


@pytest.mark.parametrize("text", ["a sharded map", "the message names the field", "a journey", "backpressure"])
def test_it_leaves_alone(text: str) -> None:
    """A word that only looks like one is not."""
    assert complaints(text) == []


def test_the_glossary_is_in_order_and_says_each_word_once() -> None:
    """Whoever looks a word up finds it where it belongs."""
    words = re.findall(r"^\| \*\*([^*]+)\*\* ", GLOSSARY.read_text(), re.MULTILINE)
    assert words == sorted(set(words), key=str.lower)
