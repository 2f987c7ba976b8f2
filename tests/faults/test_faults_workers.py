"""Several workers on one log that are killed, stopped, and come and go: nothing is lost, doubled or reordered."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock import App, NewEvent
from penstock.channel.api import Assigned, GroupSpec, Subscription, TopicSpec
from penstock.channel.drivers.embedded import EmbeddedChannel
from penstock.event.batch import Rows
from penstock.log import blocks, catalogue, placed, progress
from penstock.log.api import Advance, Appended, Claim, Claimed, Overtaken, Span, Stored
from penstock.system import real_system
from penstock.system.locks import FairLock
from penstock.system.seats import Room, SeatFile
from tests.faults import appwork, workers
from tests.faults.logwork import ROOT
from tests.faults.report import FaultReport
from tests.unit.log.logs import append, block, in_memory

DAY_S = 86_400.0


def test_workers_that_are_killed_and_stopped(tmp_path: Path, seed: int, fault_report: FaultReport) -> None:
    tally = fault_report("B1", "B6", "B7")
    feed, cycles = workers.cycled(tmp_path, 6, seed=seed)
    workers.counted(tmp_path, feed, tally)
    tally.points += cycles.kills + cycles.stops + cycles.joins
    assert cycles.deaths == []
    assert tally.clean, tally.told


def test_a_wall_clock_that_jumps_ends_no_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault_report: FaultReport
) -> None:
    """A day forward, a day back, and to and fro between two beats of a member that lives."""
    tally = fault_report("B12", "E1")
    now_s = 1e9
    monkeypatch.setattr(time, "time", lambda: now_s)
    seat, room = SeatFile(tmp_path, "lives", 1), Room(tmp_path)
    for jump in (DAY_S, -DAY_S, -DAY_S, DAY_S, DAY_S):
        assert [seen.name for seen in room.seats()] == [seat.name]
        now_s += jump
        assert [seen.name for seen in room.seats()] == [seat.name]
        tally.points += 1
    room.close()
    seat.close()


async def test_a_slow_disk_costs_no_lease(tmp_path: Path, fault_report: FaultReport) -> None:
    """Somebody holds the writers' lock for longer than the lease: the member lives, for everybody who looks."""
    tally = fault_report("A17")
    system = real_system()
    lease_s = 0.5
    channel = EmbeddedChannel(tmp_path / "log", system=system, lease_s=lease_s)
    await channel.open([TopicSpec("t", partitions=1)])
    intake = await channel.join(Subscription(GroupSpec("g", "t"), "slow"))
    assert isinstance(await intake.next(events_max=1, bytes_max=1, wait_s=1.0), Assigned)
    room = Room(next((tmp_path / "log" / "groups").iterdir()), lease_s=lease_s)
    lock = FairLock(tmp_path / "log")
    lock.acquire()
    until = time.monotonic() + 2 * lease_s
    while time.monotonic() < until:
        seen = room.seats()
        assert [one.label for one in seen] == ["slow"], "it is taken for dead"
        tally.points += 1
        await asyncio.sleep(0.02)
    lock.release()
    lock.close()
    room.close()
    await channel.close()
    system.offload.close()


def test_a_step_of_an_owner_before_is_refused(fault_report: FaultReport) -> None:
    """However late it comes, and whatever floor and number it names: nothing of it is stored."""
    tally = fault_report("B1")
    store, (pid, into) = in_memory(2)
    group = catalogue.declare_group(store.db, "g", b"{}", partitions=1)
    progress.begin(store.db, group.id, pid, floor=0)
    store.apply([append(0, block(pid, *(b"%d" % n for n in range(10))))], now_us=0)

    def step(epoch: int, before: int) -> object:
        request = Advance(group.id, pid, epoch, before, before + 1, blocks=[block(into, b"%d" % before)])
        (answer,), _ = store.apply([request], now_us=0)
        return answer

    for floor in range(10):
        (claimed,), _ = store.apply([Claim(group.id, [pid])], now_us=0)
        assert isinstance(claimed, Claimed)
        (held,) = claimed.held
        assert held.floor == floor
        for before in range(held.floor + 1):  # of owners before, the newest included
            for epoch in range(1, held.epoch):
                assert isinstance(step(epoch, before), Overtaken)
                tally.points += 1
        assert isinstance(step(held.epoch, floor), Appended)
    found = [body for stored in placed.read(store.db, Span(into, 0, 100), events_max=100, bytes_max=1 << 20)
             for body in decode(stored)]  # fmt: skip
    tally.compare([b"%d" % n for n in range(10)], found)
    assert tally.clean, tally.told


def decode(stored: Stored) -> list[bytes]:
    """The events of a block of rows."""
    payload = blocks.decode(stored.data, arrow=None)
    assert isinstance(payload, Rows)
    return payload.bodies()


def test_the_lease_is_the_app_s(tmp_path: Path) -> None:
    """A stopped worker's partitions are others' when the lease that the program asks for is over, and not later."""
    program = tmp_path / "program.py"
    program.write_text(
        "import os\nfrom pathlib import Path\nfrom penstock import App\n"
        "app = App('lease', path=Path(__file__).parent / 'log', lease='500ms')\n"
        "items, done = app.topic('items', partitions=8), app.topic('done', partitions=1)\n"
        "@app.handle(items, into=done)\ndef work(item: bytes) -> bytes:\n    return b'%d' % os.getpid()\n"
    )
    app = App("lease", path=tmp_path / "log")
    app.topic("items", partitions=8)
    app.topic("done", partitions=1)
    command = [sys.executable, "-m", "penstock.cli", "run", str(program)]
    workers = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) for _ in range(2)]

    def results() -> list[bytes]:
        return appwork.bodies(tmp_path / "log", "done")

    def until(met: Callable[[], bool]) -> float:
        began = time.monotonic()
        while not met():
            assert time.monotonic() - began < 30
            time.sleep(0.05)
        return time.monotonic() - began

    try:
        with app.client() as client:

            def publish() -> int:
                client.publish_many("items", [NewEvent(data=b"item", key=f"k{number}") for number in range(16)])
                return 16

            until(lambda: publish() > 0 and len(set(results()[-16:])) == 2)
            until(lambda: len(results()) % 16 == 0)
            workers[0].send_signal(signal.SIGSTOP)
            whole = len(results()) + publish()
            assert until(lambda: len(results()) == whole) < 1.8  # without the option 2 seconds at least
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
