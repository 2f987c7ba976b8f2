"""Partitions and their blocks: where the next event goes, and reading back what lies there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from zlib import crc32

import apsw
import msgspec

from penstock.errors import BlockDamaged, LogTruncated, OffsetOutOfRange, Rejected
from penstock.log import quarantine
from penstock.log.api import Block, Span, Stored
from penstock.log.bundles import unbundle
from penstock.log.checks import row_check, verify_row
from penstock.log.ddl import OFFSET_BITS, OFFSET_MAX, TIP_PID
from penstock.telemetry import emit

# A block is left out by its header alone: its bytes are the last column, and SQLite then does not read their pages.
_SELECT = """
SELECT at, count, schema_id, recorded_us, origin, since, time_min, time_max, size, crc, chk,
    CASE WHEN (?4 IS NULL OR time_max IS NULL OR time_max >= ?4) AND (?5 IS NULL OR time_min IS NULL OR time_min < ?5)
    THEN data END
FROM block WHERE at >= coalesce((SELECT max(at) FROM block WHERE at BETWEEN ?1 AND ?2), ?2) AND at < ?3 ORDER BY at
"""
HEADERS = """
SELECT at, count, schema_id, recorded_us, origin, since, time_min, time_max, size, crc, chk, length(data)
FROM block WHERE at >= ? AND at <= ?"""
WHOLE = HEADERS.replace("length(data)", "data")
_INSERT = """
INSERT INTO block(at, count, schema_id, recorded_us, origin, since, time_min, time_max, size, crc, chk, data)
VALUES(?,?,?,?,?,?,?,?,?,?,?,?)
"""


BUNDLE = -1
"""In place of a schema id: the block bundles several older ones (see `compaction`)."""


class Tip(msgspec.Struct):
    """Where a partition ends: the offset its next event gets; and where it begins: the first offset that is kept."""

    topic_id: int
    number: int
    offset: int
    begin: int


def tip(db: apsw.Connection, pid: int) -> Tip | None:
    """The partition's end; None when there is no such partition."""
    row = db.execute("SELECT topic_id, number, next, begin, chk FROM partition WHERE pid = ?", (pid,)).fetchone()
    if row is None:
        return None
    topic_id, number, offset, begin, check = row
    verify_row(f"partition {number} of topic id {topic_id}", check, pid, topic_id, number, offset, begin)
    return Tip(topic_id, number, offset, begin)


def known(db: apsw.Connection, pid: int) -> Tip:
    """The partition's ends.

    Raises:
        Rejected: there is no such partition.
    """
    found = tip(db, pid)
    if found is None:
        msg = f"partition id {pid} is not in this log; expected one of a declared topic"
        raise Rejected(msg)
    return found


def create(db: apsw.Connection, topic_id: int, number: int) -> int:
    """Make an empty partition; its id. Inside the caller's transaction."""
    db.execute("INSERT INTO partition(topic_id, number, next, chk) VALUES(?,?,0,0)", (topic_id, number))
    pid = db.last_insert_rowid()
    db.execute("UPDATE partition SET chk = ? WHERE pid = ?", (row_check(pid, topic_id, number, 0, 0), pid))
    return pid


def commits(db: apsw.Connection) -> int:
    """How many transactions the log holds: what its witness is compared with.

    Raises:
        LogTruncated: nothing says so.
        RecordDamaged: it is not what was written.
    """
    row: Any = db.execute("SELECT next, chk FROM partition WHERE pid = ?", (TIP_PID,)).fetchone()
    if row is None:
        msg = "the log's commit counter is missing; restore a backup"
        raise LogTruncated(msg)
    verify_row("the log's commit counter", row[1], TIP_PID, row[0])
    return row[0]


def begin_counting(db: apsw.Connection, first: int) -> None:
    """Make the commit counter of a new log."""
    check = row_check(TIP_PID, first)
    db.execute("INSERT INTO partition(pid, topic_id, number, next, chk) VALUES(?, 0, 0, ?, ?)", (TIP_PID, first, check))


def count(db: apsw.Connection, number: int) -> None:
    """Say that this transaction is that commit."""
    check = row_check(TIP_PID, number)
    db.execute("UPDATE partition SET next = ?, chk = ? WHERE pid = ?", (number, check, TIP_PID))


def remove(db: apsw.Connection, pid: int, *, start: int, end: int) -> None:
    """Remove the blocks that begin at these offsets, inside the caller's transaction."""
    low = pid << OFFSET_BITS
    db.execute("DELETE FROM block WHERE at >= ? AND at < ?", (low | start, low | end))


def set_begin(db: apsw.Connection, pid: int, end: Tip) -> None:
    """Record the partition's first kept offset, which `end` says; inside the caller's transaction."""
    check = row_check(pid, end.topic_id, end.number, end.offset, end.begin)
    db.execute("UPDATE partition SET begin = ?, chk = ? WHERE pid = ?", (end.begin, check, pid))


