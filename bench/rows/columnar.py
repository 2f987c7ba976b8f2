"""Columnar work over a typed topic: a filter and a projection."""

from __future__ import annotations

import time
from pathlib import Path

from bench.row import Budget, Figure, Figures, NotBuilt, Row
from bench.workload import POOL, bids, filter_and_project, record_batch


class FilterProject(Row):
    """Floor: Polars on the same columns in memory, one frame, result collected."""

    name = "filter-project"
    workload = "filter (half pass) and project 1,000,000 bids of a typed topic"
    figures = (Figure("events", "events/s", "higher", Budget(0.5)),)

    def setup(self, directory: Path, *, quick: bool) -> None:
        """See `Row`."""
        import polars as pl  # noqa: PLC0415

        self.directory = directory
        self.batch = record_batch(bids(POOL))
        self.copies = 2 if quick else 20
        one = pl.DataFrame(self.batch)
        self.frame = pl.concat([one] * self.copies, rechunk=True)

    def floor(self) -> Figures:
        """See `Row`."""
        start = time.perf_counter()
        filter_and_project(self.frame.lazy()).collect()
        return {"events": self.frame.height / (time.perf_counter() - start)}

    def measure(self) -> Figures:
        """See `Row`."""
        msg = "columnar flows"
        raise NotBuilt(msg)
