"""Opening SQLite so that nothing acked is lost: fixed pragmas, each read back; the one table of SQLite's errors."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import apsw

from penstock.errors import (
    ConfigError,
    CorruptionError,
    IOFailed,
    LogBusy,
    LogFull,
    LogTruncated,
    PenstockError,
    RecordDamaged,
)
from penstock.log.ddl import APPLICATION_ID, PAGE_BYTES
from penstock.system.points import reached

Durability = Literal["full", "normal"]

# 3.7.0 to 3.51.2 can lose commits when a WAL is reset while a reader looks (sqlite.org, release notes of 3.51.3).
SQLITE_MIN = (3, 51, 3)
CHECKPOINT_PAGES = 2048
_BUSY_MS = 2000


def check_sqlite(version: str) -> None:
    """Refuse SQLite versions that can lose commits.

    Raises:
        ConfigError: naming the version found and the one needed.
    """
    found = tuple(int(part) for part in version.split("."))
    if found < SQLITE_MIN:
        wanted = ".".join(map(str, SQLITE_MIN))
        msg = f"SQLite {version} can lose commits (WAL reset race); expected {wanted} or later: upgrade the apsw wheel"
        raise ConfigError(msg, path="log.sqlite")


def connect(path: Path, durability: Durability, *, create: bool = False) -> apsw.Connection:
    """A connection to an existing log, or to a file being created.

    Raises:
        ConfigError: a pragma did not take, or the SQLite version is affected.
        LogTruncated: there is no such file or nothing in it, and `create` is off; nothing was changed.
    """
    check_sqlite(apsw.sqlite_lib_version())
    if not create:
        _check_content(path)
    flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0)
    db = apsw.Connection(str(path), flags=flags)
    try:
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        db.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
        db.set_busy_timeout(_BUSY_MS)
        if create:
            for name, value in _FIXED:
                db.execute(f"PRAGMA {name} = {value}")
        for name, value in _pragmas(durability):
            db.execute(f"PRAGMA {name} = {value}")
        for name, value in (*_FIXED, *_pragmas(durability)):
            _check(db, name, value)
    except BaseException:
        db.close()
        raise
    return db


def _check_content(path: Path) -> None:
    """SQLite takes an empty file for a new database, and deletes its write-ahead log, which holds acked commits."""
    try:
        found = "empty" if path.stat().st_size == 0 else ""
    except FileNotFoundError:
        found = "missing"
    except OSError:
        return  # SQLite says why it cannot be opened
    if found:
        msg = f"{path} is {found}; put the log's file back, beside its write-ahead log, or restore a backup"
        raise LogTruncated(msg)


def connect_still(path: Path) -> apsw.Connection:
    """A connection to a complete file that nobody can write to: without locks, write-ahead log and index.

    Raises:
        apsw.CantOpenError: there is no such file.
    """
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    return apsw.Connection(f"file:{quote(str(path))}?immutable=1", flags=flags)


# Set in a new file only: setting auto_vacuum is a write transaction, and would write over a damaged write-ahead log.
_FIXED: tuple[tuple[str, int | str], ...] = (("page_size", PAGE_BYTES), ("auto_vacuum", 2), ("journal_mode", "wal"))


def _pragmas(durability: Durability) -> list[tuple[str, int | str]]:
    rows: list[tuple[str, int | str]] = [
        ("synchronous", 2 if durability == "full" else 1),
        ("wal_autocheckpoint", 0),  # see `checkpoint`
        ("cell_size_check", 1),
        ("temp_store", 2),
    ]
    if sys.platform == "darwin":
        rows += [("fullfsync", 1), ("checkpoint_fullfsync", 1)]
    return rows


def _check(db: apsw.Connection, name: str, value: int | str) -> None:
    row = db.execute(f"PRAGMA {name}").fetchone()
    if row is None or row[0] != value:
        msg = (
            f"PRAGMA {name} is {None if row is None else row[0]!r}; expected {value!r}: the file is not a Penstock log"
        )
        raise ConfigError(msg, path=f"log.{name}")


def mark(db: apsw.Connection) -> None:
    """Write the application id into a new file's header."""
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def checkpoint(db: apsw.Connection) -> bool:
    """Copy what the write-ahead log holds into the file, as far as no reader needs it; whether it was all of it.

    SQLite's own automatic checkpoint does the same and ignores every error, also that of a failed sync, after which
    the next one would take the lost pages for written. Here only two errors are harmless: the write-ahead log stays.

    Raises:
        apsw.FullError: there is no room in the file's file system for all of it.
        apsw.Error: the disk failed.
    """
    reached("log.checkpoint")
    try:
        pages, copied = db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    except apsw.BusyError:
        return False
    reached("log.checkpointed")
    return pages == copied


def wants_room(exc: Exception) -> bool:
    """Whether the index of the write-ahead log found no room; SQLite calls that an I/O error. Nothing was written."""
    return isinstance(exc, apsw.IOError) and getattr(exc, "extendedresult", 0) == apsw.SQLITE_IOERR_SHMSIZE


_TABLE: list[tuple[type[Exception], type[PenstockError], str]] = [
    (apsw.FullError, LogFull, "the disk is full: nothing was stored; free room, then try again"),
    (apsw.BusyError, LogBusy, "another program holds the log's file: close it (only Penstock may write there)"),
    (apsw.CorruptError, CorruptionError, "the log's file is damaged: restore a backup, or run `penstock doctor`"),
    (apsw.NotADBError, CorruptionError, "the log's file is not a database any more: restore a backup"),
    (apsw.ReadOnlyError, ConfigError, "the log's file is read-only: change its owner or mode"),
    (apsw.PermissionsError, ConfigError, "the log's file may not be opened: change its owner or mode"),
    (apsw.CantOpenError, ConfigError, "the log's file cannot be opened: check the directory, its owner and mode"),
    (UnicodeDecodeError, RecordDamaged, "a stored name is not text: restore a backup, or run `penstock doctor`"),
    (apsw.Error, IOFailed, "SQLite failed: the log object is closed, open it again to see what is stored"),
]


_ERRNO: dict[int, tuple[type[PenstockError], str]] = {
    errno.ENOSPC: (LogFull, "the disk is full; free room, then try again"),
    errno.EDQUOT: (LogFull, "the disk quota is used up; free room, then try again"),
    errno.EACCES: (ConfigError, "not allowed; change the owner or mode of the log's files"),
    errno.EPERM: (ConfigError, "not allowed; change the owner or mode of the log's files"),
    errno.EROFS: (ConfigError, "the file system is read-only; mount it writable, or name another directory"),
}


def translate(exc: Exception, where: Path) -> PenstockError:
    """Our error for one of SQLite's or the operating system's: the one table of them."""
    if wants_room(exc):
        return LogFull(f"{where}: the disk is full: the log cannot be opened; free room, then try again")
    for theirs, ours, text in _TABLE:
        if isinstance(exc, theirs):
            said = f": {exc}" if str(exc) != "not an error" else ""  # what SQLite says of a backup's step that failed
            return ours(f"{where}: {text} ({type(exc).__name__}{said})")
    ours, text = _ERRNO.get(getattr(exc, "errno", 0) or 0, (IOFailed, "the disk or the system failed"))
    return ours(f"{where}: {text} ({type(exc).__name__}: {exc})")
