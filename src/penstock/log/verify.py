"""Reading everything a log holds, and telling every damage with its place and the way out. Nothing is changed.

Goes on behind what is damaged. Each look is a short read transaction, so programs may go on meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import apsw
import msgspec

from penstock.errors import CorruptionError, RecordDamaged
from penstock.log import ages, catalogue, ids, placed, producers, progress, quarantine
from penstock.log.ddl import OFFSET_BITS, OFFSET_MAX
from penstock.log.progress import Look

T = TypeVar("T")
_BLOCKS_AT_ONCE = 64
_ROWS_AT_ONCE = 1000
_INDEXED = ("topic", "partition", "grp", "producer", "event_id")
RESTORE = "restore a backup (penstock log restore)"

Progress = Callable[[int, int], None]
"""Called with blocks read so far and events read so far."""


class Damage(msgspec.Struct, frozen=True):
    """One damage. Of events: their topic, partition and offsets, [`first`, `end`); of rows `topic` is empty."""

    what: str
    way_out: str
    topic: str = ""
    partition: int = 0
    first: int = 0
    end: int = 0


class Passed(msgspec.Struct, frozen=True):
    """Offsets that are quarantined."""

    topic: str
    partition: int
    first: int
    end: int
    reason: str


class Verified(msgspec.Struct):
    """What was read, and what of it is damaged."""

    blocks: int = 0
    events: int = 0
    rows: int = 0
    damages: list[Damage] = msgspec.field(default_factory=list[Damage])
    quarantined: list[Passed] = msgspec.field(default_factory=list[Passed])

    def row(self, what: str) -> None:
        """A row, or a relation between rows, is damaged."""
        self.damages.append(Damage(what, RESTORE))


class Place(msgspec.Struct, frozen=True):
    """A partition by its names and by its id."""

    topic: str
    number: int
    pid: int

    def __str__(self) -> str:
        return f"topic {self.topic}/{self.number}"


def verify(look: Look[Any], on_progress: Progress | None = None) -> Verified:
    """Check every block's and row's checksum, that no offset is missing, and that what rows say of others is so.

    Args:
        look: runs one short read of the tables, such as `Log.look`.
        on_progress: see `Progress`.
    """
    found = Verified()
    topics = _kept(found, lambda: look(catalogue.topics)) or []
    for topic in topics:  # blocks name the schemas that they were written with, old ones among them
        _kept(found, lambda topic=topic: look(lambda db: catalogue.descriptions(db, topic.id)))
    places = [Place(topic.name, number, pid) for topic in topics for number, pid in enumerate(topic.pids)]
    by_pid = {place.pid: place for place in places}
    for place in places:
        _partition(look, place, found)
        if on_progress is not None:
            on_progress(found.blocks, found.events)
    begun = _kept(found, lambda: look(progress.begun)) or {}
    for group in _kept(found, lambda: look(catalogue.groups)) or []:
        found.rows += 1
        for place in [by_pid[pid] for pid in begun.get(group.id, ()) if pid in by_pid]:
            _progress(look, group.id, f"group {group.name}, {place}", place.pid, found)
    _producers(look, found)
    _kept(found, lambda: look(ages.known))
    _kept(found, lambda: look(producers.noted))
    for text in _kept(found, lambda: look(_indexes)) or []:
        found.row(text)
    return found


def _kept(found: Verified, look: Callable[[], T]) -> T | None:
    """What `look` returns; damage is noted instead, and None returned."""
    try:
        return look()
    except CorruptionError as exc:
        found.row(str(exc))
    return None


def _indexes(db: apsw.Connection) -> list[str]:
    """Indexes that do not fit their tables, and blocks of no partition."""
    found: list[str] = []
    for table in _INDEXED:
        rows: list[Any] = db.execute(f"PRAGMA integrity_check({table})").fetchall()
        found += [f"table {table}: {text}" for (text,) in rows if text != "ok"]
    pids: list[Any] = db.execute("SELECT pid FROM partition").fetchall()
    at = 0
    while True:
        row: Any = db.execute("SELECT min(at) FROM block WHERE at >= ?", (at,)).fetchone()
        if row[0] is None:
            return found
        pid = row[0] >> OFFSET_BITS
        if (pid,) not in pids:
            found.append(f"blocks of partition id {pid}, which no topic has")
        at = pid + 1 << OFFSET_BITS


# -- events ------------------------------------------------------------------------------------------------------------


def _partition(look: Look[Any], place: Place, found: Verified) -> None:
    ends = _kept(found, lambda: look(lambda db: placed.known(db, place.pid)))
    passed = _kept(found, lambda: look(lambda db: quarantine.of(db, place.pid))) or []
    found.quarantined += [Passed(place.topic, place.number, one.first, one.end, one.reason) for one in passed]
    if ends is None:
        return
    found.rows += 1 + len(passed) + (_kept(found, lambda: look(lambda db: ids.whole(db, place.pid))) or 0)
    for damage in damages(look, place, ends, found):
        if not any(one.first <= damage.first and damage.end <= one.end for one in passed):
            found.damages.append(damage)


def damages(look: Look[Any], place: Place, ends: placed.Tip, found: Verified) -> Iterator[Damage]:
    """What cannot be read of a partition, quarantined or not, in order; counts what can."""
    at = ends.begin
    while at < ends.offset:
        try:
            begin, rows = look(lambda db, at=at: _readable(db, place, at, ends.offset))
        except CorruptionError as exc:
            following = look(lambda db, at=at: _next_start(db, place.pid, at, ends.offset))
            yield _damage(place, at, following, str(exc))
            at = following
            continue
        at = max(at, begin)
        for first, end in rows:
            if first > at:
                yield _damage(place, at, first, f"{place}: no block holds offsets {at} to {first - 1}")
            found.blocks += 1
            found.events += end - max(first, at)
            at = end
        if not rows and at < ends.offset:
            yield _damage(place, at, ends.offset, f"{place}: no block holds offsets {at} to {ends.offset - 1}")
            return


def _damage(place: Place, first: int, end: int, what: str) -> Damage:
    command = f"penstock log quarantine {place.topic}/{place.number} --offsets {first}:{end - 1} --yes"
    way_out = f"{RESTORE}, or pass over these events: {command}"
    return Damage(what, way_out, place.topic, place.number, first, end)


def _readable(db: apsw.Connection, place: Place, at: int, end: int) -> tuple[int, list[tuple[int, int]]]:
    """Where the partition begins, and some whole blocks from the one that holds `at` on, as (first, end).

    Since the last look retention may have passed `at`, and compaction may have bundled the block that began there with
    those before it.

    Raises:
        CorruptionError: the first of them is damaged.
    """
    found: list[tuple[int, int]] = []
    begin, low = 0, place.pid << OFFSET_BITS
    try:
        with db:
            begin = placed.known(db, place.pid).begin
            start = _start(db, low, max(at, begin))
            for row in db.execute(placed.WHOLE + " ORDER BY at LIMIT ?", (low | start, low | end - 1, _BLOCKS_AT_ONCE)):
                first, count = placed.checked(row, str(place))
                found.append((first, first + count))
    except (CorruptionError, apsw.CorruptError, UnicodeDecodeError) as exc:
        if found:
            return begin, found
        if isinstance(exc, CorruptionError):
            raise
        msg = f"{place}, from offset {at} on: the file's pages are damaged ({exc})"
        raise RecordDamaged(msg) from exc
    return begin, found


def _start(db: apsw.Connection, low: int, at: int) -> int:
    """Where the bundle begins that holds `at`; `at` itself when there is none."""
    row: Any = db.execute(
        "SELECT at, count, schema_id FROM block WHERE at >= ? AND at <= ? ORDER BY at DESC LIMIT 1", (low, low | at)
    ).fetchone()
    if row is None or row[2] != placed.BUNDLE or not isinstance(row[1], int):
        return at
    first = row[0] & OFFSET_MAX
    return first if first + row[1] > at else at


def _next_start(db: apsw.Connection, pid: int, at: int, end: int) -> int:
    """The first offset of the next block behind a damaged one that starts at `at` or before."""
    hidden, step = at, 1
    while (seen := _starts_from(db, pid, at + step, end)) is None:  # a damaged page hides every block on it
        hidden, step = at + step, step * 2
    high = at + step
    while high - hidden > 1:
        middle = (hidden + high) // 2
        found = _starts_from(db, pid, middle, end)
        hidden, high, seen = (middle, high, seen) if found is None else (hidden, middle, found)
    return seen


def _starts_from(db: apsw.Connection, pid: int, at: int, end: int) -> int | None:
    """The first start of a block from `at` on, `end` when there is none; None when the pages there are damaged."""
    low = pid << OFFSET_BITS
    if at >= end:
        return end
    try:
        row: Any = db.execute("SELECT min(at) FROM block WHERE at >= ? AND at < ?", (low | at, low | end)).fetchone()
    except apsw.CorruptError:
        return None
    return end if row[0] is None else row[0] & OFFSET_MAX


# -- rows --------------------------------------------------------------------------------------------------------------


def _progress(look: Look[Any], group_id: int, name: str, pid: int, found: Verified) -> None:
    row = _kept(found, lambda: look(lambda db: progress.progress_of(db, group_id, pid)))
    if row is None:
        return
    at, steps = row
    found.rows += 1
    entries = _kept(found, lambda: look(lambda db: progress.whole_ledger(db, group_id, pid)))
    found.rows += entries or 0
    end = _kept(found, lambda: look(lambda db: placed.next_offset(db, pid)))
    if end is not None and max(at.floor, *(hole + 1 for hole in at.holes), 0) > end:
        found.row(f"{name}: the group is at offset {at.floor}, and the partition ends at {end}")
    number = at.kept
    while number < steps:
        rows: Any = _kept(found, lambda n=number: look(lambda db: progress.steps_of(db, group_id, pid, start=n)))
        if not rows:
            return
        found.rows += len(rows)
        number = rows[-1].number + 1


def _producers(look: Look[Any], found: Verified) -> None:
    for name in _kept(found, lambda: look(producers.names)) or []:
        found.rows += 1
        after: tuple[int, int] | None = None
        while True:
            rows = _kept(
                found, lambda a=after, n=name: look(lambda db: producers.sequences(db, n, after=a, count=_ROWS_AT_ONCE))
            )
            if not rows:
                break
            found.rows += len(rows)
            for row in rows:
                for text in look(lambda db, r=row, n=name: _misplaced(db, n, r)):
                    found.row(text)
            after = rows[-1].epoch, rows[-1].number


def _misplaced(db: apsw.Connection, name: str, row: producers.SequenceRow) -> list[str]:
    """Where the blocks of a sequence are not what it says, of those that are kept."""
    found: list[str] = []
    for pid, first, count in row.ranges:
        ends = placed.tip(db, pid)
        if ends is None or first + count > ends.offset:
            found.append(f"producer {name}, sequence {row.number}: offsets {first} to {first + count - 1} of no block")
        elif first >= ends.begin:
            origin = placed.origin_at(db, pid, first)
            if origin not in (None, f"{name}/{row.epoch}/{row.number}"):
                found.append(f"producer {name}, sequence {row.number}: the block at offset {first} is of {origin}")
    return found
