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
