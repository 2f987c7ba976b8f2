"""Groups' progress, recorded steps and ledgers: who owns a partition, how far it is, what it remembers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from json import dumps
from math import inf
from typing import Any, TypeVar

import apsw
import msgspec

from penstock.errors import RecordDamaged
from penstock.log import catalogue, decide, placed
from penstock.log.api import Advance, Claim, Held, Overtaken, ProgressRow, Range, Refusal, StepRecord
from penstock.log.checks import row_check, verify_row
from penstock.log.newest import begin_of_newest

T = TypeVar("T")
Look = Callable[[Callable[[apsw.Connection], T]], T]
"""Runs one short read of the tables."""

Entry = tuple[str, bytes, bytes]
"""(space, key, value) of a ledger."""

ENTRIES_AT_ONCE = 1000

_pack = msgspec.msgpack.Encoder().encode
_ints = msgspec.msgpack.Decoder(list[int]).decode
_ranges = msgspec.msgpack.Decoder(list[Range]).decode


class _Row(msgspec.Struct, frozen=True):
    """A row as it is stored; `entries` is the sum of the checksums of the partition's ledger.

    A flip in the key of a ledger's row would hide it; without it the sum is another.
    """

    progress: ProgressRow
    steps: int
    entries: int


def _find(db: apsw.Connection, group_id: int, pid: int) -> _Row | None:
    row = db.execute(
        "SELECT epoch, floor, holes, steps, entries, oldest, kept, seen_us, chk FROM progress "
        "WHERE group_id = ? AND pid = ?",
        (group_id, pid),
    ).fetchone()
    if row is None:
        return None
    *values, check = row
    verify_row(f"progress of group id {group_id}, partition id {pid}", check, group_id, pid, *values)
    epoch, floor, holes, steps, entries, oldest, kept, seen_us = values
    return _Row(ProgressRow(group_id, pid, epoch, floor, _ints(holes), oldest, kept, seen_us), steps, entries)


def progress_of(db: apsw.Connection, group_id: int, pid: int) -> tuple[ProgressRow, int] | None:
    """The group's progress on one partition and its number of steps; None before the group began."""
    found = _find(db, group_id, pid)
    return None if found is None else (found.progress, found.steps)


def _write(db: apsw.Connection, row: _Row) -> None:
    at = row.progress
    place = (at.group_id, at.pid, at.epoch, at.floor, _pack(list(at.holes)))
    values = (*place, row.steps, row.entries, at.oldest, at.kept, at.seen_us)
    db.execute(
        "INSERT INTO progress(group_id, pid, epoch, floor, holes, steps, entries, oldest, kept, seen_us, chk) "
        "VALUES(?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT(group_id, pid) DO UPDATE SET epoch = excluded.epoch, "
        "floor = excluded.floor, holes = excluded.holes, steps = excluded.steps, entries = excluded.entries, "
        "oldest = excluded.oldest, kept = excluded.kept, seen_us = excluded.seen_us, chk = excluded.chk",
        (*values, row_check(*values)),
    )


def begin(db: apsw.Connection, group_id: int, pid: int, *, floor: int) -> None:
    """Where a new group starts on the partition; nobody owns it yet."""
    _write(db, _Row(ProgressRow(group_id, pid, 0, floor, ()), 0, 0))


def claim(db: apsw.Connection, request: Claim, *, seen_us: int = 0) -> list[Held]:
    """Raise every epoch, and hand out the group's progress on each partition.

    A group that never began does so at the first event that is kept. `seen_us` is the log's own time.

    The ledgers are read afterwards (`LedgerReading`): they may be large, and everybody's writing waits meanwhile.

    Raises:
        RecordDamaged: a row that must be there is not, or is not what was written.
    """
    group_id = request.group_id
    (known,) = db.execute("SELECT count(*) FROM progress WHERE group_id = ?", (group_id,)).fetchone()  # type: ignore[misc]
    begun = bool(known or catalogue.group_partitions(db, group_id))
    out: list[Held] = []
    for pid in request.pids:
        found = _find(db, group_id, pid)
        if found is None and begun:
            msg = f"progress of group id {group_id}, partition id {pid}: the row is gone; {_WAY_OUT}"
            raise RecordDamaged(msg)
        row = found or _Row(ProgressRow(group_id, pid, 0, _first(db, pid), ()), 0, 0)
        at = msgspec.structs.replace(row.progress, epoch=row.progress.epoch + 1, seen_us=seen_us)
        _write(db, msgspec.structs.replace(row, progress=at))
        out.append(Held(pid, at.epoch, at.floor, at.holes, row.steps, at.oldest))
    return out


