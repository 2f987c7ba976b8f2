"""The open log: group commit for writers, copied-out blocks for readers, fail-stop when the disk fails."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

import apsw
import msgspec

from penstock.errors import (
    Closed,
    CorruptionError,
    IOFailed,
    LogBusy,
    LogFull,
    OutcomeUnknown,
    PenstockError,
)
from penstock.log import opening, placed
from penstock.log.api import Advance, Append, Claim, Request, Result, Stored
from penstock.log.connection import Durability, connect, translate
from penstock.log.guard import DATABASE, FileGuard
from penstock.log.guard import compare as compare_witness
from penstock.log.store import Identity, Store
from penstock.log.witness import Seen, Witness
from penstock.system.combine import Combiner, Gate, Waiting
from penstock.system.locks import FairLock
from penstock.system.points import reached
from penstock.system.ports import System
from penstock.system.wake import Announcer, Waiter

T = TypeVar("T")

ROUND_BYTES_MAX = 1_000_000
QUEUED_BYTES_MAX = 16_000_000


class LogConfig(msgspec.Struct, frozen=True):
    """How a log is opened.

    durability: `full` syncs every commit (D2: survives a power loss); `normal` syncs at checkpoints (D1: survives the
    process). lock_wait_s: how long a caller waits while another process holds the log.
    """

    durability: Durability = "full"
    create: bool = True
    lock_wait_s: float = 10.0


class Log:
    """One process's handle on a log directory. May be used from any thread; not from a forked child.

    An I/O error closes this object for good and never the process: the outcome of what was in flight is unknown, and
    opening again tells what is stored.
    """

    def __init__(self, directory: Path, config: LogConfig, system: System) -> None:
        self.directory = directory
        self.config = config
        self.system = system
        self._pid = os.getpid()
        self._failed: PenstockError | None = None
        self._lock = FairLock(directory)
        opening.enter(self._lock, directory, system, wait_s=config.lock_wait_s, pause=time.sleep)
        try:
            if config.create:
                opening.create_if_missing(directory, system)
            self._db, self.identity, self._witness = opening.open_checked(directory, config.durability)
            self._reader = connect(directory / DATABASE, config.durability)
            self._reader.execute("PRAGMA query_only = 1")
            self._guard = FileGuard(directory)
        except BaseException:
            self._lock.close()
            raise
        self._lock.release()
        self._store = Store(self._db)
        self._reading = threading.Lock()
        self._announcer = Announcer(directory / "wake")
        self._waiters = 0
        self._combiner: Combiner[Request, Result] = Combiner(
            self._serve,
            Gate(self._lock.acquire, self._lock.try_acquire),
            round_bytes_max=ROUND_BYTES_MAX,
            queued_bytes_max=QUEUED_BYTES_MAX,
        )
        _OPEN.add(self)

    @classmethod
    def open(cls, directory: Path, system: System, config: LogConfig | None = None) -> Log:
        """Open the log in `directory`, creating it when the configuration says so.

        Raises:
            ConfigError: the directory cannot hold a log, or there is none and `create` is off.
            CorruptionError: the log is not what its witness has seen; nothing was changed.
            LogBusy: another process holds the writers' lock; its pid is named.
        """
        config = config or LogConfig()
        directory = directory.absolute()
        if not config.create and not (directory / DATABASE).exists() and not (directory / "witness").exists():
            msg = f"{directory} holds no log; name the directory of one (it contains {DATABASE}), or run the program first"
            raise opening.ConfigError(msg, path="log.path")
        opening.check_directory(directory)
        return cls(directory, config, system)

    # -- writing ---------------------------------------------------------------------------------------------------

    def submit(self, request: Request) -> Future[Result]:
        """Queue a request for the next commit; the future is answered in the commit thread.

        The future raises LogFull (nothing stored), OutcomeUnknown (open again and look) or CorruptionError. Blocks
        while more than QUEUED_BYTES_MAX wait.
        """
        self._check_usable()
        return self._combiner.submit(request, _size(request))

    def apply(self, request: Request, *, wait_s: float | None = None) -> Result:
        """Commit a request and wait for it, in this thread when nobody else is committing.

        Raises:
            LogBusy: another process held the log longer than `wait_s`; nothing was stored.
            LogFull, OutcomeUnknown, CorruptionError: as for `submit`.
        """
        self._check_usable()
        limit = self.config.lock_wait_s if wait_s is None else wait_s
        try:
            return self._combiner.serve_now(request, _size(request), wait_s=limit)
        except TimeoutError:
            raise LogBusy(opening.busy_text(self._lock, self.directory, limit)) from None

    def busy(self) -> bool:
        """Whether `submit` would block: the caller should wait (back-pressure)."""
        return self._combiner.full()

    def write(self, work: Callable[[apsw.Connection], T]) -> T:
        """Run a declaration (a change of the catalogue) in a transaction of its own; rare and small.

        Raises:
            LogBusy: as for `apply`.
        """
        self._check_usable()
        with self._combiner.paused():
            opening.enter(
                self._lock, self.directory, self.system, wait_s=self.config.lock_wait_s, pause=time.sleep
            )
            try:
                self._check_whole()
                result = self._store.write(work)
                self._witnessed(self._store.commits())
            except apsw.Error as exc:
                raise translate(exc, self.directory) from exc
            finally:
                self._lock.release()
        return result

    def _serve(self, batch: list[Waiting[Request, Result]]) -> None:
        """One round, in whichever thread leads: check, commit, witness, let the next in, wake, answer."""
        try:
            outcome: list[Result] | PenstockError = self._commit([w.request for w in batch]) if batch else []
        finally:
            self._lock.release()
        if isinstance(outcome, PenstockError):
            for waiting in batch:
                waiting.answer.set_exception(outcome)
            return
        if self._failed is None and batch:
            self._announcer.announce(_touched([w.request for w in batch]))
        for waiting, result in zip(batch, outcome, strict=True):
            waiting.answer.set_result(result)

    def _commit(self, requests: Sequence[Request]) -> list[Result] | PenstockError:
        if self._failed is not None:
            return OutcomeUnknown(f"{self.directory}: the log was closed by an earlier error ({self._failed})")
        try:
            self._check_whole()
            results, commits = self._store.apply(requests, now_us=self.system.clock.now_us())
            self._witnessed(commits)
        except apsw.FullError as exc:
            return LogFull(str(translate(exc, self.directory)))
        except apsw.BusyError as exc:
            return translate(exc, self.directory)
        except (apsw.Error, OSError) as exc:
            return self._fail(translate(exc, self.directory))
        except CorruptionError as exc:
            self._failed = exc
            return exc
        return results

    def _check_whole(self) -> None:
        self._guard.check()
        seen = self._witness.read()
        compare_witness(seen, self.identity, self._store.commits(), self.directory)

    def _witnessed(self, commits: int) -> None:
        if self.config.durability == "full":
            reached("log.witness")
            self._witness.write(Seen(self.identity.log, self.identity.incarnation, commits))

    def _fail(self, error: PenstockError) -> PenstockError:
        """Fail-stop: after an I/O error nobody knows what the disk holds until the log is opened again."""
        self._failed = error
        return OutcomeUnknown(f"{error}; the outcome is unknown, and this log object is closed: open the log again")

    # -- reading ---------------------------------------------------------------------------------------------------

    def read(self, pid: int, offset: int, *, events_max: int, bytes_max: int = 8_000_000, name: str = "") -> list[Stored]:
        """Whole blocks from the one that holds `offset` on; copied out, the read transaction is over on return.

        Raises:
            BlockDamaged: naming topic, partition and offsets.
        """
        return self.look(
            lambda db: placed.read(db, pid, offset, events_max=events_max, bytes_max=bytes_max, name=name)
        )

    def look(self, work: Callable[[apsw.Connection], T]) -> T:
        """Run a read of the tables on the reading connection; short, and nothing of it stays open."""
        self._check_usable()
        with self._reading:
            try:
                return work(self._reader)
            except apsw.Error as exc:
                raise translate(exc, self.directory) from exc

    def waiter(self, pids: Iterable[int]) -> Waiter:
        """A FIFO that becomes readable when one of the partitions gets events; the caller closes it."""
        self._waiters += 1
        return Waiter(self.directory / "wake", f"{id(self):x}-{self._waiters}", pids)

    # -- life ------------------------------------------------------------------------------------------------------

    def _check_usable(self) -> None:
        if self._pid != os.getpid():
            msg = (
                f"{self.directory}: this log was opened by process {self._pid}, and this is its forked child "
                f"{os.getpid()}; open the log again in the child (or start it with the spawn method)"
            )
            raise Closed(msg)
        if self._failed is not None:
            if isinstance(self._failed, Closed | CorruptionError):
                raise self._failed
            msg = f"{self.directory}: closed by an earlier error ({self._failed}); open the log again"
            raise IOFailed(msg)

    @property
    def failure(self) -> PenstockError | None:
        """What closed this log object, if anything did."""
        return self._failed

    def close(self) -> None:
        """Finish what is queued and let everything go; may be called twice."""
        if self not in _OPEN or self._pid != os.getpid():
            return
        _OPEN.discard(self)
        self._combiner.close()
        self._failed = self._failed or Closed(f"{self.directory}: this log object was closed; open it again")
        self._announcer.close()
        self._lock.acquire()
        try:
            self._reader.close()
            self._db.close()
            self._witness.close()
        finally:
            self._lock.close()

    def _abandon(self) -> None:
        """In a forked child: let go of the inherited locks, and never touch SQLite's files."""
        self._lock.abandon()


def _size(request: Request) -> int:
    match request:
        case Append(blocks=blocks):
            return 200 + sum(len(b.data) for b in blocks)
        case Advance(blocks=blocks, ledger=ledger):
            return 200 + sum(len(b.data) for b in blocks) + sum(len(k) + len(v or b"") for _, k, v in ledger)
        case Claim():
            return 200


def _touched(requests: Sequence[Request]) -> set[int]:
    return {block.pid for r in requests if not isinstance(r, Claim) for block in r.blocks}


_OPEN: set[Log] = set()
_INHERITED: list[Log] = []  # keeps a child's copies alive: closing them would drop nothing good


def _after_fork_in_child() -> None:
    for log in list(_OPEN):
        log._abandon()  # noqa: SLF001
        _INHERITED.append(log)
    _OPEN.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
__all__ = ["Identity", "Log", "LogConfig", "Witness"]
