"""Making one large block of many small neighbours, in slices, without a change to any event.

What one-by-one publishers leave is a row per event; a bundle keeps each of those blocks as it was (offsets, origins,
times, schemas: ids hang on them) and compresses them together. The bundle is made outside of any transaction; one short
transaction then puts it in the place of its blocks, if they still are what was read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zlib import crc32

import apsw
import msgspec

from penstock.log import placed
from penstock.log.api import Stored
from penstock.log.bundles import bundle
from penstock.log.checks import row_check
from penstock.log.ddl import OFFSET_BITS, OFFSET_MAX
from penstock.system.points import reached

SMALL_BYTES = 16_384
"""A block is small when it takes less than a page."""

BUNDLE_BYTES = 256 * 1024
BUNDLE_BLOCKS = 1024
BLOCKS_MIN = 16
"""Fewer neighbours are not worth it."""

_ROWS_AT_ONCE = 1024


class Run(msgspec.Struct, frozen=True):
    """Neighbouring small blocks that are to become one: where they lie, and each one's checksum. Empty: none do."""

    pid: int
    first: int
    end: int
    checks: Sequence[int]


class Found(msgspec.Struct, frozen=True):
    """What a look has found: a run, if there is one, and from which offset on to look next; None: that is all."""

    run: Run | None
    onward: int | None


def find(db: apsw.Connection, pid: int, start: int) -> Found:
    """The next run of the partition from `start` on that is long enough; reads headers only."""
    low = pid << OFFSET_BITS
    rows: list[Any] = db.execute(
        "SELECT at, count, schema_id, length(data), chk FROM block WHERE at >= ? AND at <= ? ORDER BY at LIMIT ?",
        (low | start, low | OFFSET_MAX, _ROWS_AT_ONCE),
    ).fetchall()
    run: list[tuple[int, int, int]] = []
    size = 0
    for at, count, schema_id, length, check in rows:
        small = schema_id != placed.BUNDLE and length < SMALL_BYTES
        joins = small and (not run or run[-1][0] + run[-1][1] == at)
        if run and (not joins or size + length > BUNDLE_BYTES or len(run) == BUNDLE_BLOCKS):
            if len(run) >= BLOCKS_MIN:
                return _run(pid, run)
            run, size = [], 0
        if small:
            run.append((at, count, check))
            size += length
    if not rows:
        return Found(None, None)
    if len(rows) == _ROWS_AT_ONCE and len(run) >= BLOCKS_MIN:
        return _run(pid, run)
    last = rows[-1][0] & OFFSET_MAX
    if len(rows) == _ROWS_AT_ONCE:
        return Found(None, last + rows[-1][1])
    return Found(None, None)


def _run(pid: int, run: Sequence[tuple[int, int, int]]) -> Found:
    first, end = run[0][0] & OFFSET_MAX, (run[-1][0] & OFFSET_MAX) + run[-1][1]
    return Found(Run(pid, first, end, [check for _, _, check in run]), end)


class Bundled(msgspec.Struct, frozen=True):
    """A bundle, made and not placed yet: the row that is to be, without its key, and how many bytes it saves."""

    run: Run
    header: tuple[Any, ...]
    data: bytes
    saved: int


def make(db: apsw.Connection, run: Run) -> Bundled:
    """Read the run and bundle it; each checksum is verified.

    Raises:
        BlockDamaged: one is not what was written.
    """
    old: list[Stored] = []
    sizes: list[int] = []
    low = run.pid << OFFSET_BITS
    with db:
        for row in db.execute(placed.WHOLE + " ORDER BY at", (low | run.first, low | run.end - 1)):
            old.append(placed.stored(row, f"partition id {run.pid}"))
            sizes.append(row[8])
    data = bundle(old, sizes)
    recorded = [one.recorded_us for one in old]
    since = max(recorded) - min(recorded)
    lows, highs = [one.time_min_us for one in old], [one.time_max_us for one in old]
    times = (_limit(lows, min), _limit(highs, max), sum(sizes))
    header = (low | run.first, run.end - run.first, placed.BUNDLE, min(recorded), "", since, *times)
    return Bundled(run, header, data, sum(len(one.data) for one in old) - len(data))


def _limit(times: Sequence[int | None], of: Any) -> int | None:
    """A bound of all; none when one is not known."""
    known = [time for time in times if time is not None]
    return of(known) if len(known) == len(times) else None


def swap(db: apsw.Connection, bundled: Bundled) -> bool:
    """Put the bundle in the place of its blocks, inside the caller's transaction; False when they have changed."""
    run, low = bundled.run, bundled.run.pid << OFFSET_BITS
    span = (low | run.first, low | run.end - 1)
    rows: list[Any] = db.execute("SELECT chk FROM block WHERE at >= ? AND at <= ? ORDER BY at", span).fetchall()
    if [check for (check,) in rows] != list(run.checks):
        return False
    placed.remove(db, run.pid, start=run.first, end=run.end)
    reached("log.compact")
    crc = crc32(bundled.data)
    placed.insert(db, bundled.header, crc, row_check(*bundled.header, crc), bundled.data)
    reached("log.compacted")
    return True