def seek(db: apsw.Connection, group_id: int, pid: int, *, floor: int, keep: Sequence[str] = ()) -> None:
    """Put the group's progress on the partition elsewhere, and forget what it remembers there, but for these spaces.

    The epoch goes up: whoever owns the partition meanwhile is fenced off. Recorded steps stay, and their numbers go on.
    """
    found = _find(db, group_id, pid)
    row = found or _Row(ProgressRow(group_id, pid, 0, 0, ()), 0, 0)
    for space in spaces_of(db, group_id, pid).keys() - set(keep):
        db.execute("DELETE FROM ledger WHERE group_id = ? AND pid = ? AND space = ?", (group_id, pid, space))
    checks: Any = db.execute("SELECT chk FROM ledger WHERE group_id = ? AND pid = ?", (group_id, pid)).fetchall()
    at = msgspec.structs.replace(row.progress, epoch=row.progress.epoch + 1, floor=floor, holes=(), oldest=None)
    _write(db, msgspec.structs.replace(row, progress=at, entries=sum(check for (check,) in checks)))


def spaces_of(db: apsw.Connection, group_id: int, pid: int) -> dict[str, int]:
    """Ledger space → how many entries the group has there for the partition."""
    rows: Any = db.execute(
        "SELECT space, count(*) FROM ledger WHERE group_id = ? AND pid = ? GROUP BY space ORDER BY space",
        (group_id, pid),
    ).fetchall()
    return dict(rows)


def floor_at(db: apsw.Connection, group_id: int, pid: int, at_us: int) -> int | None:
    """The group's floor as it was at `at_us`, from its recorded steps; None when there is none since."""

    def is_new(number: int) -> bool:
        row = db.execute(
            "SELECT at_us FROM step WHERE group_id = ? AND pid = ? AND number = ?", (group_id, pid, number)
        ).fetchone()
        return row is not None and row[0] >= at_us

    found = _find(db, group_id, pid)
    end = 0 if found is None else found.steps
    first = begin_of_newest(end, is_new)
    row = db.execute(
        "SELECT before FROM step WHERE group_id = ? AND pid = ? AND number = ?", (group_id, pid, first)
    ).fetchone()
    return None if first >= end or row is None else row[0]


def _first(db: apsw.Connection, pid: int) -> int:
    found = placed.tip(db, pid)
    return 0 if found is None else found.begin


_WAY_OUT = "nothing of it was used; the checksum of the rows together says so: restore a backup"


class LedgerReading:
    """Reads the ledger of one claimed partition in slices: a large one keeps nobody waiting.

    The slices are of one moment, for only the owner of the newest epoch changes a ledger: either it is this one,
    which has not begun, or a slice finds the newer epoch and what was read is not used.
    """

    def __init__(self, group_id: int, held: Held, *, spaces: Sequence[str] = ()) -> None:
        self.held = held
        self.entries: list[Entry] = []
        """In key order; of these `spaces`, of all when there are none."""
        self.overtaken = False
        """Whether another owner has claimed the partition since."""
        self._group_id = group_id
        self._spaces = spaces
        self._last: tuple[str, bytes] | None = None
        self._sum = 0

    def more(self, look: Look[Any]) -> bool:
        """Read the next slice; whether there is another one.

        Raises:
            RecordDamaged: entries are missing, or are not what was written.
        """
        rows, row = look(self._slice)
        if row is None or row.progress.epoch != self.held.epoch:
            self.overtaken = True
            return False
        for space, key, value, check in rows:
            self._take(space, key, value, check)
        if len(rows) < ENTRIES_AT_ONCE and self._sum != row.entries:
            raise self._damage("entries are missing or changed")
        return len(rows) == ENTRIES_AT_ONCE

    def rest(self, look: Look[Any]) -> None:
        """Read all slices that are left; raises as `more`."""
        while self.more(look):
            pass

    def _slice(self, db: apsw.Connection) -> tuple[list[Any], _Row | None]:
        """The slice, and then the progress: an epoch that is still the newest was so at the slice, too."""
        where, values = ("", ()) if self._last is None else (" AND (space, key) > (?, ?)", self._last)
        rows = db.execute(
            f"SELECT space, key, value, chk FROM ledger WHERE group_id = ? AND pid = ?{where} "
            "ORDER BY space, key LIMIT ?",
            (self._group_id, self.held.pid, *values, ENTRIES_AT_ONCE),
        ).fetchall()
        return rows, _find(db, self._group_id, self.held.pid)

    def _take(self, space: str, key: bytes, value: bytes, check: int) -> None:
        _verify_entry(self._group_id, self.held.pid, (space, key, value), check)
        if self._last is not None and (space, key) <= self._last:
            raise self._damage(f"entries of space {space} are not in their order")
        self._last = (space, key)
        self._sum += check
        if not self._spaces or space in self._spaces:
            self.entries.append((space, key, value))

    def _damage(self, what: str) -> RecordDamaged:
        return RecordDamaged(f"ledger of group id {self._group_id}, partition id {self.held.pid}: {what}; {_WAY_OUT}")


