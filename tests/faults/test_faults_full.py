"""A disk that is full to its last byte, and one that is not any more: nothing acked is lost, and room can be made."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from penstock.channel.api import Publish, TopicSpec
from penstock.channel.bounds import Retention
from penstock.channel.drivers.embedded import EmbeddedChannel
from penstock.channel.drivers.embedded.upkeep import Upkeep
from penstock.errors import LogBusy, LogFull
from penstock.event.batch import NewBatch, Rows
from penstock.log import ballast
from penstock.log.log import Log, LogConfig
from penstock.system import real_system
from tests.faults import logwork
from tests.faults.report import FaultReport
from tests.faults.test_faults_damage import edit

SIZE_MB = 8
EVENT_BYTES = 20_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Path]:
    """A file system of 8 MB, which only root can make."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "penstock-test", str(place)]
    if os.getuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here: it takes root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def body(number: int) -> bytes:
    """An event that does not become smaller."""
    return b"%06d" % number + Random(number).randbytes(EVENT_BYTES)


class Filler:
    """Publishes until there is no room, and remembers what was acked."""

    def __init__(self, channel: EmbeddedChannel, *, after: int = 0) -> None:
        self.acked: list[int] = []
        self._channel = channel
        self._next = after

    async def publish(self) -> None:
        rows = Rows.of([body(self._next)])
        await self._channel.publish(Publish("p", 0, self._next, [NewBatch("t", 0, 1, rows)]))
        self.acked.append(self._next)
        self._next += 1

    async def fill(self) -> None:
        with pytest.raises(LogFull, match="nothing was stored"):
            await self._publish_on()

    async def _publish_on(self) -> None:
        while True:
            await self.publish()


async def numbers(channel: EmbeddedChannel) -> list[int]:
    """The events that are kept, each as it was published."""
    [offset] = await channel.begins("t")
    found: list[int] = []
    while batches := await channel.read("t", 0, offset, events_max=50):
        for batch in batches:
            assert isinstance(batch.payload, Rows)
            found += [int(one[:6]) for one in batch.payload.bodies() if one == body(int(one[:6]))]
        offset = batches[-1].end
    return found


def to_the_last_byte(place: Path) -> None:
    """Somebody else's file takes what is left."""
    with (place / "somebody-elses").open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 512):
                pass
        except OSError:
            pass


MEMBERS = """
import sys
from pathlib import Path
from penstock.system.seats import SeatFile
from penstock.system.slots import FileRecords

place = Path(sys.argv[1])
for make in (lambda: SeatFile(place / "seats", "worker", 1000), lambda: FileRecords(place / "slots")):
    try:
        make()
    except OSError as exc:
        print(exc.errno)
"""


def test_who_joins_on_a_full_disk_is_told_and_not_killed(small_disk: Path) -> None:
    """A map of a file without room is a bus error, of the process, at the first store."""
    for name in ("seats", "slots"):
        (small_disk / name).mkdir()
    to_the_last_byte(small_disk)
    joined = subprocess.run(
        [sys.executable, "-c", MEMBERS, str(small_disk)], capture_output=True, text=True, check=False
    )
    assert (joined.returncode, joined.stdout.split()) == (0, [str(errno.ENOSPC)] * 2), joined.stderr
    assert [path for name in ("seats", "slots") for path in (small_disk / name).iterdir()] == []


def test_a_full_disk_and_back(small_disk: Path, fault_report: FaultReport) -> None:
    tally = fault_report("A10", "A11")

    async def work() -> None:
        system = real_system()
        channel = EmbeddedChannel(small_disk / "log", system=system)
        await channel.open([TopicSpec("t", partitions=1, retention=Retention(bytes="2MB"))])
        filler, upkeep = Filler(channel), Upkeep(channel, system)
        await upkeep.once()
        for round_ in range(4):
            await filler.fill()
            if round_ == 0:
                to_the_last_byte(small_disk)
            for _ in range(3):
                await filler.fill()  # still no room, still said, still open
            found = await numbers(channel)
            tally.points += 1
            tally.compare(filler.acked[-len(found) :], found, where=f"full, round {round_}")
            report = await upkeep.once()
            assert report is not None
            tally.contradicts("trimmed", [] if report.topics[0].events else ["nothing"])
            tally.contradicts("ballast", [] if ballast.held(small_disk / "log") else ["not made again"])
            for _ in range(5):
                await filler.publish()
            found = await numbers(channel)
            tally.compare(filler.acked[-len(found) :], found, where=f"back, round {round_}")
            assert len(found) * EVENT_BYTES >= 1_900_000
        await channel.close()
        system.offload.close()

    asyncio.run(work())
    with logwork.opened(small_disk / "log") as log:
        assert log.failure is None
    assert tally.clean, tally.told


