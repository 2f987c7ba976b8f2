"""The parent of several workers, over processes that only say what a worker would: what it adds up, and how it ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from penstock.cli import exits, workers
from penstock.cli.running import Waits
from penstock.cli.workers import Plan, run_workers
from penstock.engine.group import GroupState
from penstock.engine.work import Gauge

LIMIT_S = 20.0


class Scripts(Plan, frozen=True):
    """Runs `scripts[i]` as worker i + 1."""

    scripts: Sequence[str] = ()

    def command(self, name: str) -> list[str]:
        """See `Plan`."""
        return [sys.executable, "-c", self.scripts[int(name.rpartition(" ")[2]) - 1]]


def plan(folder: Path, *scripts: str) -> Plan:
    head = f"import os, pathlib, signal, sys, time\nos.chdir({str(folder)!r})\n"
    return Scripts(folder, "", len(scripts), scripts=[head + script for script in scripts])


def says(**told: object) -> str:
    state = GroupState("check", "handler", "orders", **told)  # type: ignore[arg-type]
    return f"print({msgspec.json.encode([state]).decode()!r}, flush=True)\n"


def test_of_lives_that_are_over_only_what_they_counted_is_told(tmp_path: Path) -> None:
    """What waited then is in the log, and the next life says it again."""
    script = (
        "life = len(os.listdir())\npathlib.Path(str(life)).touch()\nif life < 3:\n    "
        + says(state="running", events=5, gauge=Gauge(3, 7, "the target fails"))
        + "    os._exit(9)\n"
        + says(state="idle", events=1, gauge=Gauge(1, 2))
        + "time.sleep(0.2)\n"
    )
    told: list[Sequence[GroupState]] = []
    report, code = run_workers(plan(tmp_path, script), told.append)
    assert code == exits.DONE
    for [state] in (told[-1], report.parts):
        assert (state.events, state.state, state.gauge) == (16, "idle", Gauge(1, 2))


@pytest.mark.parametrize("dies", ["os._exit(9)", "os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_program_that_ends_every_worker_as_it_is_loaded_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], dies: str
) -> None:
    monkeypatch.setattr(workers, "PAUSE_MAX_S", 0.01)
    other = "print('[]', flush=True)\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\ntime.sleep(60)\n"
    _, code = run_workers(plan(tmp_path, other, f"pathlib.Path('lives').open('a').write('x')\n{dies}"), lambda _: None)
    assert code == exits.FAILED
    assert (tmp_path / "lives").read_text() == "x" * workers.LOADS_MAX
    assert f"was loaded, {workers.LOADS_MAX} times in a row" in capsys.readouterr().err


def test_a_worker_that_dies_at_its_work_is_always_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that kills the process is given up after some attempts; the next one may do the same."""
    monkeypatch.setattr(workers, "PAUSE_MAX_S", 0.01)
    script = "life = len(os.listdir())\npathlib.Path(str(life)).touch()\nprint('[]', flush=True)\n"
    _, code = run_workers(plan(tmp_path, f"{script}if life < 8: os._exit(9)\n"), lambda _: None)
    assert code == exits.DONE


def test_the_first_signal_of_a_person_ends_no_worker_that_drains(tmp_path: Path) -> None:
    """Also when a worker that failed has had the others drained before; the second one does."""
    drains = (
        "signal.signal(signal.SIGTERM, lambda *_: (signal.signal(signal.SIGTERM, signal.SIG_DFL),"
        " pathlib.Path('asked').touch(), time.sleep(1), pathlib.Path('drained').touch(), sys.exit(0)))\n"
        "pathlib.Path('ready').touch()\ntime.sleep(60)\n"
    )
    fails = "while not os.path.exists('ready'): time.sleep(0.01)\nsys.exit(1)\n"

    def ask() -> None:
        deadline = time.monotonic() + LIMIT_S
        while not (tmp_path / "asked").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    person = threading.Thread(target=ask)
    person.start()
    _, code = run_workers(plan(tmp_path, drains, fails), lambda states: None)
    person.join()
    assert code == exits.FAILED
    assert (tmp_path / "drained").exists()


def test_a_partition_that_stands_still_is_told_of_once() -> None:
    """Between two quiet moments the others are at work, and nothing of the damage has changed."""
    told: list[str] = []
    waits = Waits(told.append)
    for state, reason, stopped in [
        ("running", "", ""),
        ("waiting", "damaged", "damaged"),
        ("running", "", "damaged"),
        ("waiting", "damaged", "damaged"),
        ("idle", "", ""),
        ("waiting", "damaged", "damaged"),
    ]:
        waits.tell([GroupState("note", "handler", "orders", state, reason, stopped)])
    assert told == ["note waits: damaged"] * 2