def _verify_entry(group_id: int, pid: int, entry: Entry, check: int) -> None:
    verify_row(f"ledger of group id {group_id}, space {entry[0]}", check, group_id, pid, *entry)


def ledger_of(db: apsw.Connection, group_id: int, pid: int, *, space: str | None = None) -> list[Entry]:
    """The group's ledger for the partition as it is now, in key order, of one space or of all.

    Whether entries are missing is not checked.
    """
    entries: list[Entry] = []
    for of, key, value, check in db.execute(
        "SELECT space, key, value, chk FROM ledger WHERE group_id = ?1 AND pid = ?2 AND (?3 IS NULL OR space = ?3) "
        "ORDER BY space, key",
        (group_id, pid, space),
    ):
        _verify_entry(group_id, pid, (of, key, value), check)
        entries.append((of, key, value))
    return entries


def whole_ledger(db: apsw.Connection, group_id: int, pid: int) -> int:
    """How many entries the group's ledger has for the partition, read at one moment.

    Raises:
        RecordDamaged: entries are missing, or are not what was written.
    """
    count = total = 0
    found: _Row | None = None
    with db:
        found = _find(db, group_id, pid)
        for space, key, value, check in db.execute(
            "SELECT space, key, value, chk FROM ledger WHERE group_id = ? AND pid = ?", (group_id, pid)
        ):
            _verify_entry(group_id, pid, (space, key, value), check)
            count += 1
            total += check
    if total != (0 if found is None else found.entries):
        msg = f"ledger of group id {group_id}, partition id {pid}: entries are missing or changed; {_WAY_OUT}"
        raise RecordDamaged(msg)
    return count


def decide_advance(db: apsw.Connection, request: Advance, *, tip: int) -> list[int] | Overtaken | Refusal:
    """The holes above the floor after the step, or why it is not applied; runs inside the committing transaction."""
    found = progress_of(db, request.group_id, request.pid)
    if found is None:
        return Overtaken(f"group id {request.group_id} never claimed partition id {request.pid}")
    row, steps = found
    move = decide.Move(request.epoch, request.before, request.after, request.holes, request.number, request.oldest)
    decided = decide.step(request.origin, (row.epoch, row.floor, steps), move, tip=tip)
    if isinstance(decided, decide.Fence):
        return Overtaken(decided.reason)
    return Refusal(decided.reason) if isinstance(decided, decide.Refused) else decided


def advance(
    db: apsw.Connection, request: Advance, first: list[int], *, holes: list[int], now_us: int, seen_us: int
) -> None:
    """Apply a decided step: ledger, progress and the record of the step. `seen_us` is the log's own time."""
    found = _find(db, request.group_id, request.pid)
    assert found is not None
    at = msgspec.structs.replace(
        found.progress, floor=request.after, holes=holes, oldest=request.oldest, seen_us=seen_us
    )
    entries = found.entries + sum(_change(db, request, write) for write in request.ledger)
    _write(db, _Row(at, found.steps + 1, entries))
    outputs = _pack([(b.pid, f, b.count) for b, f in zip(request.blocks, first, strict=True)])
    references = _pack(list(request.references))
    values = (at.group_id, at.pid, found.steps, at.epoch, request.before, request.after, outputs, references)
    db.execute(
        "INSERT INTO step(group_id, pid, number, epoch, before, after, outputs, refs, at_us, chk)"
        " VALUES(?,?,?,?,?,?,?,?,?,?)",
        (*values, now_us, row_check(*values, now_us)),
    )


def _change(db: apsw.Connection, request: Advance, write: tuple[str, bytes, bytes | None]) -> int:
    """Write or remove one entry of the ledger; by how much the sum of its checksums changes."""
    space, key, value = write
    where = (request.group_id, request.pid, space, key)
    row: Any = db.execute(
        "SELECT chk FROM ledger WHERE group_id = ? AND pid = ? AND space = ? AND key = ?", where
    ).fetchone()
    before = 0 if row is None else row[0]
    if value is None:
        db.execute("DELETE FROM ledger WHERE group_id = ? AND pid = ? AND space = ? AND key = ?", where)
        return -before
    check = row_check(*where, value)
    db.execute(
        "INSERT OR REPLACE INTO ledger(group_id, pid, space, key, value, chk) VALUES(?,?,?,?,?,?)",
        (*where, value, check),
    )
    return check - before


