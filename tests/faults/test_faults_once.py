"""`ctx.once` in processes that die: the effect of each token is there once, whatever was lost on the way."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from penstock.cli.options import opened
from penstock.observe import seeking
from tests.faults import onceprogram as program
from tests.faults.logwork import ROOT
from tests.faults.report import FaultReport, Tally

CHUNK = 80
KILLS_PER_CHUNK = 2
LIVES_MAX = 40


def start(place: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.faults.onceprogram", str(place)], cwd=ROOT, stderr=subprocess.DEVNULL
    )


def run_until_idle(place: Path, dice: random.Random) -> int:
    """Start it again as often as it dies, and kill it now and then; returns how often it died."""
    for deaths in range(LIVES_MAX):
        with start(place) as process:
            if deaths < KILLS_PER_CHUNK:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(dice.uniform(0.3, 0.7))  # some of it is start-up
                process.send_signal(signal.SIGKILL)  # nothing to a process that has ended
            if process.wait(60) == 0:
                return deaths
    msg = f"still dying after {LIVES_MAX} lives"
    raise AssertionError(msg)


def compare(place: Path, tally: Tally, numbers: range) -> None:
    """Every token of these events has its effect, once."""
    found = program.made(place).read("done", columns=["token"])["token"].to_list()
    tally.compare(sorted({number % program.TOKENS for number in numbers}), sorted(found))


async def from_the_beginning(log: Path) -> None:
    async with opened(log) as found:
        await seeking.carry_out(found.channel, seeking.plan(found.channel, "work", seeking.Aim(0)))


def test_put_back_to_the_beginning_each_effect_is_there_again(tmp_path: Path) -> None:
    """A seek forgets the marks with everything else of the group."""
    app = program.made(tmp_path)
    with app.client() as client:
        client.publish_many("wishes", [program.Wish("k", number, number % 2) for number in (1, 2, 3, 4)])
    for times in (1, 2):
        app.run(until_idle=True)
        assert sorted(app.read("done")["token"].to_list()) == sorted([0, 1] * times)
        asyncio.run(from_the_beginning(tmp_path / "log"))


def test_killed_anywhere_each_effect_is_there_once(tmp_path: Path, seed: int, fault_report: FaultReport) -> None:
    """Marks and effects are one step: a death in between loses both, or neither; what comes later finds the mark."""
    tally = fault_report("A1", "B9")
    dice, events = random.Random(seed), program.wishes()
    for first in range(0, program.EVENTS, CHUNK):
        with program.made(tmp_path).client() as client:
            client.publish_many("wishes", events[first : first + CHUNK])
        tally.points += run_until_idle(tmp_path, dice)
        compare(tmp_path, tally, range(first + CHUNK))
    assert tally.clean, tally.told
    assert tally.points >= program.EVENTS // program.DIES_EVERY
