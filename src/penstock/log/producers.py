"""Producers and their sequences: what was published once is answered, not stored, the second time."""

from __future__ import annotations

import apsw
import msgspec

from penstock.log.api import Append, Appended, Range, Refusal
from penstock.log.checks import row_check, verify_row

SEQUENCES_KEPT = 100_000
PRODUCER_EXPIRES_US = 30 * 86_400 * 1_000_000
_SEEN_EVERY_US = 60 * 1_000_000

_pack = msgspec.msgpack.Encoder().encode
_ranges = msgspec.msgpack.Decoder(list[Range]).decode


def producer_id(db: apsw.Connection, name: str, *, now_us: int) -> int:
    """The producer's number, given at its first publish."""
    row = db.execute("SELECT id, seen_us FROM producer WHERE name = ?", (name,)).fetchone()
    if row is None:
        db.execute("INSERT INTO producer(name, seen_us) VALUES(?, ?)", (name, now_us))
        return db.last_insert_rowid()
    if abs(now_us - row[1]) > _SEEN_EVERY_US:
        db.execute("UPDATE producer SET seen_us = ? WHERE id = ?", (now_us, row[0]))
    return row[0]


def decide(db: apsw.Connection, producer: int, request: Append) -> Appended | Refusal | None:
    """None when the sequence is the next one; else the answer of a repetition, or why it is refused."""
    last = db.execute(
        "SELECT epoch, number FROM sequence WHERE producer_id = ? ORDER BY epoch DESC, number DESC LIMIT 1",
        (producer,),
    ).fetchone()
    if last is None:
        expected = 0
    elif request.epoch < last[0]:
        return Refusal(
            f"producer {request.producer}: epoch {request.epoch} is over, the log has seen {last[0]}; "
            "a newer client uses this name, this one must stop"
        )
    else:
        expected = last[1] + 1 if request.epoch == last[0] else 0
    if request.sequence == expected:
        return None
    if request.sequence > expected:
        return Refusal(
            f"producer {request.producer}: sequence {request.sequence} where {expected} was expected; "
            "an earlier publish did not arrive, publish it first"
        )
    return _repeated(db, producer, request)


def _repeated(db: apsw.Connection, producer: int, request: Append) -> Appended | Refusal:
    row = db.execute(
        "SELECT content, ranges, chk FROM sequence WHERE producer_id = ? AND epoch = ? AND number = ?",
        (producer, request.epoch, request.sequence),
    ).fetchone()
    where = f"producer {request.producer}, epoch {request.epoch}, sequence {request.sequence}"
    if row is None:
        return Refusal(f"{where}: older than the {SEQUENCES_KEPT} sequences the log remembers; it was stored then")
    content, ranges, check = row
    verify_row(where, check, producer, request.epoch, request.sequence, content, ranges)
    if content != request.content:
        return Refusal(f"{where}: was published with other content; a sequence names one content, take the next number")
    return Appended([first for _, first, _ in _ranges(ranges)], repeated=True)


def remember(db: apsw.Connection, producer: int, request: Append, first: list[int]) -> None:
    """Record where the sequence's blocks lie, and forget what is older than the horizon."""
    ranges = _pack([(b.pid, f, b.count) for b, f in zip(request.blocks, first, strict=True)])
    check = row_check(producer, request.epoch, request.sequence, request.content, ranges)
    db.execute(
        "INSERT INTO sequence(producer_id, epoch, number, content, ranges, chk) VALUES(?,?,?,?,?,?)",
        (producer, request.epoch, request.sequence, request.content, ranges, check),
    )
    if request.sequence >= SEQUENCES_KEPT:
        db.execute(
            "DELETE FROM sequence WHERE producer_id = ? AND epoch = ? AND number = ?",
            (producer, request.epoch, request.sequence - SEQUENCES_KEPT),
        )


def expire(db: apsw.Connection, *, now_us: int, producers_max: int = 100) -> int:
    """Forget some producers unseen for the stated time, with their sequences; how many were forgotten."""
    gone = db.execute(
        "SELECT id FROM producer WHERE seen_us < ? LIMIT ?", (now_us - PRODUCER_EXPIRES_US, producers_max)
    ).fetchall()
    for (identity,) in gone:
        db.execute("DELETE FROM sequence WHERE producer_id = ?", (identity,))
        db.execute("DELETE FROM producer WHERE id = ?", (identity,))
    return len(gone)
