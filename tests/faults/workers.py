"""Workers that are killed and stopped at random while events come in; what became of the events."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from penstock.app.client import Client
from penstock.errors import LogBusy
from penstock.system.leases import LEASE_S
from tests.faults import appwork
from tests.faults import workersprogram as program
from tests.faults.report import Tally

KEYS = 40
WORKERS = 3
ENDED = (0, -signal.SIGTERM)
"""How a worker ends that is told to: drained, or before it had begun."""


class Cycles(msgspec.Struct):
    """What was done to the workers, and the exit codes of those that ended otherwise."""

    kills: int = 0
    stops: int = 0
    joins: int = 0
    deaths: list[int] = []


class Feed:
    """Numbered events of each key, published all the while."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.numbers = dict.fromkeys((f"k{n}" for n in range(KEYS)), 0)

    def publish(self) -> None:
        """The next event of every key; the same again later, while a stopped worker has the log's lock."""
        events = [program.Item(key, number) for key, number in self.numbers.items()]
        try:
            self._client.publish_many("items", events)
        except LogBusy:
            return
        for key in self.numbers:
            self.numbers[key] += 1

    def for_s(self, seconds: float) -> None:
        """Publish for so long."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.publish()
            time.sleep(0.2)


def cycled(place: Path, count: int, *, seed: int, say: Callable[[str], None] = lambda _: None) -> tuple[Feed, Cycles]:
    """Run WORKERS workers through `count` random kills, stops beyond the lease, leaves and joins; then drain them."""
    workers: list[subprocess.Popen[str]] = [program.start(place) for _ in range(WORKERS)]
    try:
        return _cycled(workers, place, count, seed=seed, say=say)
    finally:
        for worker in workers:
            worker.kill()


def _cycled(
    workers: list[subprocess.Popen[str]], place: Path, count: int, *, seed: int, say: Callable[[str], None]
) -> tuple[Feed, Cycles]:
    chance = random.Random(seed)
    cycles = Cycles()
    with program.made(place).client() as client:
        feed = Feed(client)
        feed.for_s(1.5)
        for number in range(count):
            index = chance.randrange(len(workers))
            victim = workers[index]
            kind = chance.choice(("kill", "kill", "stop", "leave")) if number else "stop"
            if kind == "stop":
                victim.send_signal(signal.SIGSTOP)
                feed.for_s(LEASE_S + 0.2 + chance.random())
                victim.send_signal(signal.SIGCONT)
                cycles.stops += 1
            else:
                victim.send_signal(signal.SIGKILL if kind == "kill" else signal.SIGTERM)
                workers[index] = program.start(place)
                cycles.kills += kind == "kill"
                cycles.joins += 1
                code = victim.wait(60)
                if code not in ((-signal.SIGKILL,) if kind == "kill" else ENDED):
                    cycles.deaths.append(code)
            feed.for_s(0.2 + chance.random() * 0.6)
            say(f"cycle {number + 1} of {count}: {kind}")
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
    cycles.deaths += [code for worker in workers if (code := worker.wait(60)) not in ENDED]
    with program.start(place, idle=True) as last:
        assert last.wait(120) == 0
    return feed, cycles


def counted(place: Path, feed: Feed, tally: Tally) -> None:
    """Every event of every key is there once, in order, in both topics behind."""
    topics = appwork.contents(place / "log")
    for topic in ("half", "done"):
        found: dict[str, list[int]] = {key: [] for key in feed.numbers}
        for event in topics[topic]:
            found[event["key"]].append(event["number"])
        for key, count in feed.numbers.items():
            tally.compare(range(count), found[key], where=f"{topic} {key}")
    dead = [event for name in ("begin.dead", "end.dead") for event in topics.get(name, [])]
    tally.compare([], [str(event)[:200] for event in dead], where="dead letters")
