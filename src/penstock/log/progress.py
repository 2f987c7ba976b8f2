"""Groups' progress, recorded steps and ledgers: who owns a partition, how far it is, what it remembers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw
import msgspec

from penstock.errors import RecordDamaged
from penstock.log import decide
from penstock.log.api import Advance, Claim, Held, Overtaken, ProgressRow, Range, Refusal, StepRecord
from penstock.log.checks import row_check, verify_row

_pack = msgspec.msgpack.Encoder().encode
_ints = msgspec.msgpack.Decoder(list[int]).decode
_ranges = msgspec.msgpack.Decoder(list[Range]).decode


def progress_of(db: apsw.Connection, group_id: int, pid: int) -> tuple[ProgressRow, int] | None:
    """The group's progress on one partition and its number of steps; None before the first claim."""
    row = db.execute(
        "SELECT epoch, floor, holes, steps, chk FROM progress WHERE group_id = ? AND pid = ?", (group_id, pid)
    ).fetchone()
    if row is None:
        return None
    epoch, floor, holes, steps, check = row
    verify_row(f"progress of group id {group_id}, partition id {pid}", check, group_id, pid, epoch, floor, holes, steps)
    return ProgressRow(group_id, pid, epoch, floor, _ints(holes)), steps


def _write(db: apsw.Connection, row: ProgressRow, steps: int) -> None:
    holes = _pack(list(row.holes))
    check = row_check(row.group_id, row.pid, row.epoch, row.floor, holes, steps)
    db.execute(
        "INSERT INTO progress(group_id, pid, epoch, floor, holes, steps, chk) VALUES(?,?,?,?,?,?,?) "
        "ON CONFLICT(group_id, pid) DO UPDATE SET epoch = excluded.epoch, floor = excluded.floor, "
        "holes = excluded.holes, steps = excluded.steps, chk = excluded.chk",
        (row.group_id, row.pid, row.epoch, row.floor, holes, steps, check),
    )


def begin(db: apsw.Connection, group_id: int, pid: int, *, floor: int) -> None:
    """Where a new group starts on the partition; nobody owns it yet."""
    _write(db, ProgressRow(group_id, pid, 0, floor, ()), 0)


def claim(db: apsw.Connection, request: Claim) -> list[Held]:
    """Raise every epoch, and hand out what the group has on each partition."""
    out: list[Held] = []
    for pid in request.pids:
        found = progress_of(db, request.group_id, pid)
        row, steps = found if found is not None else (ProgressRow(request.group_id, pid, 0, 0, ()), 0)
        row = msgspec.structs.replace(row, epoch=row.epoch + 1)
        _write(db, row, steps)
        ledger = ledger_of(db, request.group_id, pid, spaces=request.spaces)
        out.append(Held(pid, row.epoch, row.floor, row.holes, ledger))
    return out


def ledger_of(
    db: apsw.Connection, group_id: int, pid: int, *, spaces: Sequence[str] = ()
) -> list[tuple[str, bytes, bytes]]:
    """Entries (space, key, value) of the group's ledger for the partition, in key order; of all spaces by default."""
    entries: list[tuple[str, bytes, bytes]] = []
    chosen = f" AND space IN ({','.join('?' * len(spaces))})" if spaces else ""
    for space, key, value, check in db.execute(
        f"SELECT space, key, value, chk FROM ledger WHERE group_id = ? AND pid = ?{chosen} ORDER BY space, key",
        (group_id, pid, *spaces),
    ):
        verify_row(f"ledger of group id {group_id}, space {space}", check, group_id, pid, space, key, value)
        entries.append((space, key, value))
    return entries


def decide_advance(db: apsw.Connection, request: Advance, *, tip: int) -> list[int] | Overtaken | Refusal:
    """The holes above the floor after the step, or why it is not applied; runs inside the committing transaction."""
    found = progress_of(db, request.group_id, request.pid)
    if found is None:
        return Overtaken(f"group id {request.group_id} never claimed partition id {request.pid}")
    row = found[0]
    move = decide.Move(request.epoch, request.before, request.after, request.holes)
    decided = decide.step(request.origin, (row.epoch, row.floor), move, tip=tip)
    if isinstance(decided, decide.Fence):
        return Overtaken(decided.reason)
    return Refusal(decided.reason) if isinstance(decided, decide.Refused) else decided


def advance(db: apsw.Connection, request: Advance, first: list[int], *, holes: list[int], now_us: int) -> None:
    """Apply a decided step: ledger, progress and the record of the step."""
    found = progress_of(db, request.group_id, request.pid)
    assert found is not None
    row, steps = found
    for space, key, value in request.ledger:
        if value is None:
            db.execute(
                "DELETE FROM ledger WHERE group_id = ? AND pid = ? AND space = ? AND key = ?",
                (request.group_id, request.pid, space, key),
            )
        else:
            check = row_check(request.group_id, request.pid, space, key, value)
            db.execute(
                "INSERT OR REPLACE INTO ledger(group_id, pid, space, key, value, chk) VALUES(?,?,?,?,?,?)",
                (request.group_id, request.pid, space, key, value, check),
            )
    _write(db, msgspec.structs.replace(row, floor=request.after, holes=holes), steps + 1)
    outputs = _pack([(b.pid, f, b.count) for b, f in zip(request.blocks, first, strict=True)])
    references = _pack(list(request.references))
    values = (request.group_id, request.pid, steps, row.epoch, request.before, request.after, outputs, references)
    db.execute(
        "INSERT INTO step(group_id, pid, number, epoch, before, after, outputs, refs, at_us, chk)"
        " VALUES(?,?,?,?,?,?,?,?,?,?)",
        (*values, now_us, row_check(*values, now_us)),
    )


def steps_of(
    db: apsw.Connection, group_id: int, pid: int, *, start: int = 0, count_max: int = 1000
) -> list[StepRecord]:
    """Recorded steps of a group on a partition, from number `start` on."""
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
    return out


def all_progress(db: apsw.Connection) -> list[ProgressRow]:
    """Progress of every group on every partition.

    Raises:
        RecordDamaged: a row fails its checksum.
    """
    keys: list[Any] = db.execute("SELECT group_id, pid FROM progress ORDER BY group_id, pid").fetchall()
    rows = [progress_of(db, group_id, pid) for group_id, pid in keys]
    if None in rows:
        msg = "a progress row vanished while it was read; expected none to be removed"
        raise RecordDamaged(msg)
    return [row[0] for row in rows if row is not None]