def next_offset(db: apsw.Connection, pid: int) -> int:
    """The offset the next event of the partition will get.

    Raises:
        Rejected: there is no such partition.
    """
    return known(db, pid).offset


def room(db: apsw.Connection, blocks: Sequence[Block], tips: dict[int, Tip]) -> str:
    """Why not every partition can take its blocks' events; empty when each can, and then its tip is in `tips`.

    Tips that are there already are not read again.
    """
    wanted: dict[int, int] = {}
    for block in blocks:
        if block.pid not in tips:
            found = tip(db, block.pid)
            if found is None:
                return f"partition id {block.pid} is not in this log; expected one of a declared topic"
            tips[block.pid] = found
        wanted[block.pid] = wanted.get(block.pid, 0) + block.count
        if tips[block.pid].offset + wanted[block.pid] > OFFSET_MAX:
            return (
                f"partition id {block.pid} is at offset {tips[block.pid].offset}; {wanted[block.pid]} more pass the "
                f"limit of 2^{OFFSET_BITS}"
            )
    return ""


def place(db: apsw.Connection, blocks: Sequence[Block], tips: dict[int, Tip], *, origin: str, now_us: int) -> list[int]:
    """Append the blocks in order, inside the caller's transaction; returns each one's first offset.

    `tips` are those of `room`, and are moved.
    """
    first: list[int] = []
    base: dict[int, int] = {}
    for block in blocks:
        end = tips[block.pid]
        offset = end.offset
        since = offset - base.setdefault(block.pid, offset)
        times = (block.time_min_us, block.time_max_us, block.size)
        header = (block.pid << OFFSET_BITS | offset, block.count, block.schema_id, now_us, origin, since, *times)
        insert(db, header, block.crc, row_check(*header, block.crc), block.data)
        first.append(offset)
        end.offset = offset + block.count
    for pid in base:
        end = tips[pid]
        check = row_check(pid, end.topic_id, end.number, end.offset, end.begin)
        db.execute("UPDATE partition SET next = ?, chk = ? WHERE pid = ?", (end.offset, check, pid))
    return first


def insert(db: apsw.Connection, header: Sequence[Any], crc: int, check: int, data: bytes) -> None:
    """Write one block's row, inside the caller's transaction."""
    db.execute(_INSERT, (*header, crc, check, data))


def kept(db: apsw.Connection, span: Span) -> Span:
    """The part of the span that retention has left."""
    return msgspec.structs.replace(span, start=max(span.start, known(db, span.pid).begin))


def read(db: apsw.Connection, span: Span, *, events_max: int, bytes_max: int, name: str = "") -> list[Stored]:
    """Whole blocks that meet the span, in order; at least one when there is one.

    Every block on the way is checked, and that none is missing; the bytes of those that are left out are not read.

    Raises:
        BlockDamaged: the first block's checksum does not match, or it is missing; the offsets are named. What lies
            before another one that is damaged is returned, and the next read tells of it.
        OffsetOutOfRange: the span begins below the first offset that is kept.
    """
    name = name or f"partition id {span.pid}"
    out: list[Stored] = []
    walk = _Walk(span.start)
    limits = (events_max, bytes_max)
    while not _read_on(db, span, walk, out, limits=limits, name=name):
        pass
    return out


def _read_on(
    db: apsw.Connection, span: Span, walk: _Walk, out: list[Stored], *, limits: tuple[int, int], name: str
) -> bool:
    """Read as far as it goes; False when something quarantined was passed over and there is more behind it."""
    try:
        with db:
            out.extend(_read(db, span, walk, limits=limits, name=name))
    except BlockDamaged:  # SQLite goes no further in a transaction that has met a damaged page
        if out:  # what was read already is delivered first: the next read begins here
            return True
        passed = quarantine.covering(db, span.pid, walk.expected)
        if passed is None:
            raise
        emit.count("penstock_events_quarantined_total", passed.end - walk.expected, partition=name)
        walk.expected = passed.end
        return walk.expected >= min(known(db, span.pid).offset, span.end)
    return True


class _Walk(msgspec.Struct):
    """Where a read is: the offset that comes next."""

    expected: int


