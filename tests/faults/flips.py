"""Bit flips in a log's files: each is an error that says so, or harmless with the same content; never another value.

A flip is tried in a process of its own kind (a forked child), so that a crash of a library is a finding and not the
end of the test.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import apsw
import msgspec

from penstock.errors import PenstockError
from penstock.log import catalogue, placed, progress
from penstock.log.api import Claim, Claimed
from penstock.system.chance import seeded
from tests.faults import children, logwork

USED_SHARE = 0.9  # most of a young log's pages is empty: there a flip would show little
FILES = {"log": "log.db", "wal": "log.db-wal", "witness": "witness"}


class Plan(msgspec.Struct, frozen=True):
    """Which file, and how many flips, spread by chance over what is written in it."""

    file: str
    flips: int
    seed: int


class Outcome(msgspec.Struct):
    """`named` errors, by class; `harmless` flips; `wrong`: what was used although it was not what was written."""

    flips: int = 0
    named: dict[str, int] = msgspec.field(default_factory=dict)
    harmless: int = 0
    wrong: list[str] = msgspec.field(default_factory=list)


class _Tried(msgspec.Struct):
    error: str = ""
    content: str = ""


def flipped(plan: Plan) -> Outcome:
    """Try the flips in a fresh process and wait for it."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.flips"],
        cwd=logwork.ROOT,
        input=msgspec.json.encode(plan),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    return msgspec.json.decode(done.stdout, type=Outcome)


def read_all(directory: Path) -> str:
    """Everything that the log says about its content, through the doors that the product itself uses.

    Raises:
        PenstockError: it is not what was stored.
    """
    said: list[object] = []
    with logwork.opened(directory) as log:
        said.append((log.identity.log, log.identity.incarnation))
        for topic in log.look(catalogue.topics):
            said.append((topic.name, topic.spec, list(topic.pids)))
            for pid in topic.pids:
                said.append(
                    (pid, log.look(lambda db, pid=pid: placed.next_offset(db, pid)), logwork.contents(log, pid))
                )
        for group in log.look(catalogue.groups):
            pids = next(t.pids for t in log.look(catalogue.topics) if t.name == "in")
            for pid in pids:
                steps = log.look(lambda db, g=group.id, pid=pid: progress.steps_of(db, g, pid))
                said.append([(s.number, s.before, s.after, list(s.outputs)) for s in steps])
            claimed = log.apply(Claim(group.id, pids))
            assert isinstance(claimed, Claimed)
            for held in claimed.held:
                ledger = logwork.ledger(log, group.id, held)
                said.append((held.pid, held.epoch, held.floor, list(held.holes), ledger))
        for number in range(logwork.Job().batches):
            pid = next(t.pids for t in log.look(catalogue.topics) if t.name == "in")[number % logwork.PARTITIONS]
            said.append(str(logwork.publish(log, pid, number, logwork.batch(number))))
    return repr(said)


def main() -> None:
    """Try the plan on standard input."""
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    chance = seeded(plan.seed, "flip", plan.file)
    with tempfile.TemporaryDirectory(prefix="penstock-flip-") as scratch:
        whole = Path(scratch) / "whole"
        children.in_child(lambda: _made(whole, checkpointed=plan.file == "log"), int)
        truth = _tried(Path(scratch) / "truth", whole, "", 0)
        assert not truth.error, truth.error
        data = (whole / FILES[plan.file]).read_bytes()
        used = [at for at, byte in enumerate(data) if byte]
        outcome = Outcome(plan.flips)
        for _ in range(plan.flips):
            at = chance.choice(used) if chance.random() < USED_SHARE else chance.randrange(len(data))
            bit = at * 8 + chance.randrange(8)
            _judge(
                outcome, _tried(Path(scratch) / "flip", whole, FILES[plan.file], bit), truth, f"{plan.file} bit {bit}"
            )
    sys.stdout.buffer.write(msgspec.json.encode(outcome))


def _made(directory: Path, *, checkpointed: bool) -> int:
    """A log with a finished job; its pages in the file (checkpointed) or in the write-ahead log."""
    logwork.run(directory, logwork.Job(), lambda _: None)
    if checkpointed:
        db = apsw.Connection(str(directory / "log.db"))
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.close()
    return 0


def _tried(place: Path, whole: Path, name: str, bit: int) -> _Tried:
    shutil.copytree(whole, place, ignore=shutil.ignore_patterns("wake", "log.db-shm"))
    if name:
        with (place / name).open("r+b") as file:
            file.seek(bit // 8)
            byte = file.read(1)[0]
            file.seek(bit // 8)
            file.write(bytes([byte ^ 1 << bit % 8]))
    try:
        found = children.in_child(lambda: _look(place), _Tried)
    except RuntimeError as exc:
        found = _Tried(error=f"unnamed: {str(exc).strip().splitlines()[-1]}")
    finally:
        shutil.rmtree(place)
    return found or _Tried(error="unnamed: the process was killed")


def _look(place: Path) -> _Tried:
    try:
        return _Tried(content=read_all(place))
    except PenstockError as exc:
        return _Tried(error=f"{type(exc).__name__}: {exc}")


def _judge(outcome: Outcome, tried: _Tried, truth: _Tried, where: str) -> None:
    name = tried.error.partition(":")[0]
    if name == "unnamed":
        outcome.wrong.append(f"{where}: {tried.error}")
    elif name:
        outcome.named = dict(Counter(outcome.named) + Counter([name]))
    elif tried.content == truth.content:
        outcome.harmless += 1
    else:
        pairs = enumerate(zip(tried.content, truth.content, strict=False))
        at = next((i for i, (a, b) in pairs if a != b), 0)
        outcome.wrong.append(
            f"{where}: read {tried.content[at - 40 : at + 60]!r} for {truth.content[at - 40 : at + 60]!r}"
        )


if __name__ == "__main__":
    main()
