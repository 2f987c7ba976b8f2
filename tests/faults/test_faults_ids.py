"""Event ids: publishers that die and begin again, two events with one id, and clocks that jump."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from penstock import Acked, App, NewEvent, Rejected
from penstock.log.api import Appended, Refusal
from penstock.log.decide import Horizon
from tests.faults.logwork import ROOT
from tests.faults.report import FaultReport
from tests.unit.log.logs import append, in_memory
from tests.unit.log.test_log_ids import mark, marked

EVENTS = 6_000
PUBLISHERS = 3
KILLS = int(os.environ.get("KILLS", "0") or "0") or 8
DAY_US = 86_400_000_000


class Reading(msgspec.Struct):
    device: str
    number: int


def made(place: Path) -> App:
    """The program: a topic that records each id once."""
    app = App("ids", path=place / "log")
    topic = app.topic("readings", Reading, key="device")
    app.deduplicate(topic, events=EVENTS)
    return app


def publish_all(place: Path) -> None:
    """What a publisher that keeps no state does: everything again from the start, each event under its id."""
    with made(place).client() as client:
        for start in range(0, EVENTS, 50):
            numbers = range(start, start + 50)
            events = [NewEvent(data=Reading(f"d{n % 7}", n), id=f"reading-{n}") for n in numbers]
            assert all(isinstance(outcome, Acked) for outcome in client.publish_many("readings", events))


def test_publishers_that_die_and_begin_again(tmp_path: Path, fault_report: FaultReport) -> None:
    """Several publish the same events at the same time and are killed anywhere; each event is there once, in order."""
    tally = fault_report("B11", "D16")
    made(tmp_path)
    rng = random.Random(int(os.environ.get("SEED", "0")))
    command = [
        sys.executable,
        "-c",
        f"from tests.faults.test_faults_ids import *; publish_all(Path({str(tmp_path)!r}))",
    ]
    running = [subprocess.Popen(command, cwd=ROOT) for _ in range(PUBLISHERS)]
    while tally.points < KILLS and any(process.poll() is None for process in running):
        time.sleep(0.3 + rng.random() * 0.5)
        victim = rng.randrange(PUBLISHERS)
        if running[victim].poll() is None:
            running[victim].send_signal(signal.SIGKILL)
            tally.points += 1
        running[victim].wait(60)
        running[victim] = subprocess.Popen(command, cwd=ROOT)
    assert [process.wait(120) for process in running] == [0] * PUBLISHERS
    frame = made(tmp_path).read("readings")
    found: dict[str, list[int]] = {}
    for device, number in zip(frame["device"], frame["number"], strict=True):
        found.setdefault(device, []).append(number)
    for device, expected in ((f"d{d}", list(range(d, EVENTS, 7))) for d in range(7)):
        tally.compare(expected, found.get(device, []))
    assert tally.points
    assert tally.clean, tally.told


def test_two_events_with_one_id(tmp_path: Path, fault_report: FaultReport) -> None:
    """Neither the first nor the last wins in silence: the second is refused, names the first, and stores nothing."""
    tally = fault_report("D16")
    app = made(tmp_path)
    first = [Reading("d0", n) for n in range(20)]
    others = [Reading("d0", n + 1_000) for n in range(10)] + [Reading("d1", n) for n in range(10, 20)]
    with app.client() as client:
        client.publish_many("readings", [NewEvent(data=data, id=f"e{n}") for n, data in enumerate(first)])
        for number, data in enumerate(others):
            good = NewEvent(data=Reading("d9", number), id=f"good-{number}")
            outcomes = client.publish_many("readings", [NewEvent(data=data, id=f"e{number}"), good])
            refused = outcomes[0]
            assert isinstance(refused, Rejected), refused
            assert f"'e{number}'" in refused.reason
            assert "id conflict" in refused.reason
            assert isinstance(outcomes[1], Acked)
            tally.points += 1
    frame = app.read("readings")
    stored = [Reading(device, number) for device, number in zip(frame["device"], frame["number"], strict=True)]
    tally.compare([r.number for r in first], [r.number for r in stored if r.device == "d0"])
    tally.compare(list(range(20)), [r.number for r in stored if r.device == "d9"])
    assert [r for r in stored if r.device == "d1"] == []
    assert tally.clean, tally.told


@pytest.mark.parametrize("horizon", [Horizon(50), Horizon(0, time_us=3_600_000_000)], ids=["offsets", "event time"])
def test_a_clock_that_jumps_forgets_no_id(horizon: Horizon, fault_report: FaultReport) -> None:
    """The horizon is measured in offsets and event time: the wall clock goes a day, a year, either way."""
    tally = fault_report("E6", "E1")
    store, (pid,) = in_memory()
    now_us, event_us = 400 * DAY_US, 390 * DAY_US
    jumps = [0, DAY_US, -DAY_US, 365 * DAY_US, -365 * DAY_US, DAY_US, -2 * DAY_US]
    for number in range(40):
        now_us += jumps[number % len(jumps)]
        event_us += 1_000_000
        (answer,), _ = store.apply(
            [append(number, marked(pid, mark(0, number), horizon=horizon, time_us=event_us))], now_us=now_us
        )
        assert isinstance(answer, Appended)
        everything = [mark(index, index) for index in range(number + 1)]
        request = append(number + 1, marked(pid, *everything, horizon=horizon, time_us=event_us))
        (again,), _ = store.apply([request], now_us=now_us)
        assert isinstance(again, Refusal), f"of {number + 1} ids none is remembered"
        tally.compare(list(range(number + 1)), [one.offset for one in again.repeated])
        tally.points += 1
    assert tally.clean, tally.told
