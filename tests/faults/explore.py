"""Kill -9 at chosen acts of a job, look at what is there, run it again to its end, look again.

Runs in a process of its own without threads, and forks a child per life, so that a point costs no imports:
``python -m tests.faults.explore`` reads a `Plan` as JSON from its input and prints an `Outcome`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from penstock.system.chance import seeded
from tests.faults import disk, logwork

T = TypeVar("T")
_KILLED = -9


class Plan(msgspec.Struct, frozen=True):
    """What to run and where to kill it. `points`: how many of the acts, spread evenly and by chance; 0: each one."""

    job: logwork.Job
    points: int = 0
    seed: int = 0
    kinds: tuple[str, ...] = ()
    """Only before acts of these kinds; empty: all."""


class Visit(msgspec.Struct, frozen=True):
    """One point: where it was, and what was found wrong after it."""

    at: int
    act: str
    wrong: list[str]
    lost: int


class Outcome(msgspec.Struct, frozen=True):
    """All points visited. `acts` is how many acts one whole run makes."""

    acts: int
    visits: list[Visit]


def explored(plan: Plan) -> Outcome:
    """Explore in a fresh process and wait for it."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.explore"],
        cwd=logwork.ROOT,
        input=msgspec.json.encode(plan),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    return msgspec.json.decode(done.stdout, type=Outcome)


def in_child(work: Callable[[], T], kind: type[T]) -> T | None:
    """What `work` returns in a forked child; None when the child was killed.

    Raises:
        RuntimeError: the child ended otherwise; with its traceback.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        code = 1
        try:
            answer = msgspec.json.encode(work())
            code = 0
        except BaseException:  # noqa: BLE001 - a forked child must never return into its parent's code
            answer = traceback.format_exc().encode()
        while answer:
            answer = answer[os.write(writer, answer) :]
        os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status == _KILLED:
        return None
    if status:
        raise RuntimeError(answer.decode())
    return msgspec.json.decode(answer, type=kind)


def main() -> None:
    """Explore the plan on standard input."""
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    with tempfile.TemporaryDirectory(prefix="penstock-kill-") as scratch:
        acts = in_child(lambda: _acts(Path(scratch) / "count", plan.job), list[str])
        assert acts is not None
        chosen = [i for i, act in enumerate(acts) if not plan.kinds or act.split()[0] in plan.kinds]
        if plan.points and plan.points < len(chosen):
            chosen = sorted(seeded(plan.seed, "kill").sample(chosen, plan.points))
        visits = [_visit(Path(scratch) / str(at), plan.job, at, acts[at]) for at in chosen]
    sys.stdout.buffer.write(msgspec.json.encode(Outcome(len(acts), visits)))


def _acts(place: Path, job: logwork.Job) -> list[str]:
    place.mkdir()
    acts: list[str] = []
    with disk.watched(lambda op: acts.append(str(op)), place):
        logwork.run(place / "log", job, lambda _: None)
    shutil.rmtree(place)
    return acts


def _visit(place: Path, job: logwork.Job, at: int, act: str) -> Visit:
    place.mkdir()
    told = place.with_suffix(".acks")

    def life() -> int:
        fd = os.open(told, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        with disk.watched(disk.killer(at), place):
            logwork.run(place / "log", job, lambda note: _told(fd, note))
        return 0

    died = in_child(life, int) is None
    acked = told.read_text().splitlines() if told.exists() else []
    found = in_child(lambda: _after(place / "log", job, acked), logwork.Found)
    assert found is not None
    wrong = list(found.wrong)
    if not died:
        wrong.append("the point was not reached")
    if not found.complete:
        wrong.append("run again to its end, the job is not complete")
    shutil.rmtree(place)
    told.unlink(missing_ok=True)
    return Visit(at, act, wrong, found.lost)


def _told(fd: int, note: str) -> None:
    os.write(fd, note.encode() + b"\n")


def _after(directory: Path, job: logwork.Job, acked: list[str]) -> logwork.Found:
    """What is there after the death, and after another run."""
    first = logwork.look(directory, job, acked)
    logwork.run(directory, job, lambda _: None)
    second = logwork.look(directory, job, acked)
    return logwork.Found([*first.wrong, *second.wrong], first.lost + second.lost, complete=second.complete)


if __name__ == "__main__":
    main()
