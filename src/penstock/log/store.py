"""The log's transactions over one SQLite connection: the same SQL in reality, in tests and in simulation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

import apsw
import msgspec

from penstock.errors import ConfigError, RecordDamaged
from penstock.log import ages, ddl, ids, meta, migrate, placed, producers, progress
from penstock.log.api import Advance, Append, Appended, Begin, Claim, Claimed, Refusal, Request, Result
from penstock.system.points import reached
from penstock.system.ports import System

T = TypeVar("T")
CREATED = 1
"""The commit counter of a log that was just made: its creation is the first commit."""
_LOOK_EVERY_US = 60 * 1_000_000
_PRODUCERS_HELD_MAX = 1000
_INCARNATIONS_APART = 1 << 20


FORMATS = (*migrate.STEPS, ddl.FORMAT_VERSION)

Check = Callable[[int], None]


class CommitFailed(Exception):
    """COMMIT itself failed: whether the transaction is stored is known only when the file is opened again."""


class Identity(msgspec.Struct, frozen=True):
    """Which log this is, and which of its histories: offsets belong to an incarnation."""

    log: str
    incarnation: int
    format_version: int


class Store:
    """Reads and writes the tables through `db`. Owned by one thread at a time; the caller owns the connection.

    Where partitions end and producers stand is kept from one transaction to the next, and believed for as long as the
    commit counter says that nobody else has written.
    """

    def __init__(self, db: apsw.Connection, monotonic_s: Callable[[], float] | None = None) -> None:
        self.db = db
        self._monotonic_s = monotonic_s
        self._after = 0
        self._tips: dict[int, placed.Tip] = {}
        self._producers: dict[str, producers.Known] = {}
        self._looked_us: int | None = None
        self._behind_us = 0
        self._looked_s = 0.0
        self._ahead_us = 0
        self._expiring = False

    def create(self, log: str, *, now_us: int) -> None:
        """Make the tables of a new, empty log in one transaction."""
        with self.db:
            self.db.execute(ddl.TABLES)
            who = {"log": log, "incarnation": 1, "format": ddl.FORMAT_VERSION, "created_us": now_us}
            meta.put(self.db, who)
            placed.begin_counting(self.db, CREATED)

    def identity(self) -> Identity:
        """Which log this is.

        Raises:
            ConfigError: the file is not a Penstock log, or of another format version.
            RecordDamaged: what it says of itself is not what was written.
        """
        try:
            rows = meta.known(self.db)
        except apsw.SQLError as exc:
            msg = "the file is a SQLite database but not a Penstock log; name another directory"
            raise ConfigError(msg, path="log.path") from exc
        version = rows.get("format")
        if version not in FORMATS:
            msg = (
                f"log format {version}; this Penstock reads formats {min(FORMATS)} to {ddl.FORMAT_VERSION}: use the "
                "version that wrote it"
            )
            raise ConfigError(msg, path="log.path")
        log, incarnation = rows.get("log"), rows.get("incarnation")
        if not isinstance(log, str) or not isinstance(incarnation, int):
            msg = f"the log's identity is log {log!r}, incarnation {incarnation!r}: damaged; restore a backup"
            raise RecordDamaged(msg)
        return Identity(log, incarnation, version)

    def migrate(self, version: int) -> int:
        """Bring the tables of format `version` to the newest one in one transaction; the commit counter after it.

        Raises:
            CorruptionError: a row is not what was written; nothing was changed.
        """
        return self._transaction(lambda: migrate.migrate(self.db, version), None)[1]

    def commits(self) -> int:
        """How many transactions this log holds: what the witness is compared with."""
        return placed.commits(self.db)

    def raise_incarnation(self, system: System, *, above: int) -> Identity:
        """Start another history: offsets recorded elsewhere under an old one are refused from now on.

        By how much is chance: what is begun twice from one copy are two histories, whatever the clock says.
        """
        step = system.random.randint(1, _INCARNATIONS_APART)
        with self.db:
            meta.put(self.db, {"incarnation": max(meta.get(self.db, "incarnation"), above) + step})
        return self.identity()

    def apply(
        self, requests: Sequence[Request], *, now_us: int, check: Check | None = None
    ) -> tuple[list[Result], int]:
        """All requests in one transaction, in order; a refused one stores nothing and harms no other.

        Args:
            requests: what to do.
            now_us: the time that is recorded.
            check: called with the commit counter inside the transaction, before anything is changed; may raise.

        Returns:
            One result per request, and the commit counter after it. Durable on return at the connection's level.

        Raises:
            CommitFailed: it is unknown whether it was stored.
            apsw.Error, PenstockError: nothing was stored.
        """

        def work() -> list[Result]:
            self._look_at_clock(now_us)
            results = [self._one(request, now_us=now_us) for request in requests]
            if self._expiring:
                self._producers.clear()
                self._expiring = producers.expire(self.db, now_us=now_us - self._behind_us) > 0
            return results

        return self._transaction(work, check)

    def _look_at_clock(self, now_us: int) -> None:
        """Learn now and then, and whenever the clock jumps, by how much producers age less than it says."""
        monotonic_s = 0.0 if self._monotonic_s is None else self._monotonic_s()
        # Where nobody has looked for a while, a clock that was set back by as long shows a time that seems right.
        quiet_us = (monotonic_s - self._looked_s) * 1_000_000
        passed_us = None if self._looked_us is None else now_us - self._looked_us
        if passed_us is None or not 0 <= passed_us <= _LOOK_EVERY_US or quiet_us > _LOOK_EVERY_US:
            self._looked_s = monotonic_s
            self._behind_us = producers.behind(self.db, now_us=now_us)
            self._ahead_us = self.look_at_clocks(now_us).lag_us
            self._looked_us = now_us
            self._expiring = True

    def look_at_clocks(self, now_us: int) -> ages.Ages:
        """Note what the clocks say, inside a transaction; see `ages`."""
        monotonic_us = None if self._monotonic_s is None else int(self._monotonic_s() * 1_000_000)
        return ages.look(self.db, now_us=now_us, monotonic_us=monotonic_us)

    def write(self, work: Callable[[apsw.Connection], T], *, check: Check | None = None) -> tuple[T, int]:
        """Run a declaration in a transaction of its own; see `apply`."""

        def declare() -> T:
            self._forget()
            return work(self.db)

        return self._transaction(declare, check)

    def _transaction(self, work: Callable[[], T], check: Check | None) -> tuple[T, int]:
        self.roll_back()  # what an interrupted caller has left
        try:
            self.db.execute("BEGIN IMMEDIATE")
            before = self.commits()
            if check is not None:
                check(before)
            if before != self._after:  # somebody else has committed since
                self._forget()
            self._after = 0  # until it is stored: whatever an interrupt leaves here is believed by nobody
            result = work()
            placed.count(self.db, before + 1)
            reached("log.commit")
            self._commit()
        except BaseException:
            self._forget()
            with suppress(apsw.Error):  # the error that brought us here is the one to tell of
                self.roll_back()
            raise
        self._after = before + 1
        reached("log.committed")
        return result, before + 1

    def _forget(self) -> None:
        """Let go of what the last transaction left: it is read again."""
        self._after = 0
        self._tips.clear()
        self._producers.clear()

    def roll_back(self) -> None:
        """Undo what an interrupted caller has begun; nothing when nothing is."""
        if self.db.in_transaction:  # SQLite rolls some errors back by itself, a full disk for one
            self.db.execute("ROLLBACK")

    def _commit(self) -> None:
        """COMMIT. When the disk is full its last page, the one that makes it valid, is not written."""
        try:
            self.db.execute("COMMIT")
        except (apsw.BusyError, apsw.FullError):
            raise
        except apsw.Error as exc:
            msg = f"{type(exc).__name__}: {exc}"
            raise CommitFailed(msg) from exc

    def _one(self, request: Request, *, now_us: int) -> Result:
        match request:
            case Append():
                return self._append(request, now_us=now_us)
            case Begin():
                self._producers.pop(request.producer, None)
                return producers.begin(self.db, request, now_us=now_us - self._behind_us)
            case Advance():
                return self._advance(request, now_us=now_us)
            case Claim():
                return Claimed(progress.claim(self.db, request, seen_us=now_us - self._ahead_us))

    def _append(self, request: Append, *, now_us: int) -> Result:
        producer = self._producer(request, now_us=now_us - self._behind_us)
        decided = producers.decide_append(self.db, producer, request)
        if decided is not None:
            return decided
        reason = placed.room(self.db, request.blocks, self._tips)
        if reason:
            return Refusal(reason)
        unique = any(block.ids is not None for block in request.blocks)
        refusal = ids.refuse(self.db, request.blocks) if unique else None
        if refusal is not None:
            return refusal
        origin = f"{request.producer}/{request.epoch}/{request.sequence}"
        first = placed.place(self.db, request.blocks, self._tips, origin=origin, now_us=now_us)
        if unique:
            ids.remember(self.db, request.blocks, first, now_us=now_us)
        producers.remember(self.db, producer, request, first)
        return Appended(first)

    def _producer(self, request: Append, *, now_us: int) -> producers.Known:
        """The publish's producer, read unless it is known from the last transaction."""
        kept, held = bool(request.note), self._producers.get(request.producer)
        if held is not None and held.fresh(kept=kept, now_us=now_us):
            return held
        if len(self._producers) >= _PRODUCERS_HELD_MAX:
            self._producers.clear()
        found = producers.known(self.db, request.producer, kept=kept, now_us=now_us)
        self._producers[request.producer] = found
        return found

    def _advance(self, request: Advance, *, now_us: int) -> Result:
        holes = progress.decide_advance(self.db, request, tip=placed.next_offset(self.db, request.pid))
        if not isinstance(holes, list):
            return holes
        reason = placed.room(self.db, request.blocks, self._tips)
        if reason:
            return Refusal(reason)
        first = placed.place(self.db, request.blocks, self._tips, origin=request.origin, now_us=now_us)
        seen_us = now_us - self._ahead_us
        progress.advance(self.db, request, first, holes=holes, now_us=now_us, seen_us=seen_us)
        return Appended(first)


__all__ = ["CREATED", "Check", "CommitFailed", "Identity", "Store"]
