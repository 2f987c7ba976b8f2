"""Dead letters and retention: what nobody has said anything about, and a key waits for, stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penstock.cli import exits
from tests.unit.cli.conftest import Penstock

BLOCKED = """
import os
from msgspec import Struct
from penstock import App, OnFailure, Retry

class Order(Struct):
    id: int
    customer: str

app = App("blocked")
orders = app.topic("orders", Order, key="customer", partitions=1)
good = app.topic("good", Order, key="customer", partitions=1)
app.retain(orders, bytes="1B")

@app.handle(orders, into=good, retry=Retry(1), on_failure=OnFailure(given_up="block"))
def check(order: Order) -> Order:
    if order.id == 0 and not os.environ.get("MENDED"):
        raise ValueError("closed")
    return order
"""


def test_letters_that_keys_wait_for_outlast_retention(
    penstock: Penstock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its letter a key would wait for ever: there would be nothing to redrive or skip."""
    (tmp_path / "blocked.py").write_text(BLOCKED)
    assert penstock("run", "blocked.py", "--until-idle").code == exits.DONE
    lines = "".join(f'{{"id":{n},"customer":"{customer}"}}\n' for n in range(3) for customer in "abc")
    assert penstock("publish", "orders", given=lines).code == exits.DONE
    assert penstock("run", "blocked.py", "--until-idle").code == exits.DONE
    trimmed: Any = penstock("log", "trim", "--json").json()
    (told,) = [topic for topic in trimmed["topics"] if topic["topic"] == "check.dead"]
    assert (told["events"], told["held"]) == (0, ["keys of group check wait for its letters"])
    (source,) = [topic for topic in trimmed["topics"] if topic["topic"] == "orders"]
    assert source["held"] == ["group check needs partition 0 from offset 3 on"]

    letters: Any = penstock("dlq", "redrive", "check", "--first", "1", "--json").json()
    assert len(letters["letters"]) == 1
    assert len(penstock("dlq", "skip", "check", "--all", "--json").json()["letters"]) == 2  # type: ignore[index,arg-type]
    forced: Any = penstock("log", "trim", "check.redrive", "--force", "--yes", "--json").json()
    assert forced["topics"][0]["held"] == ["group check has not taken what was said of its letters"]
    monkeypatch.setenv("MENDED", "1")
    assert penstock("run", "blocked.py", "--until-idle").code == exits.DONE
    rows = penstock("query", "--json", "SELECT id, customer FROM good ORDER BY customer, _offset").lines()
    assert [row["id"] for row in rows] == [0, 1, 2, 1, 2, 1, 2]

    trimmed = penstock("log", "trim", "--json").json()
    gone = {topic["topic"]: (topic["events"], topic["held"]) for topic in trimmed["topics"]}
    assert gone["check.dead"] == gone["check.redrive"] == (3, [])
    again: Any = penstock("dlq", "redrive", "check", "--all", "--json").json()
    assert (again["letters"], penstock("run", "blocked.py", "--until-idle").code) == ([], exits.DONE)
