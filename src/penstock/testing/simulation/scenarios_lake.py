"""The real Parquet sink under faults, on real files: what a reader of the directory finds is each input once."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import finalize

import msgspec

from penstock.app.app import App
from penstock.sink.api import Roll, Sink
from penstock.sink.parquet.config import parquet
from penstock.testing.simulation.history import Place
from penstock.testing.simulation.process import host
from penstock.testing.simulation.scenario import Scenario
from penstock.testing.simulation.scenarios_app import Job, scenario_of
from penstock.testing.simulation.tape import KINDS, Kind, Operation

LAKE = "lake"
IN_MEMORY = Path("/dev/shm")


class _Lake:
    """The world's directory; it goes when the world does."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="penstock-lake-", dir=IN_MEMORY if IN_MEMORY.is_dir() else None))
        finalize(self, shutil.rmtree, self.path, ignore_errors=True)


class LakeSink(msgspec.Struct, frozen=True):
    """`parquet(…)` into the directory of the simulated world that runs here."""

    seconds: float = 0.2
    needs: tuple[str, ...] = ()

    def open(self) -> Sink:
        """See `ParquetSink`."""
        disk = host().disk
        if LAKE not in disk:
            disk[LAKE] = _Lake()
        return parquet(disk[LAKE].path, roll=Roll(events_max=3, seconds=self.seconds)).open()


def _rows(disk: Mapping[str, Any]) -> dict[Place, Sequence[bytes]]:
    """What a reader who globs the directory finds, by partition, in the order of the offsets in the files' names."""
    import pyarrow.parquet as pq  # noqa: PLC0415 - only this scenario loads it

    lake: _Lake | None = disk.get(LAKE)
    found: dict[Place, list[bytes]] = {}
    paths = [] if lake is None else [(_numbers(path), path) for path in lake.path.glob("*.parquet")]
    for (partition, _), path in sorted(paths):
        rows = pq.ParquetFile(path).read().to_pylist()
        found.setdefault((LAKE, partition), []).extend(map(msgspec.json.encode, rows))
    return dict(found)


def _numbers(path: Path) -> tuple[int, int]:
    """The partition and the first offset in a file's name."""
    _, _, partition, first, _ = path.stem.split("-")
    return int(partition), int(first)


def lake() -> Scenario:
    """A flow into a Parquet directory."""
    import polars as pl  # noqa: PLC0415 - a scenario is declared when it is asked for

    app = App("simulated")
    jobs = app.topic("jobs", Job, key="key", partitions=2)
    app.flow("passed", jobs).filter(pl.col("number") >= 0).to(LakeSink())
    made = scenario_of(app, jobs, name="lake", outputs=(LAKE,))
    # Mostly processes that stop around their files: only then two owners meet there.
    kinds: dict[Operation, Sequence[Kind]] = {
        **KINDS,
        "offload": ("freeze_before", "freeze_before", "freeze_after", "crash_before", "crash_after", "delay_after"),
    }
    operations: tuple[Operation, ...] = ("next", "commit", "offload", "offload", "offload", "offload")
    return replace(made, targets=_rows, operations=operations, kinds=kinds, events=10)
