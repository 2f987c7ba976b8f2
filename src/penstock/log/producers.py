"""Producers and their sequences: what was published once is answered, not stored, the second time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw
import msgspec

from penstock.errors import RecordDamaged
from penstock.log import blocks, catalogue, decide, meta, placed
from penstock.log.api import Append, Appended, Begin, Begun, Block, ProducerRow, Range, Refusal, Span
from penstock.log.checks import row_check, verify_row

SEQUENCES_KEPT = 100_000
PRODUCER_EXPIRES_US = 30 * 86_400 * 1_000_000
_SEEN_EVERY_US = 60 * 1_000_000
_ROWS_AT_ONCE = 1000
_GONE = -1
_BEGUN = -1  # the number of the row that says that an epoch has begun
_WAY_OUT = "nothing was used or changed: restore a backup, or run `penstock doctor`"

_CLOCK = "producers"  # the key in `meta` of the time by which producers age
AGED_AT_ONCE_US = 86_400 * 1_000_000

_pack = msgspec.msgpack.Encoder().encode
_ranges = msgspec.msgpack.Decoder(list[Range]).decode
_clock = msgspec.msgpack.Decoder(tuple[int, int, int]).decode


def behind(db: apsw.Connection, *, now_us: int) -> int:
    """How far the time by which producers age lies behind the wall clock; notes that the latter is `now_us`.

    That time never goes back, and goes on by a day at most between two looks: a clock that is set right by years makes
    nobody old, and one that is set back gives no epoch twice.

    Raises:
        RecordDamaged: what was noted is not what was written.
    """
    looked, lag = noted(db) or (now_us, 0)
    passed = now_us - looked
    lag += min(passed, 0) + max(passed - AGED_AT_ONCE_US, 0)
    meta.put(db, {_CLOCK: _pack((now_us, lag, row_check(_CLOCK, now_us, lag)))})
    return lag


def noted(db: apsw.Connection) -> tuple[int, int] | None:
    """What the wall clock said at the last look, and how far the time by which producers age lay behind it then.

    Raises:
        RecordDamaged: it is not what was written.
    """
    value = meta.get(db, _CLOCK)
    return None if value is None else _noted(value)


def _noted(value: Any) -> tuple[int, int]:
    try:
        looked, lag, check = _clock(value)
    except (msgspec.MsgspecError, TypeError) as exc:
        msg = f"the time by which producers age is {value!r}; {_WAY_OUT}"
        raise RecordDamaged(msg) from exc
    verify_row("the time by which producers age", check, _CLOCK, looked, lag)
    return looked, lag


class Known(msgspec.Struct):
    """A producer as it is stored now: its row, and its newest publish."""

    identity: int
    kept: int
    seen_us: int
    newest: ProducerRow | None

    def fresh(self, *, kept: bool, now_us: int) -> bool:
        """Whether its row already says all that a publish at `now_us` has it say."""
        return abs(now_us - self.seen_us) <= _SEEN_EVERY_US and self.kept >= kept


def known(db: apsw.Connection, name: str, *, kept: bool, now_us: int) -> Known:
    """The producer; it gets its number at its first publish. One that ever sent a note is `kept` for good."""
    row = _row(db, name)
    if row is None:
        db.execute("INSERT INTO producer(name, kept, seen_us, chk) VALUES(?, ?, ?, 0)", (name, kept, now_us))
        found = Known(db.last_insert_rowid(), int(kept), now_us, None)
    else:
        found = Known(row[0], row[1], row[2], None)
        verify_row(f"producer {name}", row[3], found.identity, name, found.kept, found.seen_us)
        found.newest = _newest(db, found.identity, name)
        if found.fresh(kept=kept, now_us=now_us):
            return found
        found.kept, found.seen_us = int(bool(found.kept or kept)), now_us
    check = row_check(found.identity, name, found.kept, now_us)
    values = (found.kept, now_us, check, found.identity)
    db.execute("UPDATE producer SET kept = ?, seen_us = ?, chk = ? WHERE id = ?", values)
    return found


def _row(db: apsw.Connection, name: str) -> tuple[int, int, int, int] | None:
    """The producer's row (id, kept, seen_us, chk); None when there is none.

    The index is not believed when it knows none: a flipped bit in it would make all that was stored look new.
    """
    found = db.execute("SELECT id, kept, seen_us, chk FROM producer WHERE name = ?", (name,)).fetchone()
    if found is None and db.execute("SELECT 1 FROM producer NOT INDEXED WHERE name = ?", (name,)).fetchone():
        msg = f"producer {name}: its row is there, and the index of names does not lead to it; {_WAY_OUT}"
        raise RecordDamaged(msg)
    return found


def newest(db: apsw.Connection, name: str) -> ProducerRow | None:
    """The newest stored publish of a producer; None when it never published, or is forgotten."""
    row = _row(db, name)
    if row is None:
        return None
    verify_row(f"producer {name}", row[3], row[0], name, row[1], row[2])
    return _newest(db, row[0], name)


def _newest(db: apsw.Connection, producer: int, name: str) -> ProducerRow | None:
    last = db.execute(
        "SELECT epoch, number, content, ranges, note, chk FROM sequence WHERE producer_id = ? "
        "ORDER BY epoch DESC, number DESC LIMIT 1",
        (producer,),
    ).fetchone()
    if last is None:
        return None
    epoch, number, content, ranges, note, check = last
    verify_row(f"producer {name}, sequence {number}", check, producer, epoch, number, content, ranges, note)
    return ProducerRow(name, epoch, number, note)


def notes(db: apsw.Connection, name: str, *, epoch: int, start: int, count: int) -> list[tuple[int, bytes]]:
    """The notes of a producer's remembered sequences from `start` on, ascending, at most `count`."""
    row = _row(db, name)
    if row is None:
        return []
    found: list[tuple[int, bytes]] = []
    for number, content, ranges, note, check in db.execute(
        "SELECT number, content, ranges, note, chk FROM sequence WHERE producer_id = ? AND epoch = ? AND number >= ? "
        "ORDER BY number LIMIT ?",
        (row[0], epoch, start, count),
    ):
        verify_row(f"producer {name}, sequence {number}", check, row[0], epoch, number, content, ranges, note)
        found.append((number, note))
    return found


