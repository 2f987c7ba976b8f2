"""Handlers that fail in every way, and killed while they recover: order per key, nothing lost, nothing done twice."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest

from penstock.cli.options import opened
from penstock.observe import letters, redriving
from tests.faults import deliveryprogram as program
from tests.faults.logwork import ROOT
from tests.faults.report import FaultReport, Tally

KILLS = int(os.environ.get("KILLS", "0") or "0") or 8
LIMIT_BYTES = 1_500_000_000


def start(place: Path, mode: str) -> subprocess.Popen[bytes]:
    """The program, in a process of its own, with bounded memory."""

    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    return subprocess.Popen(
        [sys.executable, "-m", "tests.faults.deliveryprogram", str(place)],
        cwd=ROOT,
        env={**os.environ, "MODE": mode},
        preexec_fn=bounded if mode == "allocate" else None,  # noqa: PLW1509
        stderr=subprocess.DEVNULL,
    )


def run_until_idle(place: Path, mode: str, *, lives_max: int = 400) -> int:
    """Start it again as often as it dies; returns how often it died."""
    for deaths in range(lives_max):
        with start(place, mode) as process:
            if process.wait(60) == 0:
                return deaths
    msg = f"still dying after {lives_max} lives"
    raise AssertionError(msg)


def publish(place: Path) -> None:
    with program.made(place).client() as client:
        client.publish_many("items", program.items())


def compare(place: Path, tally: Tally, *, without: set[int]) -> None:
    """Each event is done once, and those of a key in order."""
    frame = program.made(place).read("done", columns=["key", "number"])
    found = frame.rows()
    wanted = [item.number for item in program.items() if item.number not in without]
    tally.compare(sorted(wanted), sorted(number for _, number in found))
    by_key: dict[str, list[int]] = defaultdict(list)
    for key, number in found:
        by_key[key].append(number)
    tally.reordered += sum(1 for numbers in by_key.values() if numbers != sorted(numbers))


async def count_letters(log: Path) -> int:
    async with opened(log) as found:
        return len([one async for one in letters.letters(found.channel, found.channel.topics(), "work")])


async def redrive_everything(log: Path) -> None:
    """Ask for every letter there is, whatever has become of it; a letter is dealt with once."""
    async with opened(log) as found:
        asker = redriving.Asker(found.channel, "work", found.system)
        wanted = [one async for one in letters.letters(found.channel, found.channel.topics(), "work")]
        commands = [(redriving.place_of(one), redriving.command_for(one, "redrive")) for one in wanted]
        await asker.ask(commands)
        await asker.ask(commands)


def failing(number: int) -> bool:
    return number % program.FAILS_EVERY == 0


@pytest.mark.parametrize("mode", ["exit", "segfault"])
def test_a_handler_that_kills_its_process(tmp_path: Path, mode: str, fault_report: FaultReport) -> None:
    """Two deaths, counted though the process is gone; then a dead letter, and the key waits until it is redriven."""
    tally = fault_report("D10", "B10")
    publish(tmp_path)
    deaths = run_until_idle(tmp_path, mode)
    given_up = asyncio.run(count_letters(tmp_path / "log"))
    first = {item.key: item.number for item in reversed(program.items()) if failing(item.number)}
    assert given_up == len(first)
    assert 2 * given_up <= deaths <= 2 * given_up + 2
    held = {i.number for i in program.items() if i.key in first and i.number >= first[i.key]}
    compare(tmp_path, tally, without=held)
    asyncio.run(redrive_everything(tmp_path / "log"))
    run_until_idle(tmp_path, "healthy")
    compare(tmp_path, tally, without=set())
    tally.points = deaths
    assert tally.clean, tally.told


def test_a_handler_that_allocates_without_end(tmp_path: Path, fault_report: FaultReport) -> None:
    """MemoryError is an error like others: its event is given up, the others are done."""
    tally = fault_report("B10")
    publish(tmp_path)
    deaths = run_until_idle(tmp_path, "allocate")
    first = {item.key: item.number for item in reversed(program.items()) if failing(item.number)}
    held = {i.number for i in program.items() if i.key in first and i.number >= first[i.key]}
    compare(tmp_path, tally, without=held)
    tally.points = deaths + 1
    assert tally.clean, tally.told


def test_killed_while_letters_are_redriven(tmp_path: Path, seed: int, fault_report: FaultReport) -> None:
    """Each letter is redriven more than once, the process is killed again and again: each event once, in order."""
    tally = fault_report("D10", "A1")
    dice = random.Random(seed)
    publish(tmp_path)
    run_until_idle(tmp_path, "raise")
    kills = 0
    for _ in range(KILLS + 12):
        asyncio.run(redrive_everything(tmp_path / "log"))
        with start(tmp_path, "raise") as process:
            if kills < KILLS:
                time.sleep(dice.uniform(0.3, 0.8))  # some of it is start-up; a finished process is not killed
                if process.poll() is None:
                    process.send_signal(signal.SIGKILL)
                    kills += 1
                process.wait(60)
                continue
            assert process.wait(60) == 0
        if program.made(tmp_path).read("done").height >= program.EVENTS:
            break
    compare(tmp_path, tally, without=set())
    tally.points = kills
    assert tally.clean, tally.told
    assert kills >= min(KILLS, 3)
