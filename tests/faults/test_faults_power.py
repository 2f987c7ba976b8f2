"""Power loss: whatever subset of the unsynced acts reached the disk, nothing acked is lost and nothing contradicts."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random

from penstock.system.chance import seeded
from tests.faults import disk, logwork, powerloss
from tests.faults.report import FaultReport, Tally

STATES = 150


def recorded(root: Path, job: logwork.Job) -> list[disk.Op]:
    """One whole run of the job, as acts on the disk and acknowledgements."""
    ops: list[disk.Op] = []
    root.mkdir()
    with disk.watched(ops.append, root):
        logwork.run(root / "log", job, lambda note: ops.append(disk.Op("ack", str(root), note=note)))
    return ops


def replayed(
    ops: list[disk.Op], place: tuple[Path, Path], job: logwork.Job, tally: Tally, chance: Random, *, states: int
) -> int:
    """Open the log in states of a power loss at chosen acts; returns how many acked things were lost in all."""
    root, target = place
    root = root.resolve()
    model = powerloss.Disk(root)
    cuts = sorted(chance.choices(range(len(ops)), k=states))
    lost = 0
    for at, op in enumerate(ops):
        model.feed(op)
        while cuts and cuts[0] == at:
            cuts.pop(0)
            mode = chance.choice(powerloss.MODES)
            powerloss.materialise(model.state(mode, chance), root, target)
            found = logwork.look(target / "log", job, model.acked)
            shutil.rmtree(target, ignore_errors=True)
            tally.points += 1
            lost += found.lost
            tally.contradicts(f"after act {at} ({op}), kept {mode}", found.wrong)
    return lost


def test_a_power_loss_at_full_loses_nothing(tmp_path: Path, seed: int, fault_report: FaultReport) -> None:
    tally = fault_report("A2")
    job = logwork.Job()
    ops = recorded(tmp_path / "record", job)
    lost = replayed(ops, (tmp_path / "record", tmp_path / "state"), job, tally, seeded(seed, "full"), states=STATES)
    tally.note("acked things", lost=lost)
    assert tally.points == STATES
    assert tally.clean, tally.told


def test_a_power_loss_at_normal_loses_the_last_commits_and_nothing_contradicts(
    tmp_path: Path, seed: int, fault_report: FaultReport
) -> None:
    """The lower level is honest: acked work may go, what stays is consistent. And the model loses what is unsynced."""
    tally = fault_report("A2")
    job = logwork.Job(durability="normal")
    ops = recorded(tmp_path / "record", job)
    lost = replayed(ops, (tmp_path / "record", tmp_path / "state"), job, tally, seeded(seed, "normal"), states=STATES)
    assert lost > 0
    assert tally.clean, tally.told


def test_a_power_loss_while_the_log_is_made(tmp_path: Path, seed: int, fault_report: FaultReport) -> None:
    """It opens empty or complete: there is never half a schema, and the job then runs to its end."""
    tally = fault_report("A3")
    job = logwork.Job(batches=2)
    ops = recorded(tmp_path / "record", job)
    begun = next(at for at, op in enumerate(ops) if op.kind == "ack")
    chance = seeded(seed, "create")
    lost = replayed(ops[:begun], (tmp_path / "record", tmp_path / "state"), job, tally, chance, states=STATES)
    tally.note("acked things", lost=lost)
    assert tally.clean, tally.told


def test_a_power_loss_during_a_checkpoint(tmp_path: Path, seed: int, fault_report: FaultReport) -> None:
    """Pages move from the write-ahead log into the file: the old or the new form, never neither."""
    tally = fault_report("A13")
    job = logwork.Job(checkpoint_pages=8)
    ops = recorded(tmp_path / "record", job)
    born = next(at for at, op in enumerate(ops) if op.kind == "rename" and op.other.endswith("log.db"))
    inside = [op for op in ops[born:] if op.kind == "write" and op.path.endswith("log.db")]
    assert len(inside) > 20, "the job makes no checkpoints"
    lost = replayed(
        ops, (tmp_path / "record", tmp_path / "state"), job, tally, seeded(seed, "checkpoint"), states=STATES
    )
    tally.note("acked things", lost=lost)
    assert tally.clean, tally.told
