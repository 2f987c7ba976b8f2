"""A handler that hangs, in a process of its own: the log names the event, and where in the code it is."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import hangprogram as program
from tests.faults.logwork import ROOT
from tests.faults.report import FaultReport

PATIENCE_S = 30
SAID = re.compile(r"a handler has not come back from one event group=work event=items/0/(\d+) seconds=(\d+) (.*)")
WHERE = {
    "sync": ("runs_at", r"_sync > .*hang_here$"),
    "blocking": ("runs_at", r"_blocking > .*hang_here$"),
    "awaiting": ("waits_at", r"_awaiting > .* in wait_here > .*\bEvent\.wait$"),
    "aside": ("waits_at", r"_awaiting > .* in wait_here > .*\bEvent\.wait$"),
}


def warnings(lines: Iterator[str], count: int) -> list[re.Match[str]]:
    """The next so many; whoever waits for them is ended from outside when none come."""
    found: list[re.Match[str]] = []
    for line in lines:
        assert program.SECRET not in line
        match = SAID.search(line)
        if match is not None:
            found.append(match)
            if len(found) == count:
                break
    return found


@pytest.mark.parametrize("kind", WHERE)
def test_the_log_names_the_event_of_a_handler_that_hangs(tmp_path: Path, kind: str, fault_report: FaultReport) -> None:
    """Also when the handler holds the event loop, and again when it has taken twice as long."""
    tally = fault_report("B10")
    with program.made(tmp_path).client() as client:
        client.publish_many("items", [program.Item(number, program.SECRET) for number in range(program.EVENTS)])
    command = [sys.executable, "-m", "tests.faults.hangprogram", kind, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        patience = threading.Timer(PATIENCE_S, process.kill)
        patience.start()
        try:
            assert process.stderr is not None
            found = warnings(process.stderr, 2)
        finally:
            patience.cancel()
            process.kill()
    assert [int(match[1]) for match in found] == [program.HANGS, program.HANGS]
    first, second = (int(match[2]) for match in found)
    assert program.WARN_S <= first < second
    field, places = WHERE[kind]
    for match in found:
        told = dict(part.split("=", 1) for part in re.split(r" (?=\w+_at=)", match[3]))
        assert re.search(places, told[field]), told
    tally.points += 1
