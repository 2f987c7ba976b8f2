"""Creating and opening a log's directory, under the writers' lock: complete or not there, whole or refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import apsw

from penstock.errors import ConfigError, LogBusy, LogTruncated
from penstock.log.connection import Durability, connect, mark, translate
from penstock.log.guard import DATABASE, compare
from penstock.log.store import Identity, Store
from penstock.log.witness import NAME as WITNESS
from penstock.log.witness import Seen, Witness
from penstock.system.files import remove, rename_synced, sync_directory, sync_file
from penstock.system.locks import FairLock
from penstock.system.points import reached
from penstock.system.ports import System

NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "afs", "ceph"})


def check_directory(directory: Path) -> None:
    """Make the directory if need be, and refuse one that cannot hold a log.

    Raises:
        ConfigError: it is a file, a link, not ours, not writable, or on a network file system.
    """
    if directory.is_symlink():
        msg = f"{directory} is a symbolic link; name the directory it points to ({directory.resolve()})"
        raise ConfigError(msg, path="log.path")
    if directory.exists() and not directory.is_dir():
        msg = f"{directory} is a file; expected a directory: name another one"
        raise ConfigError(msg, path="log.path")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        msg = f"{directory} cannot be made ({exc.strerror}); make it, or name another directory"
        raise ConfigError(msg, path="log.path") from exc
    if not os.access(directory, os.W_OK | os.X_OK):
        msg = f"{directory} is not writable by this user; change its owner or mode, or name another directory"
        raise ConfigError(msg, path="log.path")
    for name in (DATABASE, WITNESS):
        _check_file(directory / name)
    kind = file_system(directory)
    if kind in NETWORK_FILE_SYSTEMS:
        msg = f"{directory} is on a network file system ({kind}), where locks and syncs cannot be trusted; use a disk"
        raise ConfigError(msg, path="log.path")


def _check_file(path: Path) -> None:
    if not path.is_symlink() and not path.exists():
        return
    if path.is_symlink():
        msg = f"{path} is a symbolic link; put the file itself there"
        raise ConfigError(msg, path="log.path")
    if not path.is_file():
        msg = f"{path} is not a file; name another directory"
        raise ConfigError(msg, path="log.path")
    if path.stat().st_nlink > 1:
        msg = f"{path} has {path.stat().st_nlink} hard links; a log's file may have one name only: copy it instead"
        raise ConfigError(msg, path="log.path")
    if not os.access(path, os.R_OK | os.W_OK):
        msg = f"{path} is not readable and writable by this user; change its owner or mode"
        raise ConfigError(msg, path="log.path")


def file_system(directory: Path) -> str:
    """The type of the file system that holds `directory`; `unknown` where the system does not tell."""
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return "unknown"
    best, kind = "", "unknown"
    real = f"{directory.resolve()}/"
    for line in mounts:
        _, point, fs, *_ = line.split(" ")
        point = point.replace("\\040", " ").rstrip("/") + "/"
        if real.startswith(point) and len(point) > len(best):
            best, kind = point, fs
    return kind


def enter(lock: FairLock, directory: Path, system: System, *, wait_s: float, pause: Callable[[float], None]) -> None:
    """Take the writers' lock within `wait_s`.

    Raises:
        LogBusy: naming the process that holds it.
    """
    started = system.clock.monotonic_s()
    while not lock.try_acquire():
        waited = system.clock.monotonic_s() - started
        if waited > wait_s:
            raise LogBusy(busy_text(lock, directory, waited))
        pause(0.005)


def busy_text(lock: FairLock, directory: Path, waited_s: float) -> str:
    """Who holds the log, for how long at least, and the way out."""
    return (
        f"{directory}: process {lock.holder_pid()} has held the log's writer lock for {waited_s:.1f} s; "
        "continue or end that process (a stopped one holds it until it dies), reading goes on meanwhile"
    )


def create_if_missing(directory: Path, system: System) -> None:
    """Make a new log when there is none: first the witness, then the database under its final name.

    Raises:
        LogTruncated: a witness tells of commits, but the database is gone.
    """
    database = directory / DATABASE
    if database.exists():
        return
    if (directory / WITNESS).exists():
        witness = Witness.open(directory)
        try:
            seen = witness.read()
        finally:
            witness.close()
        if seen.commits > 0:
            msg = f"{database} is missing, though its witness has seen {seen.commits} commits; put the file back"
            raise LogTruncated(msg)
    scratch = directory / "log.new"
    for name in ("log.new", "log.new-wal", "log.new-shm"):
        remove(directory / name)
    log = system.new_id()
    _create_database(scratch, log, now_us=system.clock.now_us())
    sync_file(scratch)
    Witness.create(directory, Seen(log, 1, 0))
    sync_directory(directory)
    reached("log.create.rename")
    rename_synced(scratch, database)
    sync_directory(directory.parent)


def _create_database(path: Path, log: str, *, now_us: int) -> None:
    db = connect(path, "full")
    try:
        mark(db)
        Store(db).create(log, now_us=now_us)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        db.close()
    for suffix in ("-wal", "-shm"):  # empty after the checkpoint; the file itself is complete
        remove(path.with_name(path.name + suffix))


def open_checked(directory: Path, durability: Durability) -> tuple[apsw.Connection, Identity, Witness]:
    """Open an existing log and hold it against its witness.

    Raises:
        ConfigError, CorruptionError: see the messages; nothing was changed.
    """
    database = directory / DATABASE
    witness = Witness.open(directory)
    try:
        seen = witness.read()
        try:
            db = connect(database, durability)
        except apsw.Error as exc:
            raise translate(exc, database) from exc
        try:
            store = Store(db)
            identity = store.identity()
            compare(seen, identity, store.commits(), database)
        except apsw.Error as exc:
            db.close()
            raise translate(exc, database) from exc
        except BaseException:
            db.close()
            raise
    except BaseException:
        witness.close()
        raise
    return db, identity, witness


def accept_loss(directory: Path, system: System, *, pause: Callable[[float], None]) -> Identity:
    """Accept a log as it is after a loss: raise its incarnation and write a new witness.

    Groups go on from their recorded floors; sinks that know the old incarnation stop with `LogRegressed`.
    """
    lock = FairLock(directory)
    try:
        enter(lock, directory, system, wait_s=10, pause=pause)
        db = connect(directory / DATABASE, "full")
        try:
            store = Store(db)
            identity = store.raise_incarnation()
            Witness.create(directory, Seen(identity.log, identity.incarnation, store.commits()))
        finally:
            db.close()
    finally:
        lock.close()
    return identity
