"""Columnar work over a typed topic: a filter and a projection."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

from bench.product import fill_columns, fresh_app, run_group
from bench.row import Budget, Figure, Figures, Row
from bench.workload import POOL, POOL_QUICK, PRICE_SPLIT, RATE_EUR, Bid, bids, filter_and_project, record_batch
from penstock import App

BLOCK_EVENTS = 10_000


class FilterProject(Row):
    """Floor: Polars on the same columns in memory, one frame, result collected.

    The product reads the columns from the log and its results are durable: a flow into its topic.
    """

    name = "filter-project"
    workload = "filter (half pass) and project 1,000,000 bids of a typed topic"
    figures = (Figure("events", "events/s", "higher", Budget(0.5)),)

    def __init__(self) -> None:
        self._owned = ExitStack()

    def setup(self, directory: Path, *, quick: bool) -> None:
        """See `Row`."""
        import polars as pl  # noqa: PLC0415

        pool = bids(POOL_QUICK if quick else POOL)
        copies = 2 if quick else 20
        self.frame = pl.concat([pl.DataFrame(record_batch(pool))] * copies, rechunk=True)
        self.app = self._owned.enter_context(fresh_app(directory))
        batches = [record_batch(pool[i : i + BLOCK_EVENTS]) for i in range(0, len(pool), BLOCK_EVENTS)]
        fill_columns(self.app, self.app.topic("bids", Bid, partitions=1), batches * copies)
        self.runs = 0

    def floor(self) -> Figures:
        """See `Row`."""
        start = time.perf_counter()
        filter_and_project(self.frame.lazy()).collect()
        return {"events": self.frame.height / (time.perf_counter() - start)}

    def measure(self) -> Figures:
        """See `Row`."""
        import polars as pl  # noqa: PLC0415

        self.runs += 1
        app = App(self.app.name, self.app.directory)
        name = f"euro-{self.runs}"
        flow = app.flow(name, app.topic("bids", Bid, partitions=1)).filter(pl.col("price") > PRICE_SPLIT)
        flow.with_columns(price_eur=pl.col("price") * RATE_EUR).select(
            "auction", "bidder", "price_eur", "channel", "date_time"
        )
        return {"events": run_group(app, name, events=self.frame.height)}

    def close(self) -> None:
        """See `Row`."""
        self._owned.close()
