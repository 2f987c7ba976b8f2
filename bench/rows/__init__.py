"""All rows, in the order of the budgets in the design."""

from __future__ import annotations

from bench.row import Row
from bench.rows.cold import ColdStart
from bench.rows.columnar import FilterProject
from bench.rows.failing import BlockedKey, OnePercentKept, OnePercentOnce, SideBySide
from bench.rows.handle import HandleAsync, HandleColumns, HandleInto, HandleRows
from bench.rows.latency import Latency, LatencyAsync, LatencyBesideBulk, TwoPublishers
from bench.rows.publish import PublishColumns, PublishOneByOne, PublishTasks
from bench.rows.upkeep import Upkeep
from bench.rows.workers import FourWorkers, TakeOver


def all_rows() -> list[Row]:
    """Fresh rows; setting one up is what costs."""
    return [
        PublishColumns(),
        PublishOneByOne(),
        PublishTasks(),
        HandleColumns(),
        HandleRows(),
        HandleAsync(),
        HandleInto(),
        OnePercentOnce(),
        OnePercentKept(),
        BlockedKey(),
        SideBySide(),
        FilterProject(),
        Latency(),
        LatencyAsync(),
        LatencyBesideBulk(),
        TwoPublishers(),
        Upkeep(),
        ColdStart(),
        TakeOver(),
        FourWorkers(),
    ]
