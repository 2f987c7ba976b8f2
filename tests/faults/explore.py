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
from pathlib import Path

import msgspec

from penstock.system.chance import seeded
from tests.faults import appwork, children, disk, logwork
from tests.faults.found import Found

Job = logwork.Job | appwork.Job


class Plan(msgspec.Struct, frozen=True):
    """What to run and where to kill it.

    points: how many of the acts, by chance; 0: each one. kinds: only before acts of these kinds; empty: all. named:
    only before named points that begin so; empty: all acts.
    loop: all lives in one place, one after the other, instead of each in a new one.
    """

    job: Job
    points: int = 0
    seed: int = 0
    kinds: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    loop: bool = False


class Visit(msgspec.Struct, frozen=True):
    """One point: where it was, whether the process died there, and what was found wrong after it.

    With several threads a run makes a few acts more or fewer than the counted one: a late point may not be reached.
    """

    at: int
    act: str
    died: bool
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


def main() -> None:
    """Explore the plan on standard input."""
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    with tempfile.TemporaryDirectory(prefix="penstock-kill-") as scratch:
        acts = children.in_child(lambda: _acts(Path(scratch) / "count", plan.job), list[str])
        assert acts is not None
        chosen = [i for i, act in enumerate(acts) if _meant(plan, act)]
        if plan.loop:  # later lives have less to do: points that most of them reach
            chosen = chosen[: len(chosen) // 4]
        if plan.points and plan.points < len(chosen):
            chosen = sorted(seeded(plan.seed, "kill").sample(chosen, plan.points))
        lives = _in_one_place if plan.loop else _each_in_its_own
        visits = lives(Path(scratch), plan, [(at, acts[at]) for at in chosen])
    sys.stdout.buffer.write(msgspec.json.encode(Outcome(len(acts), visits)))


def _meant(plan: Plan, act: str) -> bool:
    if plan.named:
        return act.split(maxsplit=1)[0] == "point" and act.rsplit(maxsplit=1)[-1].startswith(plan.named)
    return not plan.kinds or act.split(maxsplit=1)[0] in plan.kinds


def _each_in_its_own(scratch: Path, plan: Plan, chosen: list[tuple[int, str]]) -> list[Visit]:
    visits: list[Visit] = []
    for at, act in chosen:
        place = scratch / str(at)
        place.mkdir()
        visits.append(_visit(place, plan.job, (at, act), finish=True))
        shutil.rmtree(place)
    return visits


def _in_one_place(scratch: Path, plan: Plan, chosen: list[tuple[int, str]]) -> list[Visit]:
    """Lives of which each gets about as far as the one before; the last one is let run to its end."""
    place = scratch / "loop"
    place.mkdir()
    seeded(plan.seed, "lives").shuffle(chosen)
    return [_visit(place, plan.job, life, finish=life is chosen[-1]) for life in chosen]


def _acts(place: Path, job: Job) -> list[str]:
    place.mkdir()
    acts: list[str] = []
    with disk.watched(lambda op: acts.append(str(op)), place):
        job.run(place, lambda _: None)
    shutil.rmtree(place)
    return acts


def _visit(place: Path, job: Job, life: tuple[int, str], *, finish: bool) -> Visit:
    at, act = life
    told = place.with_suffix(".acks")

    def live() -> int:
        fd = os.open(told, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        with disk.watched(disk.killer(at), place):
            job.run(place, lambda note: _told(fd, note))
        return 0

    died = children.in_child(live, int) is None
    acked = told.read_text().splitlines() if told.exists() else []
    found = children.in_child(lambda: _after(place, job, acked, finish=finish), Found)
    assert found is not None
    wrong = list(found.wrong)
    if finish and not found.complete:
        wrong.append("run again to its end, the job is not complete")
    return Visit(at, act, died, wrong, found.lost)


def _told(fd: int, note: str) -> None:
    os.write(fd, note.encode() + b"\n")


def _after(place: Path, job: Job, acked: list[str], *, finish: bool) -> Found:
    """What is there after the death, and, if wished, after another run."""
    first = job.look(place, acked)
    if not finish:
        return first
    job.run(place, lambda _: None)
    second = job.look(place, acked)
    return Found([*first.wrong, *second.wrong], first.lost + second.lost, complete=second.complete)


if __name__ == "__main__":
    main()
