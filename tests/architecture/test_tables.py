"""Each table of the log is written by one module, the one that its declaration names."""

from __future__ import annotations

import re
from pathlib import Path

from penstock.log import ddl

LOG = Path(ddl.__file__).parent
_OWNED = re.compile(r"CREATE TABLE (\w+)\([^;]*;\s*-- (\w+\.py)")
_WRITTEN = re.compile(r"\b(?:INSERT(?: OR \w+)? INTO|UPDATE|DELETE FROM)\s+(\w+)")
EXEMPT = {"ddl.py", "migrate.py"}
"""They make the tables, and older forms of them new."""


def written(text: str, tables: set[str]) -> set[str]:
    """The tables that SQL in this text changes."""
    return set(_WRITTEN.findall(text)) & tables


def owners() -> dict[str, str]:
    """Table → module, as the declarations say."""
    return dict(_OWNED.findall(ddl.TABLES))


def test_every_table_names_its_module() -> None:
    declared = set(re.findall(r"CREATE TABLE (\w+)", ddl.TABLES))
    assert set(owners()) == declared
    assert [name for name in owners().values() if not (LOG / name).exists()] == []


def test_nobody_else_writes_it() -> None:
    """In the log and above it."""
    known = owners()
    found = [
        f"{path.relative_to(LOG.parent)} writes {table}, which is {known[table]}'s"
        for path in sorted(LOG.parent.rglob("*.py"))
        if (path.parent == LOG and path.name not in EXEMPT) or (LOG not in path.parents and "sink" not in path.parts)
        for table in sorted(written(path.read_text(), set(known)))
        if path.parent != LOG or path.name != known[table]
    ]
    assert found == []


def test_it_would_be_seen() -> None:
    tables = {"block", "meta"}
    assert written("DELETE FROM block WHERE at >= ?", tables) == {"block"}
    assert written('"INSERT OR REPLACE INTO meta(key, value) VALUES(?, ?)"', tables) == {"meta"}
    assert written("SELECT at FROM block", tables) == set()
