"""Ids of events, of topics that record each one once: what is known of them, looked up inside the commit.

The table lies in the order of offsets, so that what is new goes to its end and what is forgotten from its begin; half
a digest of each id is indexed, and the row has the other half. The sum of the rows' checksums per partition tells
`verify` of rows that are missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import apsw
import msgspec

from penstock.errors import RecordDamaged
from penstock.log import placed
from penstock.log.api import Block, Refusal, Repeated
from penstock.log.checks import row_check, verify_row
from penstock.log.ddl import OFFSET_BITS, OFFSET_MAX
from penstock.log.decide import Horizon

HALF = 8
"""Bytes of half a digest; the content's has as many."""
_FORGOTTEN_MIN = 16
_json = msgspec.json.Encoder().encode
_NAMED_MAX = 3


class _Kept(msgspec.Struct):
    """What is remembered of a partition: its newest event time, and the sum of its rows' checksums."""

    newest_us: int | None
    entries: int


def _kept(db: apsw.Connection, pid: int) -> _Kept:
    row: Any = db.execute("SELECT newest_us, entries, chk FROM remembered WHERE pid = ?", (pid,)).fetchone()
    if row is None:
        return _Kept(None, 0)
    verify_row(f"ids of partition id {pid}", row[2], pid, row[0], row[1])
    return _Kept(row[0], row[1])


def _keep(db: apsw.Connection, pid: int, kept: _Kept) -> None:
    values = (pid, kept.newest_us, kept.entries)
    db.execute(
        "INSERT OR REPLACE INTO remembered(pid, newest_us, entries, chk) VALUES(?,?,?,?)", (*values, row_check(*values))
    )


def refuse(db: apsw.Connection, blocks: Sequence[Block]) -> Refusal | None:
    """Why the blocks cannot be stored as they are: ids of theirs are recorded already. None when none is.

    Raises:
        RecordDamaged: a row is not what was written.
    """
    found = [one for number, block in enumerate(blocks) if block.ids is not None for one in _found(db, number, block)]
    if not found:
        return None
    named = ", ".join(
        f"offset {one.offset} of partition {one.partition}{'' if one.same else ' with another content'}"
        for one in found[:_NAMED_MAX]
    )
    more = "" if len(found) <= _NAMED_MAX else f" and {len(found) - _NAMED_MAX} more"
    return Refusal(
        f"{len(found)} events have ids that the topic holds already ({named}{more}); nothing of this publish was "
        "stored: publish the others",
        "id",
        found,
    )


def _found(db: apsw.Connection, number: int, block: Block) -> Iterator[Repeated]:
    """The block's events whose ids are remembered."""
    assert block.ids is not None
    ends: dict[int, tuple[placed.Tip, _Kept]] = {}
    halves = _json([half for _, half, _ in block.ids.marks]).decode()
    rows: Any = db.execute(
        "SELECT id, at, rest, time_us, chk FROM event_id WHERE id IN (SELECT value FROM json_each(?))", (halves,)
    ).fetchall()
    known: dict[int, list[Any]] = {}
    for half, *row in rows:
        known.setdefault(half, []).append(_checked(row, half))
    for index, half, rest in block.ids.marks if known else ():
        for at, stored, time_us in known.get(half, ()):
            if stored[:HALF] != rest[:HALF]:
                continue
            pid = at >> OFFSET_BITS
            if pid not in ends:
                ends[pid] = (placed.known(db, pid), _kept(db, pid))
            end, kept = ends[pid]
            behind = end.offset - (at & OFFSET_MAX)
            if block.ids.horizon.holds(behind=behind, time_us=time_us, newest_us=kept.newest_us):
                yield Repeated(number, index, end.number, at & OFFSET_MAX, stored == rest)


def _checked(row: Any, half: int) -> tuple[int, bytes, int | None]:
    at, rest, time_us, check = row
    verify_row(
        f"the id of offset {at & OFFSET_MAX} of partition id {at >> OFFSET_BITS}", check, at, half, rest, time_us
    )
    return at, rest, time_us


def remember(db: apsw.Connection, blocks: Sequence[Block], first: Sequence[int], *, now_us: int) -> None:
    """Record the ids of blocks that begin at these offsets, and forget some of those that lie behind the horizon."""
    horizons: dict[int, Horizon] = {}
    kept: dict[int, _Kept] = {}
    added: dict[int, int] = {}
    for block, offset in zip(blocks, first, strict=True):
        if block.ids is None:
            continue
        pid, time_us = block.pid, block.time_max_us
        mine = kept.setdefault(pid, _kept(db, pid))
        if time_us is not None:
            time_us = not_ahead(time_us, newest_us=mine.newest_us, now_us=now_us)
        rows: list[tuple[Any, ...]] = []
        for index, half, rest in block.ids.marks:
            values = (pid << OFFSET_BITS | offset + index, half, rest, time_us)
            rows.append((*values, row_check(*values)))
        db.executemany("INSERT INTO event_id(at, id, rest, time_us, chk) VALUES(?,?,?,?,?)", rows)
        mine.entries += sum(row[-1] for row in rows)
        if time_us is not None:
            mine.newest_us = time_us if mine.newest_us is None else max(mine.newest_us, time_us)
        horizons[pid] = block.ids.horizon
        added[pid] = added.get(pid, 0) + len(rows)
    for pid, mine in kept.items():
        _forget(db, pid, mine, horizon=horizons[pid], limit=2 * added[pid] + _FORGOTTEN_MIN)
        _keep(db, pid, mine)


def not_ahead(time_us: int, *, newest_us: int | None, now_us: int) -> int:
    """An event time, or now where it lies in the future: it makes no others old, nor is remembered until that comes.

    A clock that was set back makes nothing old either: what was the newest once is not the future.
    """
    return min(time_us, now_us if newest_us is None else max(now_us, newest_us))


def _forget(db: apsw.Connection, pid: int, kept: _Kept, *, horizon: Horizon, limit: int) -> None:
    """Remove the oldest rows, at most so many, up to the first one that is still remembered."""
    tip = placed.next_offset(db, pid)
    low = pid << OFFSET_BITS
    rows: Any = db.execute(
        "SELECT at, time_us, chk FROM event_id WHERE at >= ? AND at < ? ORDER BY at LIMIT ?",
        (low, low | max(0, tip - horizon.events), limit),
    ).fetchall()
    last = None
    for at, time_us, check in rows:
        if horizon.holds(behind=tip - (at & OFFSET_MAX), time_us=time_us, newest_us=kept.newest_us):
            break
        last = at
        kept.entries -= check
    if last is not None:
        db.execute("DELETE FROM event_id WHERE at >= ? AND at <= ?", (low, last))


def whole(db: apsw.Connection, pid: int) -> int:
    """How many ids are remembered of the partition, read at one moment.

    Raises:
        RecordDamaged: some are missing, or are not what was written.
    """
    count = total = 0
    kept = _Kept(None, 0)
    low = pid << OFFSET_BITS
    with db:
        kept = _kept(db, pid)
        for at, half, rest, time_us, check in db.execute(
            "SELECT at, id, rest, time_us, chk FROM event_id WHERE at >= ? AND at <= ?", (low, low | OFFSET_MAX)
        ):
            _checked((at, rest, time_us, check), half)
            count += 1
            total += check
    if total != kept.entries:
        msg = f"ids of partition id {pid}: some are missing or changed, the sum of their checksums says so"
        raise RecordDamaged(msg)
    return count