def steps_of(
    db: apsw.Connection, group_id: int, pid: int, *, start: int = 0, count_max: int = 1000
) -> list[StepRecord]:
    """Recorded steps of a group on a partition, from number `start` on, or from the first that is kept.

    Raises:
        RecordDamaged: one is not what was written, or is missing.
    """
    found = _find(db, group_id, pid)
    start = max(start, 0 if found is None else found.progress.kept)
    end = min(0 if found is None else found.steps, start + count_max)
    out: list[StepRecord] = []
    for row in db.execute(
        "SELECT group_id, pid, number, epoch, before, after, outputs, refs, at_us, chk FROM step "
        "WHERE group_id = ? AND pid = ? AND number >= ? ORDER BY number LIMIT ?",
        (group_id, pid, start, count_max),
    ):
        *values, check = row
        verify_row(f"step {values[2]} of group id {group_id}", check, *values)
        number, epoch, before, after, outputs, references, at_us = values[2:]
        out.append(
            StepRecord(group_id, pid, number, epoch, before, after, _ranges(outputs), _ranges(references), at_us)
        )
    if [step.number for step in out] != list(range(start, max(start, end))):
        msg = f"steps of group id {group_id}, partition id {pid}: some from {start} to {end} are missing; {_WAY_OUT}"
        raise RecordDamaged(msg)
    return out


def seen(db: apsw.Connection, row: ProgressRow, seen_us: int) -> None:
    """Note that a member of the group is here, though it commits nothing; inside the caller's transaction."""
    _change_row(db, msgspec.structs.replace(row, seen_us=seen_us))


def oldest_step_ends(db: apsw.Connection, group_id: int, pid: int) -> float:
    """Where the input of the oldest recorded step ends that is not the newest; infinity when there is none."""
    found = _find(db, group_id, pid)
    if found is None or found.progress.kept >= found.steps - 1:
        return inf
    return steps_of(db, group_id, pid, start=found.progress.kept, count_max=1)[0].after


def trim_steps(db: apsw.Connection, group_id: int, pid: int, *, begin: int, count_max: int) -> int:
    """Forget the oldest steps whose input lies below `begin`, never the newest; how many were.

    Raises:
        RecordDamaged: a step is not what was written; nothing is removed behind it.
    """
    found = _find(db, group_id, pid)
    if found is None:
        return 0
    kept = found.progress.kept
    records = steps_of(db, group_id, pid, start=kept, count_max=count_max)
    end = next((r.number for r in records if r.after > begin), kept + len(records))
    end = min(end, found.steps - 1)
    if end <= kept:
        return 0
    db.execute("DELETE FROM step WHERE group_id = ? AND pid = ? AND number < ?", (group_id, pid, end))
    _change_row(db, msgspec.structs.replace(found.progress, kept=end))
    return end - kept


def _change_row(db: apsw.Connection, row: ProgressRow) -> None:
    found = _find(db, row.group_id, row.pid)
    assert found is not None
    _write(db, msgspec.structs.replace(found, progress=row))


def begun(db: apsw.Connection) -> dict[int, list[int]]:
    """On which partitions each group has begun."""
    found: dict[int, list[int]] = {}
    for group_id, pid in db.execute(_KEYS):
        found.setdefault(group_id, []).append(pid)
    return found


_KEYS = "SELECT group_id, pid FROM progress ORDER BY group_id, pid"
_GROUPS_ON = "SELECT DISTINCT group_id FROM progress WHERE pid IN (SELECT value FROM json_each(?))"
_KEYS_ON = f"SELECT group_id, pid FROM progress WHERE group_id IN ({_GROUPS_ON}) ORDER BY group_id, pid"


def all_progress(db: apsw.Connection, *, pids: Sequence[int] | None = None) -> list[ProgressRow]:
    """Progress of every group on every partition; with `pids` only of groups that have begun on one of these.

    Raises:
        RecordDamaged: a row fails its checksum.
    """
    found = db.execute(_KEYS) if pids is None else db.execute(_KEYS_ON, (dumps(list(pids)),))
    keys: list[Any] = found.fetchall()
    rows = [progress_of(db, group_id, pid) for group_id, pid in keys]
    if None in rows:
        msg = "a progress row vanished while it was read; expected none to be removed"
        raise RecordDamaged(msg)
    return [row[0] for row in rows if row is not None]


def groups_on(db: apsw.Connection, pids: Sequence[int]) -> list[int]:
    """The ids of the groups that have begun on one of these partitions."""
    return sorted(group_id for (group_id,) in db.execute(_GROUPS_ON, (dumps(list(pids)),)))
