"""The open log: group commit for writers, copied-out blocks for readers, fail-stop when the disk fails."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import apsw
import msgspec

from penstock.errors import (
    Closed,
    ConfigError,
    CorruptionError,
    IOFailed,
    LogBusy,
    LogFull,
    LogReplaced,
    LogTruncated,
    OutcomeUnknown,
    PenstockError,
    WitnessDamaged,
)
from penstock.log import ballast, opening, placed
from penstock.log.api import Advance, Append, Begin, Claim, Request, Result, Span, Stored
from penstock.log.connection import CHECKPOINT_PAGES, Durability, checkpoint, connect, translate
from penstock.log.ddl import OFFSET_MAX
from penstock.log.guard import DATABASE, FileGuard
from penstock.log.guard import compare as compare_witness
from penstock.log.relief import Relief
from penstock.log.store import CommitFailed, Identity, Store
from penstock.log.witness import Seen
from penstock.system.combine import Combiner, Ended, Gate, Limits, Mutex, Waiting
from penstock.system.locks import FairLock
from penstock.system.points import reached
from penstock.system.ports import System
from penstock.system.wake import Announcer, Waiter

T = TypeVar("T")

ROUND_BYTES_MAX = 1_000_000
QUEUED_BYTES_MAX = 16_000_000


class LogConfig(msgspec.Struct, frozen=True):
    """How one program opens a log; others may open it otherwise, each has the durability it asked for.

    durability: `full` syncs every commit (D2: survives a power loss); `normal` syncs at checkpoints (D1: survives the
    process). lock_wait_s: how long a caller waits while another process holds the log. wal_bytes_max: nothing is
    published while a reader keeps a write-ahead log of this size from being emptied.
    """

    durability: Durability = "full"
    create: bool = True
    lock_wait_s: float = 10.0
    wal_bytes_max: int = 512_000_000


class Work(msgspec.Struct, frozen=True):
    """A declaration: a change of the catalogue, in a transaction of its own. `relief`: see `Log.relieve`."""

    work: Callable[[apsw.Connection], Any]
    relief: bool = False


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
        self._pages = 0
        self._lock = FairLock(directory)
        opening.enter(self._lock, directory, wait_s=config.lock_wait_s)
        with ExitStack() as undo:
            undo.callback(self._lock.close)
            if config.create:
                opening.create_if_missing(directory, system)
            self._db, self.identity, self._witness = opening.open_checked(directory, config.durability)
            undo.callback(self._witness.close)
            undo.callback(self._db.close)
            self._reader = connect(directory / DATABASE, config.durability)
            undo.callback(self._reader.close)
            self._reader.execute("PRAGMA query_only = 1")
            self._guard = FileGuard(directory)
            self._relief = Relief(directory, config.wal_bytes_max)
            undo.pop_all()
        self._lock.release()
        self._db.set_wal_hook(self._grown)
        self._store = Store(self._db, system.clock.monotonic_s)
        self._reading = Mutex()
        self._announcer = Announcer(directory / "wake")
        self._waiters = 0
        self._combiner: Combiner[Request | Work, Any] = Combiner(
            self._serve,
            Gate(self._lock.acquire, self._lock.try_acquire, self._leave, self._busy),
            limits=Limits(ROUND_BYTES_MAX, QUEUED_BYTES_MAX, config.lock_wait_s),
            finish=self._finish,
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
        if not config.create and not (directory / DATABASE).exists():
            opening.check_nothing_lost(directory)  # a maker that was killed leaves a witness that has seen nothing
            msg = f"{directory} holds no log; name the directory of one (with a {DATABASE}), or run the program first"
            raise ConfigError(msg, path="log.path")
        opening.check_directory(directory)
        try:
            return cls(directory, config, system)
        except (apsw.Error, UnicodeDecodeError, OSError) as exc:
            raise translate(exc, directory) from exc

    # -- writing ---------------------------------------------------------------------------------------------------

    def submit(self, request: Request) -> Future[Result]:
        """Queue a request for the next commit; the future is answered in the commit thread.

        The future raises LogFull or LogBusy (nothing stored, try again), OutcomeUnknown (open again and look) or
        CorruptionError. Blocks while more than QUEUED_BYTES_MAX wait. Cancelling it withdraws a request that is still
        waiting; afterwards its outcome is unknown.
        """
        return self._submit(request)

    def apply(self, request: Request) -> Result:
        """Commit a request and wait for it, in this thread when nobody else is committing.

        Raises:
            LogBusy, LogFull, OutcomeUnknown, CorruptionError: as for `submit`.
        """
        self._check_usable()
        try:
            return self._combiner.serve_now(request, _size(request))
        except Ended:
            raise self._closed() from None

    def apply_at_once(self, request: Request) -> Result | None:
        """As `apply`, in this thread and without any lock of Python's; None: others are there, nothing was done.

        For one caller at a time. When it is interrupted, its outcome is unknown and `forsake` must be called.
        """
        self._check_usable()
        served = self._combiner.serve_at_once(request, _size(request))
        return None if served is None else served.answer.result()

    def forsake(self) -> None:
        """Undo what the interrupted caller of `apply_at_once` has left; in another thread, when none is there."""
        self._combiner.forsake()

    def busy(self) -> bool:
        """Whether `submit` would block: the caller should wait (backpressure)."""
        return self._combiner.full()

    def write(self, work: Callable[[apsw.Connection], T]) -> Future[T]:
        """Run a declaration (a change of the catalogue) in a transaction of its own; rare and small.

        The future raises what `work` raises, and nothing was stored then, or as for `submit`.
        """
        return self._submit(Work(work))

    def relieve(self, work: Callable[[apsw.Connection], T]) -> Future[T]:
        """As `write`, on a full disk: in the room of the ballast, which is made again behind a checkpoint."""
        return self._submit(Work(work, relief=True))

    def _submit(self, request: Request | Work) -> Future[Any]:
        self._check_usable()
        try:
            return self._combiner.submit(request, _size(request))
        except Ended:
            raise self._closed() from None

    def _serve(self, batch: list[Waiting[Request | Work, Any]]) -> None:
        """One round, in whichever thread leads: check, commit, wake, witness, let the next in, answer.

        When the write-ahead log is long, the answers go out first: nobody waits for the checkpoint but the next writer.
        """
        try:
            outcome = self._commit([waiting.request for waiting in batch]) if batch else []
            long = self._pages >= min(CHECKPOINT_PAGES, self._relief.room_pages) and self._failed is None
            if long:
                self._answer(batch, outcome)
                self._checkpoint()
        finally:  # also when a caller that leads this round is interrupted
            self._lock.release()
        if not long:
            self._answer(batch, outcome)

    def _answer(self, batch: list[Waiting[Request | Work, Any]], outcome: list[Any]) -> None:
        for waiting, result in zip(batch, outcome, strict=True):
            if isinstance(result, Exception):
                waiting.answer.set_exception(result)
            else:
                waiting.answer.set_result(result)

    def _commit(self, requests: list[Request | Work]) -> list[Any]:
        """One answer per request, exceptions among them. Declarations are committed alone."""
        if self._failed is not None:
            error = OutcomeUnknown(f"{self.directory}: the log was closed by an earlier error ({self._failed})")
            return [error for _ in requests]
        if len(requests) > 1 and any(isinstance(request, Work) for request in requests):
            return [answer for run in _runs(requests) for answer in self._commit(run)]
        relief = isinstance(requests[0], Work) and requests[0].relief
        try:
            if relief:
                ballast.release(self.directory)
                self._checkpoint()
            else:
                self._make_room()
            results, commits = self._transact(requests)
            self._announce(requests)
            self._witnessed(commits)
        except Exception as exc:  # noqa: BLE001  the thread that answers for everybody must live on
            results = self._refused(requests, exc)
        if relief and self._failed is None:
            self._relieved()
        return results

    def _relieved(self) -> None:
        """What was removed is made room of, and the ballast made again if there is enough of it."""
        try:
            self._relief.shrink(self._store)
            self._checkpoint()
            ballast.hold(self.directory)
        except (CommitFailed, apsw.Error, OSError) as exc:
            self._fail(translate(exc, self.directory))

    def _each(self, requests: list[Request | Work]) -> list[Any]:
        return [answer for request in requests for answer in self._commit([request])]

    def _refused(self, requests: list[Request | Work], exc: Exception) -> list[Any]:
        """Answers after an error: what concerns the log concerns everybody, else each one is tried alone."""
        if isinstance(exc, LogReplaced | LogTruncated | WitnessDamaged):
            self._failed = error = exc
        elif isinstance(exc, apsw.FullError | apsw.BusyError | LogBusy | LogFull):
            error = translate(exc, self.directory) if isinstance(exc, apsw.Error) else exc
            if isinstance(exc, apsw.FullError) and self._pages:
                self._checkpoint()  # what is in the file already leaves its room in the write-ahead log
        elif isinstance(exc, CommitFailed | apsw.IOError | apsw.CorruptError | apsw.NotADBError | OSError):
            error = self._fail(translate(exc, self.directory))
        elif len(requests) > 1:
            return self._each(requests)
        else:
            error = translate(exc, self.directory) if isinstance(exc, apsw.Error | UnicodeDecodeError) else exc
        return [error for _ in requests]

    def _transact(self, requests: list[Request | Work]) -> tuple[list[Any], int]:
        first = requests[0]
        if isinstance(first, Work):
            result, commits = self._store.write(first.work, check=self._check_whole)
            return [result], commits
        plain = [request for request in requests if not isinstance(request, Work)]
        return self._store.apply(plain, now_us=self.system.clock.now_us(), check=self._check_whole)

    def _check_whole(self, commits: int) -> None:
        self._guard.check()
        compare_witness(self._witness.read(), self.identity, commits, self.directory)

    def _announce(self, requests: list[Request | Work]) -> None:
        """Before anything else: what was committed can be read, and who is woken takes a while to get here."""
        touched = _touched(requests)
        if touched:
            with suppress(OSError):  # a wake-up that is lost costs its waiter one look later, the commit stands
                self._announcer.announce(touched)

    def _witnessed(self, commits: int) -> None:
        """At `normal` a commit may be lost with the power, so only checkpoints are witnessed there."""
        self._commits = commits
        if self.config.durability == "full":
            self._witness_now()

    def _witness_now(self) -> None:
        reached("log.witness")
        self._witness.write(Seen(self.identity.log, self.identity.incarnation, self._commits))

    def _grown(self, _db: apsw.Connection, _name: str, pages: int) -> int:
        self._pages = pages
        return apsw.SQLITE_OK

    def _checkpoint(self) -> bool:
        """Whether all of the write-ahead log is in the file now."""
        try:
            whole = checkpoint(self._db)
            if whole and self.config.durability == "normal":
                self._witness_now()
        except apsw.FullError:
            self._relief.full = True
            return False
        except (apsw.Error, OSError) as exc:
            self._fail(translate(exc, self.directory))
            return False
        self._relief.look()
        return whole

    def _make_room(self) -> None:
        """Nothing goes into a write-ahead log that cannot be emptied: the ballast must hold what is in there.

        Raises:
            LogFull, LogBusy: it cannot, for the disk is full, or somebody reads.
        """
        if self._relief.full or self._relief.stalls(self._pages):
            whole = self._checkpoint()
            if self._relief.full:
                raise self._relief.no_room()
            if not whole and self._relief.stalls(self._pages):
                raise self._relief.stalled(self._pages)

    def _fail(self, error: PenstockError) -> PenstockError:
        """Fail-stop: after an I/O error nobody knows what the disk holds until the log is opened again."""
        self._failed = error
        return OutcomeUnknown(f"{error}; the outcome is unknown, and this log object is closed: open the log again")

    def _leave(self) -> None:
        with suppress(apsw.Error):  # the next round tells of it
            self._store.roll_back()
        self._lock.leave()

    def _busy(self, waited_s: float) -> Exception:
        return LogBusy(opening.busy_text(self._lock, self.directory, waited_s))

    # -- reading ---------------------------------------------------------------------------------------------------

    def read(self, pid: int, offset: int, *, events_max: int, bytes_max: int = 8_000_000) -> list[Stored]:
        """Whole blocks from the one that holds `offset` on; see `placed.read`."""
        span = Span(pid, offset, OFFSET_MAX)
        return self.look(lambda db: placed.read(db, span, events_max=events_max, bytes_max=bytes_max))

    def look(self, work: Callable[[apsw.Connection], T]) -> T:
        """Run a read of the tables on the reading connection; short, and nothing of it stays open.

        It sees the log as of one commit: what others store meanwhile is not in some tables and missing in others.
        """
        with self._reading:
            self._check_usable()
            try:
                self._reader.execute("BEGIN")
                try:
                    return work(self._reader)
                finally:
                    self._end_reading()
            except (apsw.Error, UnicodeDecodeError) as exc:
                raise translate(exc, self.directory) from exc

    def _end_reading(self) -> None:
        """There is nothing to commit: what meets damage is told by the read, and the next one begins anew."""
        for end in ("COMMIT", "ROLLBACK"):
            with suppress(apsw.Error):
                if self._reader.in_transaction:
                    self._reader.execute(end)

    @contextmanager
    def connection(self) -> Generator[apsw.Connection, None, None]:
        """Another connection to the log's file, for a long read; opened and closed under the writers' lock.

        Raises:
            LogBusy: another process holds the lock.
        """
        self._check_usable()
        with ExitStack() as stack:
            lock = FairLock(self.directory)
            stack.callback(lock.close)
            opening.enter(lock, self.directory, wait_s=self.config.lock_wait_s)
            db = connect(self.directory / DATABASE, self.config.durability)
            lock.release()
            try:
                yield db
            finally:
                lock.acquire()
                db.close()

    def waiter(self, pids: Iterable[int]) -> Waiter:
        """A FIFO that becomes readable when one of the partitions gets events; the caller closes it."""
        self._check_usable()
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
                raise type(self._failed)(str(self._failed))
            msg = f"{self.directory}: closed by an earlier error ({self._failed}); open the log again"
            raise IOFailed(msg)

    @property
    def failure(self) -> PenstockError | None:
        """What closed this log object, if anything did."""
        return self._failed

    def close(self) -> None:
        """Finish what is queued and let everything go; may be called twice.

        While another process holds the log longer than `lock_wait_s`, who waited is told and the files are let go
        later, in the background.
        """
        if self not in _OPEN or self._pid != os.getpid():
            return
        _OPEN.discard(self)
        self._combiner.close()

    def _finish(self) -> None:
        """The commit thread's last act, under the writers' lock: closing may touch the files like a write."""
        self._failed = self._failed or self._closed()
        with self._reading, suppress(apsw.Error), ExitStack() as stack:  # after an I/O error closing may fail too
            stack.callback(self._lock.close)
            for part in (self._witness, self._db, self._reader, self._announcer):
                stack.callback(part.close)

    def _closed(self) -> Closed:
        return Closed(f"{self.directory}: this log object was closed; open it again")


def _size(request: Request | Work) -> int:
    match request:
        case Append(blocks=blocks):
            return 200 + sum(len(b.data) for b in blocks)
        case Advance(blocks=blocks, ledger=ledger):
            return 200 + sum(len(b.data) for b in blocks) + sum(len(k) + len(v or b"") for _, k, v in ledger)
        case Begin() | Claim() | Work():
            return 200


def _runs(requests: Sequence[Request | Work]) -> list[list[Request | Work]]:
    """The requests in their order: each declaration alone, what lies between two of them together."""
    runs: list[list[Request | Work]] = []
    for request in requests:
        if runs and not isinstance(request, Work) and not isinstance(runs[-1][-1], Work):
            runs[-1].append(request)
        else:
            runs.append([request])
    return runs


def _touched(requests: Sequence[Request | Work]) -> set[int]:
    return {block.pid for r in requests if isinstance(r, Append | Advance) for block in r.blocks}


_OPEN: set[Log] = set()
_INHERITED: list[Log] = []  # a child's copies live on unused: SQLite must not be touched there, not even to close


def _after_fork_in_child() -> None:
    _INHERITED.extend(_OPEN)
    _OPEN.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
__all__ = ["Identity", "Log", "LogConfig"]
