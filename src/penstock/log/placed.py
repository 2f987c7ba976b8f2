"""Partitions and their blocks: where the next event goes, and reading back what lies there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import apsw

from penstock.errors import BlockDamaged, LogTruncated
from penstock.log.api import Block, Stored
from penstock.log.checks import block_check, row_check, verify_row
from penstock.log.ddl import OFFSET_BITS, OFFSET_MAX

_COLUMNS = "at, count, schema_id, recorded_us, origin, time_min, time_max, size, crc"


def next_offset(db: apsw.Connection, pid: int) -> int:
    """The offset the next event of the partition will get."""
    row = db.execute("SELECT topic_id, number, next, chk FROM partition WHERE pid = ?", (pid,)).fetchone()
    if row is None:
        msg = f"partition id {pid} is not in this log; expected one of a declared topic"
        raise LogTruncated(msg)
    topic_id, number, offset, check = row
    verify_row(f"partition {number} of topic id {topic_id}", check, pid, topic_id, number, offset)
    return offset


def has_room(db: apsw.Connection, blocks: Sequence[Block]) -> str | None:
    """None when every block's partition can take its events; else the reason why not."""
    wanted: dict[int, int] = {}
    for block in blocks:
        wanted[block.pid] = wanted.get(block.pid, 0) + block.count
    for pid, count in wanted.items():
        if next_offset(db, pid) + count > OFFSET_MAX:
            return f"partition id {pid} is at offset {next_offset(db, pid)}; {count} more pass the limit of 2^{OFFSET_BITS}"
    return None


def place(db: apsw.Connection, blocks: Sequence[Block], *, origin: str, now_us: int) -> list[int]:
    """Append the blocks in order, inside the caller's transaction; returns each one's first offset."""
    first: list[int] = []
    tips: dict[int, tuple[int, int, int]] = {}
    for block in blocks:
        if block.pid not in tips:
            row = db.execute("SELECT topic_id, number FROM partition WHERE pid = ?", (block.pid,)).fetchone()
            assert row is not None
            tips[block.pid] = (next_offset(db, block.pid), row[0], row[1])
        offset, topic_id, number = tips[block.pid]
        header = (block.pid, offset, block.count, block.schema_id, now_us, origin, block.time_min_us, block.time_max_us)
        db.execute(
            "INSERT INTO block(at, count, schema_id, recorded_us, origin, time_min, time_max, size, crc, data)"
            " VALUES(?,?,?,?,?,?,?,?,?,?)",
            (block.pid << OFFSET_BITS | offset, *header[2:], block.size, block_check(block.data, *header), block.data),
        )
        first.append(offset)
        tips[block.pid] = (offset + block.count, topic_id, number)
    for pid, (offset, topic_id, number) in tips.items():
        check = row_check(pid, topic_id, number, offset)
        db.execute("UPDATE partition SET next = ?, chk = ? WHERE pid = ?", (offset, check, pid))
    return first


def read(  # noqa: PLR0913
    db: apsw.Connection, pid: int, offset: int, *, events_max: int, bytes_max: int, name: str = ""
) -> list[Stored]:
    """Whole blocks from the one that holds `offset` on; at least one unless `offset` is the end.

    Raises:
        BlockDamaged: a block's checksum does not match, or a block is missing; the offsets are named.
    """
    with db:
        return list(_read(db, pid, offset, limits=(events_max, bytes_max), name=name))


def _read(
    db: apsw.Connection, pid: int, offset: int, *, limits: tuple[int, int], name: str
) -> Iterator[Stored]:
    events_max, bytes_max = limits
    rows = db.execute(
        f"SELECT {_COLUMNS}, data FROM block WHERE at >= "  # noqa: S608
        "coalesce((SELECT max(at) FROM block WHERE at BETWEEN ?1 AND ?2), ?2) AND at <= ?3 ORDER BY at",
        (pid << OFFSET_BITS, pid << OFFSET_BITS | offset, pid << OFFSET_BITS | OFFSET_MAX),
    )
    expected = offset
    events = size_sum = 0
    for at, count, schema_id, recorded_us, origin, time_min, time_max, size, crc, data in rows:
        first = at & OFFSET_MAX
        if first > expected:
            break
        header = (pid, first, count, schema_id, recorded_us, origin, time_min, time_max)
        _verify(crc, data, header, name=name)
        if first + count <= expected:
            break
        yield Stored(pid, first, count, schema_id, recorded_us, origin, data, time_min, time_max)
        events += first + count - expected
        size_sum += size
        expected = first + count
        if events >= events_max or size_sum >= bytes_max:
            return
    end = next_offset(db, pid)
    if expected < end:
        msg = f"{name or f'partition id {pid}'}: no block holds offset {expected}, though the log goes up to {end}"
        raise BlockDamaged(msg)


def _verify(crc: int, data: bytes, header: tuple[object, ...], *, name: str) -> None:
    found = block_check(data, *header)
    if found != crc:
        pid, first, count = header[:3]
        msg = (
            f"{name or f'partition id {pid}'}, offsets {first} to {first + count - 1}: "  # type: ignore[operator]
            f"stored checksum {crc}, computed {found}; "
            "these events cannot be read. Others can; restore a backup, or run `penstock doctor`"
        )
        raise BlockDamaged(msg)
