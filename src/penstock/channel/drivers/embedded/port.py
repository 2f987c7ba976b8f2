"""The driver's way to the log: the real one (files, locks, threads) and the inline one (tests and simulation)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import apsw

from penstock.errors import Closed
from penstock.log.api import Request, Result
from penstock.log.log import Log, LogConfig
from penstock.log.store import Identity, Store
from penstock.system.locks import FileLock
from penstock.system.ports import System
from penstock.system.wake import Waiter

T = TypeVar("T")
FULL_LOOK_S = 0.001


class Tidings(Protocol):
    """Waits for new events of some partitions."""

    async def wait(self, seconds: float) -> None:
        """Return when there may be something new, or after `seconds`."""
        ...

    def close(self) -> None:
        """Stop waiting; may be called twice."""
        ...


class Ownership(Protocol):
    """Who owns a group: one member at a time, freed when its process dies."""

    def try_acquire(self, label: str = "") -> bool:
        """Become the owner if there is none; never blocks. True again while one is the owner."""
        ...

    def label(self) -> str:
        """What the present owner wrote."""
        ...

    def close(self) -> None:
        """Give it up; may be called twice."""
        ...


class LogPort(Protocol):
    """What the driver needs of a log."""

    identity: Identity

    async def queue(self, request: Request) -> Awaitable[Result]:
        """Queue one request for commit, in the order of the calls; waits while the queue is full.

        Returns:
            The answer to await; see `Log.submit` for what it raises.
        """
        ...

    def apply(self, request: Request) -> Result:
        """Commit one request and wait for it, in this thread; from any thread."""
        ...

    async def write(self, work: Callable[[apsw.Connection], T]) -> T:
        """Run a declaration in a transaction."""
        ...

    async def relieve(self, work: Callable[[apsw.Connection], T]) -> T:
        """As `write`, when the disk is full: what `work` removes makes room."""
        ...

    def look(self, work: Callable[[apsw.Connection], T]) -> T:
        """A short read of the tables, at once, in this thread; from any thread."""
        ...

    def ownership(self, group_id: int) -> Ownership:
        """The group's ownership, as this process sees it."""
        ...

    def tidings(self, pids: Sequence[int]) -> Tidings:
        """Wake-ups for these partitions."""
        ...

    async def close(self) -> None:
        """Let the log go; may be called twice."""
        ...


class RealPort:
    """A log directory on disk."""

    def __init__(self, directory: Path, system: System, config: LogConfig | None = None) -> None:
        self._system = system
        self.log = Log.open(directory, system, config)
        self.identity = self.log.identity
        self._turn = asyncio.Lock()
        self._queueing = 0
        (directory / "groups").mkdir(exist_ok=True)

    async def queue(self, request: Request) -> Awaitable[Result]:
        """See `LogPort`. While the log's queue is full one task looks for all that wait, and they keep their order."""
        if self._queueing == 0 and not self.log.busy():
            return asyncio.wrap_future(self.log.submit(request))
        self._queueing += 1
        try:
            async with self._turn:
                while self.log.busy():
                    await self._system.clock.sleep(FULL_LOOK_S)
                return asyncio.wrap_future(self.log.submit(request))
        finally:
            self._queueing -= 1

    def apply(self, request: Request) -> Result:
        """See `LogPort`."""
        return self.log.apply(request)

    async def write(self, work: Callable[[apsw.Connection], T]) -> T:
        """See `LogPort`."""
        return await asyncio.wrap_future(self.log.write(work))

    async def relieve(self, work: Callable[[apsw.Connection], T]) -> T:
        """See `LogPort`."""
        return await asyncio.wrap_future(self.log.relieve(work))

    def look(self, work: Callable[[apsw.Connection], T]) -> T:
        """See `LogPort`: a read is a copy out of the page cache."""
        return self.log.look(work)

    def ownership(self, group_id: int) -> Ownership:
        """See `LogPort`: a flock on a file named by the group's number, freed by the kernel at death."""
        return FileLock(self.log.directory / "groups" / f"{group_id}.owner")

    def tidings(self, pids: Sequence[int]) -> Tidings:
        """See `LogPort`."""
        return _FifoTidings(self.log.waiter(pids))

    async def close(self) -> None:
        """See `LogPort`."""
        await self._system.offload.run(self.log.close)