class SequenceRow(msgspec.Struct, frozen=True):
    """A remembered publish, and where its blocks lie."""

    epoch: int
    number: int
    ranges: Sequence[Range]


def names(db: apsw.Connection) -> list[str]:
    """Every producer that is remembered.

    Raises:
        RecordDamaged: one is not what was written.
    """
    select = "SELECT id, name, kept, seen_us, chk FROM producer WHERE kept != ?"
    rows: list[Any] = db.execute(select, (_GONE,)).fetchall()
    for identity, name, kept, seen_us, check in rows:
        verify_row(f"producer {name}", check, identity, name, kept, seen_us)
    return [row[1] for row in rows]


def sequences(db: apsw.Connection, name: str, *, after: tuple[int, int] | None, count: int) -> list[SequenceRow]:
    """What is remembered of a producer behind this (epoch, number), in order, at most `count`.

    Raises:
        RecordDamaged: one is not what was written.
    """
    row = _row(db, name)
    if row is None:
        return []
    found: list[SequenceRow] = []
    for epoch, number, content, ranges, note, check in db.execute(
        "SELECT epoch, number, content, ranges, note, chk FROM sequence WHERE producer_id = ? AND (epoch, number) > "
        "(?, ?) ORDER BY epoch, number LIMIT ?",
        (row[0], *(after or (-1, -2)), count),
    ):
        verify_row(f"producer {name}, sequence {number}", check, row[0], epoch, number, content, ranges, note)
        found.append(SequenceRow(epoch, number, _ranges(ranges)))
    return found


