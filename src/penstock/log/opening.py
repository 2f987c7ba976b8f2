"""Creating and opening a log's directory, under the writers' lock: complete or not there, whole or refused."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import apsw

from penstock.errors import ConfigError, LogBusy, LogTruncated, WitnessDamaged
from penstock.log import ballast
from penstock.log.connection import Durability, connect, mark, translate, wants_room
from penstock.log.ddl import FORMAT_VERSION
from penstock.log.guard import DATABASE, FILES, compare
from penstock.log.store import CREATED, Identity, Store
from penstock.log.witness import NAME as WITNESS
from penstock.log.witness import Seen, Witness
from penstock.system.files import remove, rename_synced, sync_directory, sync_file
from penstock.system.locks import FairLock
from penstock.system.points import reached
from penstock.system.ports import System

NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "afs", "ceph"})
FORCE = "PENSTOCK_NETWORK_FILE_SYSTEM"
"""Set to 1 it lets a log lie on one: that is a matter of a machine, and of every program that opens the log there."""
PATH_BYTES_MAX = 496
"""Of the directory: SQLite keeps 512 for the path of a file, its longest suffix included."""


def check_directory(directory: Path) -> None:
    """Refuse a directory that cannot hold a log, before anything is made; then make it if need be.

    Raises:
        ConfigError: it is a file, a link, not ours, not writable, on a network file system (unless the environment
            says FORCE), or SQLite cannot take its path.
    """
    if directory.is_symlink():
        msg = f"{directory} is a symbolic link; name the directory it points to ({directory.resolve()})"
        raise ConfigError(msg, path="log.path")
    if directory.exists() and not directory.is_dir():
        msg = f"{directory} is a file; expected a directory: name another one"
        raise ConfigError(msg, path="log.path")
    standing = next(path for path in (directory, *directory.parents) if path.exists())
    if not standing.is_dir() or not os.access(standing, os.W_OK | os.X_OK):
        raise ConfigError(_not_writable(standing), path="log.path")
    _check_path(directory)
    kind = file_system(standing)
    if kind in NETWORK_FILE_SYSTEMS and os.environ.get(FORCE) != "1":
        msg = (
            f"{directory} is on a network file system ({kind}), where locks and syncs cannot be trusted; name a "
            f"directory on a disk of this machine, as in App(…, path=…), or set {FORCE}=1 and trust them"
        )
        raise ConfigError(msg, path="log.path")
    for name in (*FILES, "turn", "lock"):
        _check_file(directory / name)
    new = [path for path in (directory, *directory.parents) if not path.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path in new:
            sync_directory(path.parent)
    except OSError as exc:
        msg = f"{directory} cannot be made ({exc.strerror}); make it, or name another directory"
        raise ConfigError(msg, path="log.path") from exc


def _not_writable(standing: Path) -> str:
    if standing.is_dir() and os.statvfs(standing).f_flag & os.ST_RDONLY:
        return (
            f"{standing} is on a file system that is mounted read-only, and a log is written to also by who only reads "
            "it: mount it for writing, or copy the log to a disk that can be written to"
        )
    return f"{standing} is not writable by this user; change its owner or mode, or name another directory"


def _check_path(directory: Path) -> None:
    path = os.fsencode(directory.resolve())
    if len(path) > PATH_BYTES_MAX:
        msg = f"{directory} is {len(path)} bytes long; SQLite takes up to {PATH_BYTES_MAX}: name a directory with less"
        raise ConfigError(msg, path="log.path")
    try:
        path.decode()
    except UnicodeDecodeError as exc:
        msg = f"{str(directory)!r} is not UTF-8, and SQLite takes no other names: name another directory"
        raise ConfigError(msg, path="log.path") from exc


def _check_file(path: Path) -> None:
    if path.is_symlink():
        msg = f"{path} is a symbolic link; put the file itself there"
        raise ConfigError(msg, path="log.path")
    if not path.exists():
        return
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


def enter(lock: FairLock, directory: Path, *, wait_s: float) -> None:
    """Take the writers' lock within `wait_s`; after a failure the lock object is of no more use.

    Raises:
        LogBusy: naming the process that holds it.
    """
    if not lock.acquire_within(wait_s):
        raise LogBusy(busy_text(lock, directory, wait_s))


def busy_text(lock: FairLock, directory: Path, waited_s: float) -> str:
    """Who holds the log, for how long, and the way out."""
    pid, held_s = lock.holder()
    return (
        f"{directory}: process {pid} took the log's writer lock {held_s:.1f} s ago, this one waited {waited_s:.1f} s; "
        "continue or end that process (a stopped one holds the lock until it dies). Nothing was stored, reading goes on"
    )


def create_if_missing(directory: Path, system: System) -> None:
    """Make a new log when there is none: first the witness, then the database under its final name.

    The witness of a log that is being made has seen no commit; its creation is the first one.

    Raises:
        LogTruncated: something tells of commits, but the database is gone.
    """
    database = directory / DATABASE
    if database.exists():
        return
    check_nothing_lost(directory)
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


def check_nothing_lost(directory: Path) -> None:
    """That a log without its database never had a commit.

    Raises:
        LogTruncated: it had.
    """
    database = directory / DATABASE
    way_out = "put the file back; to start an empty log, name another directory"
    for suffix in ("-wal", "-shm"):
        left = database.with_name(database.name + suffix)
        if left.exists():
            msg = f"{database} is missing, though its {left.name} is there; {way_out}"
            raise LogTruncated(msg)
    if (directory / WITNESS).exists():
        witness = Witness.open(directory)
        try:
            seen = witness.read()
        finally:
            witness.close()
        if seen.commits > 0:
            msg = f"{database} is missing, though its witness has seen {seen.commits} commits; {way_out}"
            raise LogTruncated(msg)


def _create_database(path: Path, log: str, *, now_us: int) -> None:
    db = connect(path, "full", create=True)
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
    with ExitStack() as undo:
        witness = Witness.open(directory)
        undo.callback(witness.close)
        seen = witness.read()
        db = _connected(directory, durability)
        undo.callback(db.close)
        store = Store(db)
        identity = store.identity()
        compare(seen, identity, store.commits(), database)
        if seen.commits == 0:  # it was made just now, or its maker died here
            sync_directory(directory)
            witness.write(Seen(identity.log, identity.incarnation, CREATED))
            witness.sync()
        if identity.format_version != FORMAT_VERSION:
            witness.write(Seen(identity.log, identity.incarnation, store.migrate(identity.format_version)))
            identity = store.identity()
        undo.pop_all()
    return db, identity, witness


def _connected(directory: Path, durability: Durability) -> apsw.Connection:
    """A connection; on a full disk in the room of the ballast, for whoever removes something must open it first."""
    try:
        return connect(directory / DATABASE, durability)
    except apsw.IOError as exc:
        if not wants_room(exc) or not ballast.held(directory):
            raise
    ballast.release(directory)
    return connect(directory / DATABASE, durability)


def accept_loss(directory: Path, system: System, *, wait_s: float = 10.0) -> Identity:
    """Accept a log as it is after a loss: raise its incarnation and write a new witness.

    Groups go on from their recorded floors; sinks that know the old incarnation stop with `LogRegressed`. Programs
    that have the log open must open it again.

    Raises:
        ConfigError: there is no database to accept.
        LogBusy: another process holds the log.
    """
    if not (directory / DATABASE).exists():
        msg = f"{directory} holds no {DATABASE}; put one there (a backup), or name another directory to start empty"
        raise ConfigError(msg, path="log.path")
    lock = FairLock(directory)
    enter(lock, directory, wait_s=wait_s)
    try:
        db = connect(directory / DATABASE, "full")
        try:
            store = Store(db)
            identity = store.raise_incarnation(system, above=seen_incarnation(directory))
            Witness.create(directory, Seen(identity.log, identity.incarnation, store.commits()))
        finally:
            db.close()
    except apsw.Error as exc:
        raise translate(exc, directory) from exc
    finally:
        lock.close()
    return identity


def seen_incarnation(directory: Path) -> int:
    """The incarnation that a log's witness has seen; 0 when it cannot be told."""
    try:
        witness = Witness.open(directory)
    except WitnessDamaged:
        return 0
    try:
        return witness.read().incarnation
    except WitnessDamaged:
        return 0
    finally:
        witness.close()
