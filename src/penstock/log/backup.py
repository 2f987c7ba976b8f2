"""Copies of a log that is in use: whole, of one moment, with a witness; and making a log of such a copy.

The copy is made by SQLite, page by page, through a connection of ours, within one read transaction: never by reading
the database's file, which would drop this process's locks on it. Others go on publishing; the write-ahead log cannot be
emptied meanwhile, so it grows by what they publish.

A copy is made under another name and then renamed: it is there whole, or it is not there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import apsw
import msgspec

from penstock.errors import ConfigError
from penstock.log import opening
from penstock.log.connection import connect, connect_still, translate
from penstock.log.guard import DATABASE, compare
from penstock.log.log import Log, LogConfig
from penstock.log.store import Identity, Store
from penstock.log.witness import NAME as WITNESS
from penstock.log.witness import Seen, Witness
from penstock.system.files import remove, sync_directory, sync_file
from penstock.system.locks import DirectoryLock, FairLock
from penstock.system.points import reached
from penstock.system.ports import System

PAGES_AT_ONCE = 256
_UNFINISHED = ".unfinished"
_CLOCK_S = 1 << 31
"""An incarnation has 32 bits, and a clock may say anything."""
Progress = Callable[[int, int], None]
"""Called with the pages copied so far and the pages in all."""


class Copied(msgspec.Struct, frozen=True):
    """A finished copy: where it lies, which log it is, how many commits and bytes it holds."""

    directory: Path
    identity: Identity
    commits: int
    bytes: int


def back_up(log: Log, target: Path, on_progress: Progress | None = None) -> Copied:
    """Copy an open log, while others publish, into the new directory `target`.

    Raises:
        ConfigError: there is something at `target` already, it cannot be made, or another process is just making it.
        LogFull: there is no room for it; nothing is left behind.
        CorruptionError, IOFailed: the log cannot be read; nothing is left behind.
    """
    target = target.absolute()
    with _begun(target) as unfinished:
        identity, commits = _copy(log, unfinished, on_progress)
        Witness.create(unfinished, Seen(identity.log, identity.incarnation, commits))
        size = (unfinished / DATABASE).stat().st_size
        _finish(unfinished, target)
    return Copied(target, identity, commits, size)


def restore(
    backup: Path, target: Path, system: System, *, replace: bool = False, on_progress: Progress | None = None
) -> Copied:
    """Make a log in `target` of a copy that `back_up` has made: the same events, of a new incarnation.

    Groups go on where they were when the copy was made; sinks stop whose target was written before.

    Args:
        backup: the copy; what it holds is not changed. It is opened as a log is, or where nobody can write to it (a
            read-only disk) read as it lies.
        target: the directory of the log that is to be.
        system: the machine.
        replace: when there is a log at `target` already, keep it beside it under another name first.
        on_progress: see `Progress`.

    Raises:
        ConfigError: there is something at `target` already, which `replace` does not allow or is no log; or the copy is
            none.
        LogBusy: another process is writing to the log at `target`.
        CorruptionError: the copy is not whole.
    """
    target = target.absolute()
    _require_target(target, replace=replace)
    log = _opened(backup.absolute(), system)
    try:
        clock_s = system.clock.now_us() // 1_000_000 % _CLOCK_S
        above = max(log.identity.incarnation, _incarnation_of(target), clock_s)
        with _begun(target, replace=replace) as unfinished:
            _copy(log, unfinished, on_progress)
            identity, commits = _raise_incarnation(unfinished, system, above)
            Witness.create(unfinished, Seen(identity.log, identity.incarnation, commits))
            size = (unfinished / DATABASE).stat().st_size
            _put_aside(target)
            _finish(unfinished, target)
    finally:
        log.close()
    return Copied(target, identity, commits, size)


class _Still:
    """A finished copy where nobody can write: there are no locks to take, and nothing to take them for."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        with closing(Witness.open(directory, write=False)) as witness, self.connection() as db:
            store = Store(db)
            self.identity = store.identity()
            compare(witness.read(), self.identity, store.commits(), directory / DATABASE)

    @contextmanager
    def connection(self) -> Generator[apsw.Connection]:
        """To the copy's file, as `Log.connection`."""
        with closing(connect_still(self.directory / DATABASE)) as db:
            yield db

    def close(self) -> None:
        """Nothing is held between connections."""


def _opened(backup: Path, system: System) -> Log | _Still:
    """The copy, of which every commit that its witness has seen is there.

    Raises:
        ConfigError: it is none, or nobody can write to it and it was not finished.
        CorruptionError: it is not whole.
    """
    database = backup / DATABASE
    if not database.is_file() or (os.access(backup, os.W_OK) and os.access(database, os.W_OK)):
        return Log.open(backup, system, LogConfig(create=False))
    ahead = backup / f"{DATABASE}-wal"
    if ahead.exists() and ahead.stat().st_size:
        msg = f"{backup} has a write-ahead log and cannot be written to; copy it to a directory that can"
        raise ConfigError(msg, path="log.path")
    try:
        return _Still(backup)
    except (apsw.Error, UnicodeDecodeError, OSError) as exc:
        raise translate(exc, backup) from exc


