"""How much a partition holds and of which times, from headers where they say it; for people who look at a log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw
import msgspec

from penstock.errors import CorruptionError
from penstock.log import placed
from penstock.log.api import Span, Stored
from penstock.log.ddl import OFFSET_BITS, OFFSET_MAX
from penstock.log.newest import begin_of_newest

_SELECT = f"""
SELECT count(*), coalesce(sum(length(data)), 0), min(time_min), max(time_max), min(recorded_us),
    max(recorded_us + iif(schema_id = {placed.BUNDLE}, since, 0))
FROM block WHERE at BETWEEN ?1 AND ?2
"""
_LAST = "SELECT at, count, schema_id, recorded_us, since FROM block WHERE at BETWEEN ? AND ? ORDER BY at DESC LIMIT 1"


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


def recorded_us(db: apsw.Connection, pid: int, offset: int) -> int | None:
    """When the event at `offset` was recorded; None when no block that old is there."""
    block = _block(db, pid, offset)
    if block is None or block.schema_id != placed.BUNDLE:
        return None if block is None else block.recorded_us
    return next((one.recorded_us for one in _bundled(db, pid, offset, offset + 1)), block.recorded_us)


def offset_at(db: apsw.Connection, pid: int, end: int, at_us: int) -> int:
    """The first offset of the first block recorded at `at_us` or later; `end`, the next offset, when there is none.

    Blocks are taken to be in the order of their times: where the clock has jumped it is near the jump. A bundle counts
    as the blocks that it was made of.
    """
    first, last = 0, end
    while first < last:
        middle = (first + last) // 2
        first, last = (first, middle) if _is_since(db, pid, middle, at_us) else (middle + 1, last)
    return _begin(db, pid, first, end, at_us)


def newest_since(db: apsw.Connection, pid: int, end: int, at_us: int) -> int:
    """As `offset_at`, of a time that is not long ago: what was recorded behind the last jump of the clock decides."""
    first = begin_of_newest(end, lambda offset: _is_since(db, pid, offset, at_us))
    return _begin(db, pid, first, end, at_us)


def _is_since(db: apsw.Connection, pid: int, offset: int, at_us: int) -> bool:
    block = _block(db, pid, offset)
    return block is not None and block.last_us >= at_us


def _begin(db: apsw.Connection, pid: int, offset: int, end: int, at_us: int) -> int:
    """The first offset of the block at `offset`; of a bundle that of the block in it that was recorded at `at_us`."""
    block = None if offset >= end else _block(db, pid, offset)
    if block is None:
        return end
    if block.schema_id != placed.BUNDLE:
        return block.first
    found = _bundled(db, pid, block.first, block.first + block.count)
    return next((one.first for one in found if one.recorded_us >= at_us), block.first)


class _Block(msgspec.Struct, frozen=True):
    """What a block's header says; `last_us` is when its last event was recorded."""

    first: int
    count: int
    schema_id: int
    recorded_us: int
    last_us: int


def _block(db: apsw.Connection, pid: int, offset: int) -> _Block | None:
    """The last block that begins at `offset` or before."""
    low = pid << OFFSET_BITS
    row: Any = db.execute(_LAST, (low, low | min(offset, OFFSET_MAX))).fetchone()
    if row is None:
        return None
    at, count, schema_id, recorded, since = row
    return _Block(at & OFFSET_MAX, count, schema_id, recorded, placed.recorded_last_us(schema_id, recorded, since))


def _bundled(db: apsw.Connection, pid: int, first: int, end: int) -> Sequence[Stored]:
    """The blocks of a bundle that hold these offsets; none when it cannot be read: whoever reads it is told of that."""
    try:
        return placed.read(db, Span(pid, first, end), events_max=end - first, bytes_max=1 << 40)
    except CorruptionError:
        return ()
