"""The log's transactions over one SQLite connection: the same SQL in reality, in tests and in simulation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import apsw
import msgspec

from penstock.errors import ConfigError, CorruptionError, LogTruncated
from penstock.log import catalogue, ddl, placed, producers, progress
from penstock.log.api import Advance, Append, Appended, Claim, Claimed, Refusal, Request, Result
from penstock.log.checks import row_check, verify_row
from penstock.system.points import reached


T = TypeVar("T")


class Identity(msgspec.Struct, frozen=True):
    """Which log this is, and which of its histories: offsets belong to an incarnation."""

    log: str
    incarnation: int
    format_version: int


class Store:
    """Reads and writes the tables through `db`. Owned by one thread at a time; the caller owns the connection."""

    def __init__(self, db: apsw.Connection) -> None:
        self.db = db

    def create(self, log: str, *, now_us: int) -> None:
        """Make the tables of a new, empty log in one transaction."""
        with self.db:
            self.db.execute(ddl.TABLES)
            rows = [("log", log), ("incarnation", 1), ("format", ddl.FORMAT_VERSION), ("created_us", now_us)]
            self.db.executemany("INSERT INTO meta(key, value) VALUES(?, ?)", rows)
            self.db.execute(
                "INSERT INTO partition(pid, topic_id, number, next, chk) VALUES(?, 0, 0, 0, ?)",
                (ddl.TIP_PID, row_check(ddl.TIP_PID, 0)),
            )

    def identity(self) -> Identity:
        """Which log this is.

        Raises:
            ConfigError: the file is not a Penstock log, or of another format version.
        """
        try:
            rows: dict[str, object] = dict(self.db.execute("SELECT key, value FROM meta").fetchall())
        except apsw.SQLError as exc:
            msg = "the file is a SQLite database but not a Penstock log; name another directory"
            raise ConfigError(msg, path="log.path") from exc
        version = rows.get("format")
        if version != ddl.FORMAT_VERSION:
            msg = f"log format {version}; this Penstock reads format {ddl.FORMAT_VERSION}: use the version that wrote it"
            raise ConfigError(msg, path="log.path")
        return Identity(str(rows["log"]), int(str(rows["incarnation"])), ddl.FORMAT_VERSION)

    def commits(self) -> int:
        """How many transactions this log holds: what the witness is compared with."""
        row = self.db.execute("SELECT next, chk FROM partition WHERE pid = ?", (ddl.TIP_PID,)).fetchone()
        if row is None:
            msg = "the log's commit counter is missing; restore a backup"
            raise LogTruncated(msg)
        verify_row("the log's commit counter", row[1], ddl.TIP_PID, row[0])
        return row[0]

    def raise_incarnation(self) -> Identity:
        """Start another history: offsets recorded elsewhere under the old one are refused from now on."""
        with self.db:
            self.db.execute("UPDATE meta SET value = value + 1 WHERE key = 'incarnation'")
        return self.identity()

    def apply(self, requests: Sequence[Request], *, now_us: int) -> tuple[list[Result], int]:
        """All requests in one transaction, in order; a refused one stores nothing and harms no other.

        Returns:
            One result per request, and the commit counter after it. Durable on return at the connection's level.

        Raises:
            apsw.Error: nothing was stored, except where the error came from COMMIT itself: then it is unknown.
        """
        self.db.execute("BEGIN IMMEDIATE")
        try:
            results = [self._one(request, now_us=now_us) for request in requests]
            commits = self._count()
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        reached("log.commit")
        self.db.execute("COMMIT")
        reached("log.committed")
        return results, commits

    def write(self, work: Callable[[apsw.Connection], T]) -> T:
        """Run a declaration in a transaction of its own."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            result = work(self.db)
            self._count()
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        reached("log.commit")
        self.db.execute("COMMIT")
        return result

    def _count(self) -> int:
        commits = self.commits() + 1
        check = row_check(ddl.TIP_PID, commits)
        self.db.execute("UPDATE partition SET next = ?, chk = ? WHERE pid = ?", (commits, check, ddl.TIP_PID))
        return commits

    def _one(self, request: Request, *, now_us: int) -> Result:
        match request:
            case Append():
                return self._append(request, now_us=now_us)
            case Advance():
                return self._advance(request, now_us=now_us)
            case Claim():
                return self._claim(request)

    def _append(self, request: Append, *, now_us: int) -> Result:
        full = placed.has_room(self.db, request.blocks)
        if full is not None:
            return Refusal(full)
        producer = producers.producer_id(self.db, request.producer, now_us=now_us)
        decided = producers.decide(self.db, producer, request)
        if decided is not None:
            return decided
        origin = f"{request.producer}/{request.epoch}/{request.sequence}"
        first = placed.place(self.db, request.blocks, origin=origin, now_us=now_us)
        producers.remember(self.db, producer, request, first)
        return Appended(first)

    def _advance(self, request: Advance, *, now_us: int) -> Result:
        decided = progress.decide(self.db, request)
        if decided is not None:
            return decided
        full = placed.has_room(self.db, request.blocks)
        if full is not None:
            return Refusal(full)
        first = placed.place(self.db, request.blocks, origin=request.origin, now_us=now_us)
        progress.advance(self.db, request, first, now_us=now_us)
        return Appended(first)

    def _claim(self, request: Claim) -> Claimed:
        held = [
            progress.claim(
                self.db, request.group_id, pid, start=placed.next_offset(self.db, pid) if request.latest else 0
            )
            for pid in request.pids
        ]
        return Claimed(held)


def integrity(db: apsw.Connection) -> None:
    """SQLite's own check of the file's structure.

    Raises:
        CorruptionError: what SQLite found.
    """
    found = [row[0] for row in db.execute("PRAGMA integrity_check(10)")]
    if found != ["ok"]:
        msg = f"SQLite's integrity check found: {'; '.join(map(str, found))}; restore a backup"
        raise CorruptionError(msg)


__all__ = ["Identity", "Store", "catalogue", "integrity"]