def test_a_disk_that_somebody_else_has_filled(small_disk: Path, fault_report: FaultReport) -> None:
    """The write-ahead log has no room of its own left over: what is to be removed needs the ballast."""
    tally = fault_report("A11")
    directory, spec = small_disk / "log", TopicSpec("t", partitions=1, retention=Retention(bytes="1MB"))

    async def fill(count: int) -> None:
        system = real_system()
        channel = EmbeddedChannel(directory, system=system)
        await channel.open([spec])
        await Upkeep(channel, system).once()
        filler = Filler(channel)
        for _ in range(count):
            await filler.publish()
        await channel.close()
        system.offload.close()

    async def trim() -> None:
        system = real_system()
        channel = EmbeddedChannel(directory, system=system)
        await channel.open([spec])
        before = await numbers(channel)
        with pytest.raises(LogFull):
            await Filler(channel, after=len(before)).publish()
        report = await Upkeep(channel, system).once()
        assert report is not None
        found = await numbers(channel)
        tally.points += 1
        tally.compare(before[-len(found) :], found)
        assert len(found) < len(before)
        await Filler(channel, after=len(before)).publish()
        await channel.close()
        system.offload.close()

    asyncio.run(fill(150))
    edit(directory, "PRAGMA wal_checkpoint(TRUNCATE)")
    to_the_last_byte(small_disk)
    asyncio.run(trim())
    assert tally.clean, tally.told


def publish_on(log: Log, pid: int, published: list[int]) -> None:
    for sequence in range(1, 1000):
        logwork.publish(log, pid, sequence, [body(sequence)])
        published.append(sequence)


def test_a_reader_that_does_not_end_stops_publishing_and_not_the_disk(
    tmp_path: Path, fault_report: FaultReport
) -> None:
    tally = fault_report("A12")
    with logwork.opened(tmp_path, LogConfig(wal_bytes_max=4_000_000)) as log:
        [pid] = logwork.declare(log, "t", 1)
        logwork.publish(log, pid, 0, [b"first"])
        with log.connection() as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM block").fetchall()
            published: list[int] = []
            with pytest.raises(LogBusy, match="write-ahead log has grown to"):
                publish_on(log, pid, published)
            sequence = published[-1] + 1
            size = (tmp_path / "log.db-wal").stat().st_size
            tally.points += 1
            tally.contradicts("size", [] if size < 6_000_000 else [f"{size} bytes"])
            assert log.failure is None
            assert len(logwork.contents(log, pid)) == sequence
            reader.execute("COMMIT")
        logwork.publish(log, pid, sequence, [body(sequence)])
        assert len(logwork.contents(log, pid)) == sequence + 1
    assert tally.clean, tally.told


@pytest.mark.parametrize("held", [False, True])
def test_a_log_is_opened_on_a_full_disk_in_the_room_of_its_ballast(small_disk: Path, held: bool) -> None:
    """The index of the write-ahead log may have to be made first: an I/O error, says SQLite, when it has no room."""
    directory = small_disk / "log"
    with logwork.opened(directory) as log:
        [pid] = logwork.declare(log, "t", 1)
        logwork.publish(log, pid, 0, [b"a"])
        if held:
            assert ballast.hold(directory)
    (directory / "log.db-shm").unlink()  # as of a log that was restored, or copied
    with suppress(OSError), (small_disk / "full").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    if not held:
        system = logwork.system()
        with pytest.raises(LogFull, match="the disk is full"):
            Log.open(directory, system)
        (small_disk / "full").unlink()
    with logwork.opened(directory) as log:
        assert logwork.contents(log, pid) == [b"a"]
    assert not ballast.held(directory)