def _require_target(target: Path, *, replace: bool) -> None:
    """Only a log is ever put aside: not a file, nor the directory of a project, a home, or the root of a disk.

    Raises:
        ConfigError: there is something else, or it is to stay.
    """
    if _is_free(target):
        return
    if not replace:
        msg = f"{target} exists; name another directory, or let the log there be kept aside with replace (--replace)"
        raise ConfigError(msg, path="log.path")
    if not any((target / name).is_file() for name in (DATABASE, WITNESS)):  # either may be what was lost
        msg = f"{target} exists and holds no log that could be kept aside; name another directory"
        raise ConfigError(msg, path="log.path")


@contextmanager
def _begun(target: Path, *, replace: bool = False) -> Generator[Path]:
    """The directory in which the copy is made, for one at a time; what is left of an earlier one is removed.

    The lock is the directory's own, so it goes with it when it gets its name, and with whoever dies.
    """
    if target.is_symlink() or not replace:
        _require_free(target)
    unfinished = target.with_name(target.name + _UNFINISHED)
    try:
        unfinished.mkdir(parents=True, exist_ok=True)
        lock = DirectoryLock(unfinished)
    except OSError as exc:
        msg = f"{unfinished} cannot be made ({exc.strerror}); name another directory"
        raise ConfigError(msg, path="log.backup") from exc
    try:
        if not lock.try_acquire():
            msg = f"another process is just making a copy at {target}; wait for it, or name another directory"
            raise ConfigError(msg, path="log.backup")
        try:
            _empty(unfinished)
            yield unfinished
        except (apsw.Error, OSError) as exc:
            raise translate(exc, target) from exc
        finally:
            if lock.is_at(unfinished):  # not when it got its name, and somebody makes another one
                _discard(unfinished)
    finally:
        lock.close()


def _require_free(target: Path) -> None:
    if target.is_symlink() or not _is_free(target):
        msg = f"{target} exists and is not an empty directory; name a new one"
        raise ConfigError(msg, path="log.backup")


def _is_free(target: Path) -> bool:
    """Whether nothing lies there: an empty directory is nothing."""
    return not target.exists() or (target.is_dir() and not any(target.iterdir()))


def _copy(log: Log | _Still, unfinished: Path, on_progress: Progress | None) -> tuple[Identity, int]:
    """The pages of one moment, as a database that needs no write-ahead log; which log it is, and its commits."""
    copy = unfinished / DATABASE
    with log.connection() as source:
        target = apsw.Connection(str(copy))
        try:
            source.execute("BEGIN")
            source.execute("SELECT count(*) FROM meta").fetchall()  # from here on the source is of this moment
            with target.backup("main", source, "main") as pages:
                while not pages.done:
                    pages.step(PAGES_AT_ONCE)
                    reached("log.backup.step")
                    if on_progress is not None:
                        on_progress(pages.page_count - pages.remaining, pages.page_count)
            source.execute("COMMIT")
        finally:
            target.close()
    with closing(connect(copy, "full")) as db:
        store = Store(db)
        found = store.identity(), store.commits()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    _only_the_database(unfinished)
    sync_file(copy)
    return found


def _raise_incarnation(unfinished: Path, system: System, above: int) -> tuple[Identity, int]:
    with closing(connect(unfinished / DATABASE, "full")) as db:
        store = Store(db)
        found = store.raise_incarnation(system, above=above), store.commits()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    _only_the_database(unfinished)
    sync_file(unfinished / DATABASE)
    return found


def _only_the_database(directory: Path) -> None:
    """The write-ahead log is empty after a checkpoint: the file itself is complete."""
    for suffix in ("-wal", "-shm"):
        remove(directory / f"{DATABASE}{suffix}")


def _finish(unfinished: Path, target: Path) -> None:
    sync_directory(unfinished)
    _require_free(target)  # another copy may have got the name meanwhile
    if target.exists():
        target.rmdir()
    reached("log.backup.rename")
    os.rename(unfinished, target)
    sync_directory(target.parent)


def _discard(unfinished: Path) -> None:
    _empty(unfinished)
    with suppress(OSError):
        unfinished.rmdir()


def _empty(unfinished: Path) -> None:
    """Remove what a copy consists of, and nothing else: somebody's own files stay, and end it."""
    for pattern in (f"{DATABASE}*", f"{WITNESS}*"):
        for path in unfinished.glob(pattern):
            remove(path)


def _incarnation_of(target: Path) -> int:
    """Of the log that lies at `target`, as far as it can be told."""
    return opening.seen_incarnation(target) if (target / WITNESS).exists() else 0


def _put_aside(target: Path) -> None:
    """Give the log that lies at `target` another name; it is kept, and nobody has it open.

    Raises:
        LogBusy: another process is writing to it.
    """
    if _is_free(target):
        return
    number = 1
    while (aside := target.with_name(f"{target.name}.before-{number}")).exists():
        number += 1
    with ExitStack() as stack:
        lock = FairLock(target)
        stack.callback(lock.close)
        opening.enter(lock, target, wait_s=1.0)
        reached("log.restore.aside")
        os.rename(target, aside)
        sync_directory(target.parent)
