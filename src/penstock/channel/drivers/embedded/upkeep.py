"""Keeping a log in order beside its groups: what is trimmed when, in slices that let everybody else in between.

Of all processes that have the log open one does it at a time. Everything it does is one short transaction after the
other; a pause as long as the slice took follows each, so that it never takes more than half of the log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import apsw
import msgspec

from penstock.channel.api import Topic
from penstock.channel.drivers.embedded.port import LogPort
from penstock.errors import CorruptionError, LogFull, PenstockError
from penstock.log import ages, ballast, compaction, living, placed, progress, relief, retention
from penstock.log.api import TopicRow
from penstock.system.locks import FileLock
from penstock.system.ports import System
from penstock.telemetry import emit

T = TypeVar("T")
LOCK = "upkeep"
_OFFSETS_AT_ONCE = 20_000
_PAUSE_S_MIN = 0.001


class UpkeepConfig(msgspec.Struct, frozen=True):
    """How often a running program looks after its log, and when groups that are gone hold nothing up any more."""

    every_s: float = 10.0
    expiry: living.Expiry = living.Expiry()


class TopicTrimmed(msgspec.Struct):
    """What was removed of a topic, and what would have been, were it not needed; `failed`: why it could not go on."""

    topic: str
    events: int = 0
    bytes: int = 0
    held: list[str] = msgspec.field(default_factory=list[str])
    failed: str = ""


class Report(msgspec.Struct):
    """What one pass did. `warned`: groups that hold nothing any more in a while, unless they come back."""

    topics: list[TopicTrimmed] = msgspec.field(default_factory=list[TopicTrimmed])
    warned: list[str] = msgspec.field(default_factory=list[str])
    steps: int = 0
    pages: int = 0
    bundled: int = 0


class Host(Protocol):
    """What upkeep needs of a channel; see `EmbeddedChannel`."""

    directory: Path | None

    @property
    def port(self) -> LogPort:
        """The open log."""
        ...

    def topics(self) -> dict[str, Topic]:
        """Every topic of the log, by name."""
        ...

    def row(self, name: str) -> TopicRow:
        """A topic's row in the log."""
        ...


ApartOf = Callable[[Host, str], retention.Apart | None]
"""Of a topic by its name: whose it is, when a group keeps there what belongs to its input; None for all others."""