def _read(db: apsw.Connection, span: Span, walk: _Walk, *, limits: tuple[int, int], name: str) -> Iterator[Stored]:
    events_max, bytes_max = limits
    low = span.pid << OFFSET_BITS
    # In a partition's key space OFFSET_MAX is never an event's offset, so the end may be cut there.
    bounds = (low, low | min(walk.expected, OFFSET_MAX), low | min(span.end, OFFSET_MAX))
    events = size_sum = 0
    try:
        for *header, crc, check, data in db.execute(_SELECT, (*bounds, span.time_from_us, span.time_to_us)):
            at, count, schema_id, recorded_us, origin, since, time_min, time_max, size = header
            first = at & OFFSET_MAX
            _verify(name, header, crc=crc, check=check, data=data)
            if first > walk.expected:
                break
            if first + count <= walk.expected:
                continue
            if data is None:
                walk.expected = first + count
                continue
            row = Stored(
                span.pid, first, count, schema_id, recorded_us, origin, first - since, data, time_min, time_max
            )
            for one, bytes_ in ((row, size),) if schema_id != BUNDLE else unbundle(span.pid, first, data):
                end = one.first + one.count
                if end <= walk.expected or one.first >= span.end:
                    continue
                new, walk.expected = end - walk.expected, end
                if schema_id == BUNDLE and not _meets(one, span):
                    continue
                yield one
                events += new
                size_sum += bytes_
                if events >= events_max or size_sum >= bytes_max:
                    return
    except (apsw.CorruptError, UnicodeDecodeError) as exc:
        msg = (
            f"{name}, offset {walk.expected}: the file's pages are damaged here ({exc}); others can be read. {_WAY_OUT}"
        )
        raise BlockDamaged(msg) from exc
    ends = known(db, span.pid)
    end = min(ends.offset, span.end)
    if span.start < ends.begin and walk.expected < end:
        raise OffsetOutOfRange(out_of_range(name, span.start, ends.begin))
    if walk.expected < end:
        msg = f"{name}: no block holds offset {walk.expected}, though the log goes up to {end}. {_WAY_OUT}"
        raise BlockDamaged(msg)


def _meets(one: Stored, span: Span) -> bool:
    """As SQL decides it of whole rows: whether the block's event times meet the span's."""
    early = span.time_from_us is not None and one.time_max_us is not None and one.time_max_us < span.time_from_us
    late = span.time_to_us is not None and one.time_min_us is not None and one.time_min_us >= span.time_to_us
    return not early and not late


def stored(row: Sequence[Any], name: str) -> Stored:
    """A row of `WHOLE`, which is no bundle, as a block.

    Raises:
        BlockDamaged: a checksum does not match.
    """
    *header, crc, check, data = row
    _verify(name, header, crc=crc, check=check, data=data)
    at, count, schema_id, recorded_us, origin, since, time_min, time_max, _ = header
    first = at & OFFSET_MAX
    return Stored(
        at >> OFFSET_BITS, first, count, schema_id, recorded_us, origin, first - since, data, time_min, time_max
    )


def out_of_range(name: str, offset: int, begin: int) -> str:
    """What is said of an offset that retention has passed."""
    return (
        f"{name}: offset {offset} is asked for, and the first one that is kept is {begin}: retention has passed it, "
        f"and nothing was skipped. Read from {begin} on if what lay before it is not needed"
    )


_WAY_OUT = "Nothing is skipped by itself: restore a backup; `penstock log verify` lists all damage and other ways out"


def checked_header(row: Sequence[Any], name: str) -> tuple[list[Any], int]:
    """The header of a row of `HEADERS`, and the bytes of its block.

    Raises:
        BlockDamaged: its checksum does not match.
    """
    *header, crc, check, size = row
    _verify(name, header, crc=crc, check=check, data=None)
    return header, size


def checked(row: Sequence[Any], name: str) -> tuple[int, int]:
    """First offset and count of a row of `WHOLE`.

    Raises:
        BlockDamaged: a checksum does not match.
    """
    *header, crc, check, data = row
    _verify(name, header, crc=crc, check=check, data=data)
    return header[0] & OFFSET_MAX, header[1]


def origin_at(db: apsw.Connection, pid: int, first: int) -> str | None:
    """Who published the block that begins at this offset; None when it lies in a bundle, or cannot be read."""
    select = "SELECT origin FROM block WHERE at = ? AND schema_id != ?"
    try:
        row: Any = db.execute(select, (pid << OFFSET_BITS | first, BUNDLE)).fetchone()
    except apsw.CorruptError:
        return None
    return None if row is None else row[0]


def recorded_last_us(schema_id: int, recorded_us: int, since: int) -> int:
    """When the last event of a block was recorded; of a bundle `since` tells how long after the first."""
    return recorded_us + since if schema_id == BUNDLE else recorded_us


def _verify(name: str, header: list[Any], *, crc: int, check: int, data: Any) -> None:
    """A flip may have changed the type of any value: nothing is computed with one before it is checked."""
    found = row_check(*header, crc)
    if found != check:
        what = f"of its header is {check}, computed {found}"
    elif data is not None and (not isinstance(data, bytes) or crc32(data) != crc):
        what = f"is {crc}, computed {crc32(data) if isinstance(data, bytes) else type(data).__name__}"
    else:
        return
    first = header[0] & OFFSET_MAX
    last = f"{first + header[1] - 1}" if isinstance(header[1], int) else "an unknown one"
    msg = (
        f"{name}, offsets {first} to {last}: the stored checksum {what}; these events cannot be read, others can. "
        f"{_WAY_OUT}"
    )
    raise BlockDamaged(msg)