class _FifoTidings:
    """Waits on a FIFO with the running loop; the kernel wakes us, a look each `seconds` is the safety net."""

    def __init__(self, waiter: Waiter) -> None:
        self._waiter = waiter
        self._event = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(waiter.fd, self._woken)

    def _woken(self) -> None:
        self._waiter.drain()
        self._event.set()

    async def wait(self, seconds: float) -> None:
        """See `Tidings`."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            pass
        self._event.clear()

    def close(self) -> None:
        """See `Tidings`."""
        self._event.set()
        if self._waiter.fd >= 0:
            self._loop.remove_reader(self._waiter.fd)
            self._waiter.close()


class Disk:
    """What several inline ports share: the real tables in memory, who owns which group, who waits."""

    def __init__(self, *, now_us: int = 0, log: str = "simulated") -> None:
        self.store = Store(apsw.Connection(":memory:"))
        self.store.create(log, now_us=now_us)
        self.identity = self.store.identity()
        self.owners: dict[int, tuple[InlinePort, str]] = {}
        self.waiting: set[asyncio.Event] = set()

    def seize(self, group_id: int) -> None:
        """Take the ownership away from whoever has it, as when a stopped process is given up."""
        self.owners.pop(group_id, None)


class InlinePort:
    """The real SQL on real SQLite in memory, inline: one transaction per request, no threads, no files."""

    def __init__(self, disk: Disk, system: System) -> None:
        self.disk = disk
        self.identity = disk.identity
        self._system = system
        self._closed = False

    async def queue(self, request: Request) -> Awaitable[Result]:
        """See `LogPort`."""
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        answer.set_result(self.apply(request))
        return answer

    def apply(self, request: Request) -> Result:
        """See `LogPort`."""
        self._check_open()
        results, _ = self.disk.store.apply([request], now_us=self._system.clock.now_us())
        for event in self.disk.waiting:
            event.set()
        return results[0]

    async def write(self, work: Callable[[apsw.Connection], T]) -> T:
        """See `LogPort`."""
        self._check_open()
        return self.disk.store.write(work)[0]

    async def relieve(self, work: Callable[[apsw.Connection], T]) -> T:
        """See `LogPort`: memory is never full."""
        return await self.write(work)

    def look(self, work: Callable[[apsw.Connection], T]) -> T:
        """See `LogPort`."""
        self._check_open()
        return work(self.disk.store.db)

    def _check_open(self) -> None:
        if self._closed:
            msg = "this port was closed; make another"
            raise Closed(msg)

    def ownership(self, group_id: int) -> Ownership:
        """See `LogPort`."""
        return _InlineOwnership(self, group_id)

    def tidings(self, pids: Sequence[int]) -> Tidings:
        """See `LogPort`; every commit wakes everybody."""
        return _InlineTidings(self.disk)

    def die(self) -> None:
        """What the kernel does at the death of a process: its ownerships are free."""
        for group_id, (port, _) in list(self.disk.owners.items()):
            if port is self:
                del self.disk.owners[group_id]

    async def close(self) -> None:
        """See `LogPort`."""
        self._closed = True
        self.die()


class _InlineOwnership:
    def __init__(self, port: InlinePort, group_id: int) -> None:
        self._port = port
        self._group_id = group_id

    def try_acquire(self, label: str = "") -> bool:
        owner = self._port.disk.owners.get(self._group_id)
        if owner is None:
            self._port.disk.owners[self._group_id] = (self._port, label)
            return True
        return owner[0] is self._port

    def label(self) -> str:
        owner = self._port.disk.owners.get(self._group_id)
        return "" if owner is None else owner[1]

    def close(self) -> None:
        owner = self._port.disk.owners.get(self._group_id)
        if owner is not None and owner[0] is self._port:
            del self._port.disk.owners[self._group_id]


class _InlineTidings:
    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._event = asyncio.Event()
        disk.waiting.add(self._event)

    async def wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            pass
        self._event.clear()

    def close(self) -> None:
        self._disk.waiting.discard(self._event)
        self._event.set()