def decide_append(db: apsw.Connection, producer: Known, request: Append) -> Appended | Refusal | None:
    """None when the sequence is the next one; else the answer of a repetition, or why it is refused.

    A repetition is answered for as long as it is remembered, whatever epochs have begun since.
    """
    last = producer.newest
    found = None if last is None else (last.epoch, last.sequence)
    meant = decide.sequence(request.producer, found, epoch=request.epoch, number=request.sequence)
    if isinstance(meant, decide.Refused):
        return _refusal(meant)
    if meant == "next":
        return None
    assert last is not None
    return _repeated(db, producer.identity, request, newest=last)


def _refusal(refused: decide.Refused) -> Refusal:
    return Refusal(refused.reason, refused.conflict)


def _repeated(db: apsw.Connection, producer: int, request: Append, *, newest: ProducerRow) -> Appended | Refusal:
    row = db.execute(
        "SELECT content, ranges, note, chk FROM sequence WHERE producer_id = ? AND epoch = ? AND number = ?",
        (producer, request.epoch, request.sequence),
    ).fetchone()
    if row is None:
        return _missing(db, producer, request, newest=newest)
    content, ranges, note, check = row
    named = f"producer {request.producer}, sequence {request.sequence}"
    verify_row(named, check, producer, request.epoch, request.sequence, content, ranges, note)
    places = _ranges(ranges)
    if content != content_of(request.blocks) and not _lies_there(db, request.blocks, places):
        return _refusal(decide.conflict(request.producer, request.epoch, request.sequence))
    return Appended([first for _, first, _ in places], repeated=True)


def _missing(db: apsw.Connection, producer: int, request: Append, *, newest: ProducerRow) -> Refusal:
    """The answer to a sequence that lies behind and has no row.

    Raises:
        RecordDamaged: it must have one.
    """
    if request.epoch == newest.epoch and request.sequence > newest.sequence - SEQUENCES_KEPT:
        msg = f"producer {request.producer}, sequence {request.sequence}: the row is gone; {_WAY_OUT}"
        raise RecordDamaged(msg)
    found: Any = db.execute(
        "SELECT max(number) FROM sequence WHERE producer_id = ? AND epoch = ?", (producer, request.epoch)
    ).fetchone()
    return _refusal(
        decide.missing(request.producer, newest.epoch, epoch=request.epoch, number=request.sequence, last=found[0])
    )


def begin(db: apsw.Connection, request: Begin, *, now_us: int) -> Begun | Refusal:
    """Begin the producer's next epoch: from now on nothing new is stored under a lower one. Its note stays."""
    producer = known(db, request.producer, kept=False, now_us=now_us)
    last = producer.newest
    newest = None if last is None else last.epoch
    epoch = decide.new_epoch(request.producer, newest, after=request.after, now_us=now_us)
    if isinstance(epoch, decide.Refused):
        return _refusal(epoch)
    _insert(db, (producer.identity, epoch, _BEGUN, 0, _pack([]), b"" if last is None else last.note))
    _forget_oldest(db, producer.identity)
    return Begun(epoch)


def _forget_oldest(db: apsw.Connection, producer: int) -> None:
    """Keep only the newest sequences of all epochs together; within one epoch `remember` sees to it."""
    db.execute(
        "DELETE FROM sequence WHERE producer_id = ? AND (epoch, number) <= (SELECT epoch, number FROM sequence "
        "WHERE producer_id = ? ORDER BY epoch DESC, number DESC LIMIT 1 OFFSET ?)",
        (producer, producer, SEQUENCES_KEPT),
    )


def content_of(new: Sequence[Block]) -> int:
    """A checksum of what is published: of the encoded bytes, and where they are to go.

    Equal checksums mean equal content. Unequal ones need not mean other content: another version of the compression
    library encodes the same events in other bytes. Then what was stored is decoded and compared (`_lies_there`).
    """
    return row_check([(b.pid, b.count, b.time_min_us, b.time_max_us, b.crc) for b in new])