class Upkeep:
    """Looks after one log. Used from one task.

    Args:
        host: the open log.
        system: clock and threads.
        config: how often, and when groups are gone.
        apart_of: which topics groups keep for themselves; None: they keep none.
    """

    def __init__(
        self,
        host: Host,
        system: System,
        config: UpkeepConfig | None = None,
        *,
        apart_of: ApartOf | None = None,
    ) -> None:
        self._host = host
        self._apart_of = apart_of
        self._system = system
        self._config = config or UpkeepConfig()
        self._compacted: dict[int, int] = {}  # pid -> where the next look for small blocks begins
        self._grown: dict[int, int] = {}  # pid -> how far the partition must have grown by then
        self._sizes: dict[int, tuple[int, int, int]] = {}  # pid -> first kept offset, end, and the bytes between

    async def run(self) -> None:
        """For ever: a pass, a pause. What goes wrong is said in the log and tried again; cancel it to end it."""
        while True:
            await self._system.clock.sleep(self._config.every_s)
            try:
                await self.once()
            except (PenstockError, OSError) as exc:
                emit.log(logging.WARNING, "upkeep failed", reason=str(exc))

    async def once(self, *, force: bool = False, topics: Sequence[str] | None = None) -> Report | None:
        """One pass; None when another process is at it.

        Args:
            force: trim what groups have not settled, too.
            topics: only these; all of them otherwise.
        """
        lock = None if self._host.directory is None else FileLock(self._host.directory / LOCK)
        try:
            if lock is not None and not lock.try_acquire():
                return None
            return await self._pass(force=force, topics=topics)
        finally:
            if lock is not None:
                lock.close()

    async def _pass(self, *, force: bool, topics: Sequence[str] | None) -> Report:
        report = Report()
        await self._look_after_groups(report)
        for name, topic in sorted(self._host.topics().items()):
            limits = limits_of(topic)
            if limits is not None and (topics is None or name in topics):
                await self._trim(name, limits, report, force=force)
        if topics is None:
            for row in [self._host.row(name) for name in self._host.topics()]:
                for pid in row.pids:
                    report.bundled += await self._compact(pid)
            report.pages = await self._vacuum()
        await self._hold_ballast()
        return report

    # -- groups ----------------------------------------------------------------------------------------------------

    async def _look_after_groups(self, report: Report) -> None:
        expiry = self._config.expiry

        def noted(db: apsw.Connection) -> bool:
            return living.review(db, now_us=self._ages(db).now_us, expiry=expiry, alive=self._alive)[1]

        def note(db: apsw.Connection) -> list[str]:
            return living.note(db, now_us=self._look(db).now_us, expiry=expiry, alive=self._alive)

        if self._host.port.look(noted):
            report.warned = await self._slice(note)
        for name in report.warned:
            days = expiry.warned_us / living.DAY_US
            emit.count("penstock_groups_quiet_total", group=name)
            emit.log(logging.WARNING, "group is quiet and soon holds retention up no more", group=name, days=days)

    def _alive(self, group_id: int) -> bool:
        return bool(self._host.port.present(str(group_id)))

    # -- retention -------------------------------------------------------------------------------------------------

    async def _trim(self, name: str, limits: retention.Limits, report: Report, *, force: bool) -> None:
        told = TopicTrimmed(name)
        report.topics.append(told)
        pids = self._host.row(name).pids
        apart = None if self._apart_of is None else self._apart_of(self._host, name)
        task = retention.Task(pids, limits, force=force, apart=apart)
        try:
            await self._trim_slices(task, told)
            report.steps += await self._trim_steps(pids)
        except CorruptionError as exc:  # nothing is removed behind what cannot be read; other topics go on
            told.failed = str(exc)
            emit.log(logging.WARNING, "retention stopped", topic=name, reason=told.failed)

    async def _trim_slices(self, task: retention.Task, told: TopicTrimmed) -> None:
        expiry = self._config.expiry
        bytes_max = task.limits.bytes_max
        size = 0 if bytes_max is None else await self._size(task.pids)
        if bytes_max is not None and size > bytes_max:  # another process may have bundled what was counted before
            for pid in task.pids:
                self._sizes.pop(pid, None)
            size = await self._size(task.pids)
        while True:
            planned = self._host.port.look(
                lambda db, size=size: retention.plan(
                    db, task, ages=self._ages(db), expiry=expiry, bytes_now=size
                )
            )  # fmt: skip
            told.held = _told(task.pids, planned.done.held)
            if not planned.begins:
                return
            done = await self._slice(
                lambda db, size=size: retention.trim(
                    db, task, ages=self._look(db), expiry=expiry, bytes_now=size
                )
            )  # fmt: skip
            size -= done.bytes
            told.events += done.events
            told.bytes += done.bytes
            emit.count("penstock_events_trimmed_total", done.events, topic=told.topic)

    async def _size(self, pids: Sequence[int]) -> int:
        """The bytes of these partitions' blocks; only what came since the last look is looked at."""
        total = 0
        for pid in pids:
            ends = self._host.port.look(lambda db, pid=pid: placed.known(db, pid))
            begin, end, size = self._sizes.get(pid, (ends.begin, ends.begin, 0))
            if begin != ends.begin:
                end, size = ends.begin, 0
            while end < ends.offset:
                stop = min(end + _OFFSETS_AT_ONCE, ends.offset)
                size += self._host.port.look(
                    lambda db, pid=pid, start=end, stop=stop: retention.bytes_of(db, pid, start=start, end=stop)
                )
                end = stop
                await self._system.clock.sleep(0)
            self._sizes[pid] = (ends.begin, end, size)
            total += size
        return total

    async def _trim_steps(self, pids: Sequence[int]) -> int:
        groups = self._host.port.look(lambda db: progress.groups_on(db, pids))
        total = 0
        while self._host.port.look(lambda db: retention.steps_due(db, pids, groups)):
            total += await self._slice(lambda db: retention.trim_steps(db, pids, groups))
        return total

    async def _compact(self, pid: int) -> int:
        """Bundle the partition's small blocks, from where the last look ended; how many were."""
        port, count = self._host.port, 0
        end = port.look(lambda db: placed.next_offset(db, pid))
        if end < self._grown.get(pid, 0):  # too little has come since the last look to be worth one
            return 0
        self._grown[pid] = end + compaction.BLOCKS_MIN
        at: int | None = self._compacted.get(pid, 0)
        while at is not None:
            found = port.look(lambda db, at=at: compaction.find(db, pid, at))
            run, at = found.run, found.onward
            if run is None:
                await self._system.clock.sleep(0)
            else:
                try:
                    bundled = await self._system.offload.run(
                        lambda run=run: port.look(lambda db: compaction.make(db, run))
                    )  # fmt: skip
                except CorruptionError as exc:  # it stays as it is, and whoever reads it is told
                    emit.log(logging.WARNING, "compaction left damaged blocks alone", reason=str(exc))
                else:
                    if await self._slice(lambda db, bundled=bundled: compaction.swap(db, bundled)):
                        self._sizes.pop(pid, None)
                        count += len(run.checks)
            if at is not None:
                self._compacted[pid] = at
        return count

    async def _hold_ballast(self) -> None:
        """Make it again when it was released, as soon as there is room."""
        directory = self._host.directory
        if directory is None or ballast.held(directory) or not ballast.wanted(ballast.free_bytes(directory)):
            return
        await self._slice(lambda _: ballast.hold(directory))

    async def _vacuum(self) -> int:
        """Give unused pages back to the file system; a file that is mostly used keeps them for what comes next."""
        given = 0
        while True:
            free, total = self._host.port.look(relief.unused)
            if free < relief.SHRINK_PAGES or free * relief.UNUSED_PARTS < total:
                return given
            try:
                given += await self._slice(lambda db: relief.vacuum(db, relief.SHRINK_PAGES))
            except LogFull:  # a page that moves is written twice; what retention has removed is room enough
                return given

    # -- slices ----------------------------------------------------------------------------------------------------

    async def _slice(self, work: Callable[[apsw.Connection], T]) -> T:
        started_s = self._system.clock.monotonic_s()
        try:
            done = await self._host.port.write(work)
        except LogFull:  # removing needs room too: that of the ballast
            done = await self._host.port.relieve(work)
        await self._system.clock.sleep(max(_PAUSE_S_MIN, self._system.clock.monotonic_s() - started_s))
        return done

    def _clocks(self) -> tuple[int, int]:
        return self._system.clock.now_us(), int(self._system.clock.monotonic_s() * 1_000_000)

    def _ages(self, db: apsw.Connection) -> ages.Ages:
        """What the clocks say now, without a note of it."""
        now_us, monotonic_us = self._clocks()
        return ages.moved(ages.known(db), now_us=now_us, monotonic_us=monotonic_us)

    def _look(self, db: apsw.Connection) -> ages.Ages:
        now_us, monotonic_us = self._clocks()
        return ages.look(db, now_us=now_us, monotonic_us=monotonic_us)


def _told(pids: Sequence[int], held: Sequence[retention.Held]) -> list[str]:
    """What stops retention, by partition; what is no offset of a partition is said once."""
    places = [(pids.index(one.pid), one) for one in held]
    needed = [
        f"group {one.group} needs partition {number} from offset {one.offset} on"
        for number, one in places
        if not one.why
    ]
    return [*needed, *sorted({one.why for one in held if one.why})]


def limits_of(topic: Topic) -> retention.Limits | None:
    """What the topic's declaration says that it keeps; None for everything."""
    wanted = topic.spec.retention
    if wanted is None or (wanted.age is None and wanted.bytes is None):
        return None
    age_s = wanted.age_s
    return retention.Limits(None if age_s is None else int(age_s * 1_000_000), wanted.bytes_max)
