"""Events that come again, timers that were due while nobody ran, and a consumer that cannot keep up."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from penstock import App, Retry
from penstock.channel.typed import TypedTopic
from penstock.cli import entry, exits
from penstock.cli.options import opened
from penstock.engine.context import Identity
from penstock.schema import schema_of
from tests.faults.logwork import ROOT
from tests.faults.report import FaultReport

BURSTS = 10
PAUSE_S = 4.0
Told = tuple[int, str, bytes, bytes | None]
"""Partition, id, body and key of a recorded event."""


class Item(msgspec.Struct):
    key: str
    number: int


class Part(msgspec.Struct):
    key: str
    number: int
    part: int


def recorded(app: App, name: str, kind: type) -> list[Told]:
    """Every event of a topic, in each partition's order."""

    async def read() -> list[Told]:
        found: list[Told] = []
        async with opened(app.directory) as log:
            topic = TypedTopic(log.channel.topic(name), schema_of(kind))
            for partition, end in enumerate(await log.channel.tips(name)):
                offset = 0
                while offset < end:
                    for batch in await log.channel.read(name, partition, offset, events_max=1000):
                        who = Identity(batch, topic)
                        found += [(partition, who.id(i), who.body(i), who.key(i)) for i in range(batch.count)]
                        offset = batch.end
        return found

    return asyncio.run(read())


def test_events_that_come_again(tmp_path: Path, fault_report: FaultReport) -> None:
    """A group is put back ten times, each time elsewhere: what it writes is the same again, ids, bytes and order."""
    tally = fault_report("C12", "E9")
    app = App("again", path=tmp_path / "log")
    items = app.topic("items", Item, key="key", partitions=2)
    parts = app.topic("parts", Part, key="key", partitions=2)

    @app.handle(items, into=parts, name="split")
    def split(item: Item) -> list[Part]:
        return [Part(item.key, item.number, part) for part in range(item.number % 3)]

    with app.client() as client:
        for start in range(0, 2_000, 7):
            numbers = range(start, min(start + 7, 2_000))
            client.publish_many("items", [Item(f"k{n % 11}", n) for n in numbers])
    app.run(until_idle=True)
    first = recorded(app, "parts", Part)
    assert len({event_id for _, event_id, _, _ in first}) == len(first) > 1_000
    inputs = [[e for e in recorded(app, "items", Item) if e[0] == partition] for partition in range(2)]
    for burst in range(BURSTS):
        start = burst * 17  # steps begin at other offsets each time
        seek = ["groups", "seek", "split", "--to-offset", str(start), "--yes", "--log", str(app.directory)]
        assert entry.outcome(seek) == exits.DONE
        before = len(recorded(app, "parts", Part))
        app.run(until_idle=True)
        everything = recorded(app, "parts", Part)
        for partition in range(2):
            again = {msgspec.json.decode(body)["number"] for _, _, body, _ in inputs[partition][start:]}
            once = [e for e in first if e[0] == partition and msgspec.json.decode(e[2])["number"] in again]
            found = [event for event in everything if event[0] == partition]
            tally.compare(once, found[-len(once) :])
            tally.points += 1
            before += len(once)
        assert len(everything) == before
    assert tally.clean, tally.told


def waiting(place: Path) -> App:
    """A program whose first event fails once, with a pause of four seconds; each call is noted in a file."""
    app = App("due", path=place / "log")
    items = app.topic("items", Item, key="key", partitions=1)

    @app.handle(items, retry=Retry(3, first_s=PAUSE_S), name="work")
    def handle(item: Item) -> None:
        with (place / "calls").open("a") as calls:
            calls.write(f"{item.number}\n")
        if item.number == 0 and (place / "calls").read_text() == "0\n":
            raise ValueError("not yet")

    return app


def test_what_was_due_while_nobody_ran(tmp_path: Path, fault_report: FaultReport) -> None:
    """A retry that was due during the downtime happens at once, once, and before what waits behind it."""
    tally = fault_report("E10")
    app = waiting(tmp_path)
    with app.client() as client:
        client.publish_many("items", [Item("k", 0), Item("k", 1), Item("k", 2)])
    code = f"from tests.faults.test_faults_replay import *; waiting(Path({str(tmp_path)!r})).run()"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) as process:
        while not (tmp_path / "calls").exists():
            time.sleep(0.05)
        time.sleep(1.5)
        process.kill()
    assert (tmp_path / "calls").read_text() == "0\n"
    time.sleep(PAUSE_S - 1)
    began = time.monotonic()
    app.run(until_idle=True)
    assert time.monotonic() - began < PAUSE_S - 1
    calls = (tmp_path / "calls").read_text().split()
    tally.compare(["first 0", "0", "1", "2"], ["first 0", *calls[1:]])
    tally.points += 1
    assert tally.clean, tally.told


SLOW = """
import os, sys, time
from pathlib import Path
from tests.faults.test_faults_replay import *

app = App("slow", path=Path(sys.argv[1]) / "log")
items = app.topic("items", Item, key="key", partitions=2)
with app.client() as client:
    for start in range(0, 400_000, 20_000):
        client.publish_many("items", [Item(f"{n % 500}" * 20, n) for n in range(start, start + 20_000)])
mb = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
before, most, seen = mb(), 0.0, 0

@app.handle(items)
def slow(item: Item) -> None:
    global most, seen
    seen += 1
    time.sleep(0.0005)
    if seen % 100 == 0:
        most = max(most, mb())
    if seen == 4_000:
        print(round(most - before), seen, flush=True)
        os._exit(0)

app.run()
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="looks at its memory in /proc")
def test_a_consumer_that_cannot_keep_up(tmp_path: Path, fault_report: FaultReport) -> None:
    """400,000 events wait for a slow handler: it holds some of them at a time, and the rest stays where it is."""
    tally = fault_report("C13")
    done = subprocess.run(
        [sys.executable, "-c", SLOW, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    grown, seen = map(int, done.stdout.split())
    assert seen >= 4_000
    assert grown < 25, f"{grown} MB more; all that waits is about 36 MB"
    tally.points += 1
