"""The driver's way to the log: the real one (files, locks, threads) and the inline one (tests and simulation)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeVar

import apsw

from penstock.channel.sharing import Chair, Seat, Table
from penstock.errors import Closed
from penstock.log.api import Request, Result
from penstock.log.connection import translate
from penstock.log.log import Log, LogConfig
from penstock.log.store import Identity, Store
from penstock.system.leases import LEASE_S
from penstock.system.ports import System
from penstock.system.seats import Heart, Room, SeatFile
from penstock.system.wake import Waiter

T = TypeVar("T")
FULL_LOOK_S = 0.001


class Tidings(Protocol):
    """Waits for new events of some partitions."""

    async def wait(self, seconds: float) -> None:
        """Return when there may be something new, or after `seconds`."""
        ...

    def poke(self) -> None:
        """End a wait now; from any thread."""
        ...

    def close(self) -> None:
        """Stop waiting; may be called twice."""
        ...


class Company(Protocol):
    """The members of a group as one of them sees them; it is a member from when it is made until it is closed."""

    name: str

    def seats(self) -> list[Seat]:
        """Every member that lives, this one included.

        One whose process has died, or stands still for the length of the lease, does not.
        """
        ...

    def mark(self, partition: int, epoch: int | None) -> None:
        """Let the others see that this member holds the partition at this epoch, or (None) not any more."""
        ...

    def close(self) -> None:
        """Leave; may be called twice."""
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

    def apply_at_once(self, request: Request) -> Result | None:
        """As `apply`, unless others are there: see `Log.apply_at_once`."""
        ...

    def forsake(self) -> None:
        """See `Log.forsake`."""
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

    def company(self, key: str, label: str, *, partitions: int, changed: Callable[[], None]) -> Company:
        """Become a member of what `key` names; `changed` is called, from any thread, when others have changed."""
        ...

    def present(self, key: str) -> list[Seat]:
        """Who lives of the members of `key`, for one who is none."""
        ...

    def tidings(self, pids: Sequence[int]) -> Tidings:
        """Wake-ups for these partitions."""
        ...

    async def close(self) -> None:
        """Let the log go; may be called twice."""
        ...


class RealPort:
    """A log directory on disk."""

    def __init__(
        self, directory: Path, system: System, config: LogConfig | None = None, *, lease_s: float = LEASE_S
    ) -> None:
        self._system = system
        self.log = Log.open(directory, system, config)
        self.identity = self.log.identity
        self._turn = asyncio.Lock()
        self._queueing = 0
        self._lease_s = lease_s
        self._heart = Heart()
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

    def apply_at_once(self, request: Request) -> Result | None:
        """See `LogPort`."""
        return self.log.apply_at_once(request)

    def forsake(self) -> None:
        """See `LogPort`."""
        self.log.forsake()

    async def write(self, work: Callable[[apsw.Connection], T]) -> T:
        """See `LogPort`."""
        return await asyncio.wrap_future(self.log.write(work))

    async def relieve(self, work: Callable[[apsw.Connection], T]) -> T:
        """See `LogPort`."""
        return await asyncio.wrap_future(self.log.relieve(work))

    def look(self, work: Callable[[apsw.Connection], T]) -> T:
        """See `LogPort`: a read is a copy out of the page cache."""
        return self.log.look(work)

    def company(self, key: str, label: str, *, partitions: int, changed: Callable[[], None]) -> Company:
        """See `LogPort`: a seat in a directory of that name, whose lock the kernel frees at death."""
        directory = self.log.directory / "groups" / key
        try:
            seat = SeatFile(directory, label, partitions)
        except OSError as exc:
            raise translate(exc, directory) from exc
        room = Room(directory, seat, lease_s=self._lease_s)
        return _RealCompany(room, label, self._heart, changed)

    def present(self, key: str) -> list[Seat]:
        """See `LogPort`."""
        room = Room(self.log.directory / "groups" / key)
        try:
            return [Seat(seen.name, seen.label, seen.holds) for seen in room.seats()]
        finally:
            room.close()

    def tidings(self, pids: Sequence[int]) -> Tidings:
        """See `LogPort`."""
        try:
            return _FifoTidings(self.log.waiter(pids))
        except OSError as exc:
            raise translate(exc, self.log.directory) from exc

    async def close(self) -> None:
        """See `LogPort`."""
        await self._system.offload.run(self._heart.close)
        await self._system.offload.run(self.log.close)


class _RealCompany:
    """A seat of this process among those of others; the heart beats for it."""

    def __init__(self, room: Room, label: str, heart: Heart, changed: Callable[[], None]) -> None:
        assert room.own is not None
        self.room = room
        self.name = room.own.name
        self._own = room.own
        self._label = label
        self._heart = heart
        self._holds: dict[int, int] = {}
        heart.add(room, changed)

    def seats(self) -> list[Seat]:
        """See `Company`."""
        others = [Seat(seen.name, seen.label, seen.holds) for seen in self.room.seats()]
        return [*others, Seat(self.name, self._label, dict(self._holds))]

    def mark(self, partition: int, epoch: int | None) -> None:
        """See `Company`."""
        self._own.mark(partition, epoch)
        if epoch is None:
            self._holds.pop(partition, None)
        else:
            self._holds[partition] = epoch

    def close(self) -> None:
        """See `Company`."""
        self._heart.remove(self.room)
        self.room.close()


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

    def poke(self) -> None:
        """See `Tidings`."""
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._event.set)

    def close(self) -> None:
        """See `Tidings`."""
        self._event.set()
        if self._waiter.fd >= 0:
            self._loop.remove_reader(self._waiter.fd)
            self._waiter.close()


class Disk:
    """What several inline ports share: the real tables in memory, who the members of each group are, who waits."""

    def __init__(self, *, now_us: int = 0, log: str = "simulated") -> None:
        self.store = Store(apsw.Connection(":memory:"))
        self.store.create(log, now_us=now_us)
        self.identity = self.store.identity()
        self.tables: dict[str, Table] = {}
        self.waiting: set[asyncio.Event] = set()

    def wake(self) -> None:
        """Something changed: everybody who waits looks again."""
        for event in self.waiting:
            event.set()


class InlinePort:
    """The real SQL on real SQLite in memory, inline: one transaction per request, no threads, no files."""

    def __init__(self, disk: Disk, system: System) -> None:
        self.disk = disk
        self.identity = disk.identity
        self._system = system
        self._closed = False
        self._chairs: list[Chair] = []

    async def queue(self, request: Request) -> Awaitable[Result]:
        """See `LogPort`."""
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        answer.set_result(self.apply(request))
        return answer

    def apply(self, request: Request) -> Result:
        """See `LogPort`."""
        self._check_open()
        results, _ = self.disk.store.apply([request], now_us=self._system.clock.now_us())
        self.disk.wake()
        return results[0]

    def apply_at_once(self, request: Request) -> Result | None:
        """See `LogPort`."""
        return self.apply(request)

    def forsake(self) -> None:
        """See `LogPort`: nothing is ever left."""

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

    def company(self, key: str, label: str, *, partitions: int, changed: Callable[[], None]) -> Company:
        """See `LogPort`; whoever waits is woken by every change."""
        chair = self.disk.tables.setdefault(key, Table()).sit(label)
        self._chairs.append(chair)
        self.disk.wake()
        return _InlineCompany(chair, self.disk)

    def present(self, key: str) -> list[Seat]:
        """See `LogPort`."""
        table = self.disk.tables.get(key)
        return [] if table is None else table.seats()

    def tidings(self, pids: Sequence[int]) -> Tidings:
        """See `LogPort`; every commit wakes everybody."""
        return _InlineTidings(self.disk)

    def die(self) -> None:
        """What others see of a process that died, or is given up while it is stopped: until it looks again, nothing."""
        for chair in self._chairs:
            chair.live = False
        self.disk.wake()

    async def close(self) -> None:
        """See `LogPort`."""
        self._closed = True
        for chair in self._chairs:
            chair.close()
        self.disk.wake()


class _InlineCompany:
    def __init__(self, chair: Chair, disk: Disk) -> None:
        self.name = chair.name
        self._chair = chair
        self._disk = disk

    def seats(self) -> list[Seat]:
        return self._chair.seats()

    def mark(self, partition: int, epoch: int | None) -> None:
        self._chair.mark(partition, epoch)
        self._disk.wake()

    def close(self) -> None:
        self._chair.close()
        self._disk.wake()


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

    def poke(self) -> None:
        self._event.set()

    def close(self) -> None:
        self._disk.waiting.discard(self._event)
        self._event.set()
