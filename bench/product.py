"""The product as the rows use it: an app over a fresh log, a topic filled once, and one run of what is declared."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from penstock import Acked, App

if TYPE_CHECKING:
    import pyarrow as pa

    from bench.workload import Bid
    from penstock.app.declared import TopicHandle


@contextmanager
def fresh_app(directory: Path) -> Generator[App]:
    """An app over a new log below `directory`, durable as by default; the log is removed afterwards."""
    home = Path(tempfile.mkdtemp(prefix="log-", dir=directory))
    try:
        yield App("bench", home)
    finally:
        shutil.rmtree(home)


def fill_columns(app: App, topic: TopicHandle[Bid], batches: Iterable[pa.RecordBatch]) -> None:
    """Publish blocks of columns."""
    with app.client() as client:
        for batch in batches:
            assert all(isinstance(outcome, Acked) for outcome in client.publish_frame(topic, batch))


def fill_rows(app: App, topic: TopicHandle[Bid], events: Iterable[Bid]) -> None:
    """Publish events one by one."""
    with app.client() as client:
        receipts = [client.send(topic, event) for event in events]
        client.flush()
        assert all(isinstance(receipt.outcome, Acked) for receipt in receipts)


def run_group(app: App, name: str, *, events: int, dead: int = 0) -> float:
    """Run what the app declares until nothing is left; how many events a second the part `name` handled.

    Opening the log and coming to rest count as well.
    """
    report = app.run(until_idle=True)
    state = report.part(name)
    assert (state.events, state.dead) == (events, dead), state
    return events / report.seconds
