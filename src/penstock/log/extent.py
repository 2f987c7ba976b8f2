"""How much a partition holds and of which times, from its blocks' headers alone; for people who look at a log."""

from __future__ import annotations

import apsw
import msgspec

from penstock.log.ddl import OFFSET_BITS, OFFSET_MAX

_SELECT = """
SELECT count(*), coalesce(sum(length(data)), 0), min(time_min), max(time_max), min(recorded_us), max(recorded_us)
FROM block WHERE at BETWEEN ?1 AND ?2
"""


class Extent(msgspec.Struct, frozen=True):
    """Blocks, the bytes they take, and bounds of event times and of recording, microseconds since 1970."""

    blocks: int
    bytes: int
    time_min_us: int | None
    time_max_us: int | None
    recorded_min_us: int | None
    recorded_max_us: int | None


def extent(db: apsw.Connection, pid: int) -> Extent:
    """The extent of one partition. Headers are not checked here: reading the events checks them."""
    low = pid << OFFSET_BITS
    row = db.execute(_SELECT, (low, low | OFFSET_MAX)).fetchone()
    assert row is not None
    return Extent(*row)


def starts(db: apsw.Connection, pid: int, *, after: int, count_max: int) -> list[int]:
    """First offsets of the partition's blocks behind offset `after`, in order, at most `count_max`."""
    low = pid << OFFSET_BITS
    rows = db.execute(
        "SELECT at FROM block WHERE at > ? AND at <= ? ORDER BY at LIMIT ?",
        (low | after if after >= 0 else low - 1, low | OFFSET_MAX, count_max),
    )
    return [at & OFFSET_MAX for (at,) in rows]


def recorded_us(db: apsw.Connection, pid: int, offset: int) -> int | None:
    """When the event at `offset` was recorded; None when no block that old is there."""
    low = pid << OFFSET_BITS
    row = db.execute(
        "SELECT recorded_us FROM block WHERE at BETWEEN ? AND ? ORDER BY at DESC LIMIT 1", (low, low | offset)
    ).fetchone()
    return None if row is None else row[0]


def offset_at(db: apsw.Connection, pid: int, end: int, at_us: int) -> int:
    """The first offset of the first block recorded at `at_us` or later; `end`, the next offset, when there is none.

    Blocks are taken to be in the order of their times: where the clock has jumped it is near the jump.
    """
    first, last = 0, end
    while first < last:
        middle = (first + last) // 2
        recorded = recorded_us(db, pid, middle)
        if recorded is not None and recorded >= at_us:
            last = middle
        else:
            first = middle + 1
    low = pid << OFFSET_BITS
    row = db.execute(
        "SELECT at FROM block WHERE at BETWEEN ? AND ? ORDER BY at DESC LIMIT 1", (low, low | min(first, OFFSET_MAX))
    ).fetchone()
    return end if first >= end or row is None else row[0] & OFFSET_MAX