def _lies_there(db: apsw.Connection, new: Sequence[Block], places: Sequence[Range]) -> bool:
    """Whether the events of these blocks are the ones that lie at `places`."""
    if [(b.pid, b.count) for b in new] != [(pid, count) for pid, _, count in places]:
        return False
    for block, (pid, first, count) in zip(new, places, strict=True):
        span = Span(pid, first, first + count)
        stored = placed.read(db, span, events_max=count, bytes_max=1 << 40)
        if len(stored) != 1 or (stored[0].first, stored[0].count) != (first, count):
            return False
        was = stored[0]
        if (was.time_min_us, was.time_max_us) != (block.time_min_us, block.time_max_us):
            return False
        if not blocks.same(_decoded(db, was.data, was.schema_id), _decoded(db, block.data, block.schema_id)):
            return False
    return True


def _decoded(db: apsw.Connection, data: bytes, schema_id: int) -> blocks.Payload:
    schema = catalogue.schema(db, schema_id) if schema_id else None
    return blocks.decode(data, arrow=None if schema is None else schema[1])


def remember(db: apsw.Connection, producer: Known, request: Append, first: list[int]) -> None:
    """Record where the sequence's blocks lie, and forget what is older than the horizon."""
    ranges = _pack([(b.pid, f, b.count) for b, f in zip(request.blocks, first, strict=True)])
    identity, epoch, sequence = producer.identity, request.epoch, request.sequence
    _insert(db, (identity, epoch, sequence, content_of(request.blocks), ranges, request.note))
    producer.newest = ProducerRow(request.producer, epoch, sequence, request.note)
    if sequence == 0:
        _forget_oldest(db, identity)
    elif sequence >= SEQUENCES_KEPT:
        db.execute(
            "DELETE FROM sequence WHERE producer_id = ? AND epoch = ? AND number = ?",
            (identity, epoch, sequence - SEQUENCES_KEPT),
        )


def _insert(db: apsw.Connection, values: tuple[int, int, int, int, bytes, bytes]) -> None:
    db.execute(
        "INSERT INTO sequence(producer_id, epoch, number, content, ranges, note, chk) VALUES(?,?,?,?,?,?,?)",
        (*values, row_check(*values)),
    )


def expire(db: apsw.Connection, *, now_us: int) -> int:
    """Forget a producer unseen for the stated time, then its sequences, some at a time; how many rows were touched.

    Producers that ever sent a note are kept: it may be all that tells a source where it stopped reading.
    """
    row: Any = db.execute("SELECT id FROM producer WHERE kept = ? LIMIT 1", (_GONE,)).fetchone()
    if row is not None:
        return _remove(db, row[0])
    row = db.execute(
        "SELECT id FROM producer WHERE kept = 0 AND seen_us < ? ORDER BY seen_us LIMIT 1",
        (now_us - PRODUCER_EXPIRES_US,),
    ).fetchone()
    if row is None:
        return 0
    name = f"\0{row[0]}"  # a name nobody can have: from now on the producer is a new one
    check = row_check(row[0], name, _GONE, 0)
    db.execute(
        "UPDATE producer SET name = ?, kept = ?, seen_us = 0, chk = ? WHERE id = ?", (name, _GONE, check, row[0])
    )
    return 1


def _remove(db: apsw.Connection, producer: int) -> int:
    old = db.execute(
        "SELECT epoch, number FROM sequence WHERE producer_id = ? LIMIT ?", (producer, _ROWS_AT_ONCE)
    ).fetchall()
    for epoch, number in old:
        db.execute("DELETE FROM sequence WHERE producer_id = ? AND epoch = ? AND number = ?", (producer, epoch, number))
    if len(old) < _ROWS_AT_ONCE:
        db.execute("DELETE FROM producer WHERE id = ?", (producer,))
    return len(old) + 1
