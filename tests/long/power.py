"""Power loss as recorded from outside: strace writes down every act with its data, and states are made from that."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random

import msgspec

from penstock.system.chance import seeded
from tests.faults import appwork, children, logwork, powerloss
from tests.faults.disk import Op
from tests.faults.explore import Job
from tests.faults.found import Found
from tests.faults.report import Row
from tests.long import strace
from tests.long.kill import MODULES
from tests.long.plan import Limits, Say

# DuckDB rewrites a block of 256 KiB in place, under a checksum that covers what of it is still in use: torn there, the
# file cannot be opened any more, and the table is to be made again from the log. What the sink promises at a power
# loss holds on disks that write a block whole or not at all.
UNTORN = tuple(mode for mode in powerloss.MODES if mode != "torn")
STATES_BEFORE_THE_FIRST_ACK = 0.2


def run(scratch: Path, limits: Limits, say: Say) -> list[Row]:
    """The states of the log at both levels, and of the whole way; the rows that say what was found."""
    full = Row("A2", "tests/long/power.py::full", passed=True)
    replay(logwork.Job(batches=12), scratch, (limits.states, limits.seed), full, say=say)
    born = msgspec.structs.replace(full, fault="A3")
    small = logwork.Job(batches=12, checkpoint_pages=8)
    checkpoint = Row("A13", "tests/long/power.py::checkpoint", passed=True)
    replay(small, scratch, (limits.states // 4, limits.seed), checkpoint, say=say)
    whole = Row("A2", "tests/long/power.py::whole way", passed=True)
    replay(appwork.Job(), scratch, (limits.states // 12, limits.seed), whole, say=say)
    normal = Row("A2", "tests/long/power.py::normal", passed=True, control="durability=normal")
    replay(logwork.Job(batches=12, durability="normal"), scratch, (limits.states // 4, limits.seed), normal, say=say)
    for row in (full, born, checkpoint, whole):
        row.passed = row.passed and row.lost == 0
    normal.passed = normal.passed and normal.lost > 0
    full.control, full.control_failed = "durability=normal", normal.lost > 0
    return [full, born, checkpoint, whole, normal]


def replay(job: Job, scratch: Path, wanted: tuple[int, int], row: Row, *, say: Say) -> None:
    """Record one run of the job, make (number of states, seed) of it, and look at each; counts in the row."""
    states, seed = wanted
    name = "app" if isinstance(job, appwork.Job) else "log"
    root = scratch / "record"
    ops = record(MODULES[name], job, root, scratch)
    chance = seeded(seed, row.test)
    model = powerloss.Disk(root)
    cuts = cut_points(ops, states, chance)
    before = row.points
    for at, op in enumerate(ops):
        model.feed(op)
        while cuts and cuts[0] == at:
            cuts.pop(0)
            mode = chance.choice(UNTORN if name == "app" else powerloss.MODES)
            powerloss.materialise(model.state(mode, chance), root, scratch / "state")
            found = _looked(job, scratch / "state", list(model.acked))
            shutil.rmtree(scratch / "state", ignore_errors=True)
            row.points += 1
            row.lost += found.lost
            if found.wrong or not found.complete:
                row.passed = False
                say(f"  after act {at} ({op}), kept {mode}: complete {found.complete}, {found.wrong}")
    say(f"{row.test}: {row.points - before} states of {len(ops)} acts, {row.lost} acked things lost")


def record(module: str, job: Job, root: Path, scratch: Path) -> list[Op]:
    """All acts of one run, with their data."""
    root.mkdir()
    options = ["-y", "-xx", "-s", str(1 << 25), "-e", f"trace={strace.WRITES},{strace.OPENS}"]
    done = strace.run(module, root, msgspec.json.encode(job), *options, trace=scratch / "trace")
    assert done.returncode == 0, done.stderr
    ops = list(strace.recorded(scratch / "trace", root))
    shutil.rmtree(root)
    return ops


def cut_points(ops: list[Op], states: int, chance: Random) -> list[int]:
    """Where the power goes: everywhere, and with some weight while the log is being made."""
    first = next(at for at, op in enumerate(ops) if op.kind == "ack")
    early = int(states * STATES_BEFORE_THE_FIRST_ACK)
    return sorted([*chance.choices(range(first), k=early), *chance.choices(range(len(ops)), k=states - early)])


def _looked(job: Job, place: Path, acked: list[str]) -> Found:
    place.mkdir(exist_ok=True)
    if isinstance(job, logwork.Job):
        found = job.look(place, acked)
        found.complete = True  # run on by the kill points; here the state itself is looked at
        return found

    def finished() -> Found:
        first = job.look(place, acked)
        job.run(place, lambda _: None)
        second = job.look(place, acked)
        return Found([*first.wrong, *second.wrong], first.lost, complete=second.complete)

    found = children.in_child(finished, Found)
    assert found is not None
    return found
