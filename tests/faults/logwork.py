"""A small job on the log alone, and what must hold of it whenever it was cut off: published, handled, remembered.

It publishes numbered events to two partitions, handles them in steps (every seventh becomes a dead letter, the others
an output, a sum is kept in the ledger), and publishes everything again when it is run again. It knows nothing of
channels or engines, so that a fault here is the log's own.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TypeVar
from unittest import mock
from zlib import crc32

import apsw
import msgspec

from penstock.errors import PenstockError
from penstock.event.batch import Rows
from penstock.log import blocks, catalogue, placed, progress
from penstock.log import log as log_module
from penstock.log.api import Advance, Append, Appended, Block, Claim, Claimed, Held, Request, Result, Stored
from penstock.log.log import Log, LogConfig
from penstock.system import real_system
from penstock.system.ports import System
from tests.faults.found import Found

ROOT = Path(__file__).resolve().parents[2]
"""Where `tests` is found by programs that a test starts."""

PARTITIONS = 2
EVENTS_PER_BATCH = 5
Ack = Callable[[str], None]
T = TypeVar("T")


def system() -> System:
    """The real one; nothing here uses its threads."""
    return real_system()


@contextlib.contextmanager
def opened(directory: Path, config: LogConfig | None = None) -> Generator[Log]:
    """An open log, closed at the end of the block."""
    log = Log.open(directory, system(), config)
    try:
        yield log
    finally:
        log.close()


def write(log: Log, work: Callable[[apsw.Connection], T]) -> T:
    """A declaration, waited for."""
    return log.write(work).result()


def declare(log: Log, name: str, partitions: int = PARTITIONS) -> list[int]:
    """The partition ids of a topic, which is made when there is none."""

    def work(db: apsw.Connection) -> list[int]:
        if catalogue.topic(db, name) is None:
            catalogue.create_topic(db, name, b"{}", partitions=partitions)
        row = catalogue.topic(db, name)
        assert row is not None
        return list(row.pids)

    return write(log, work)


def block(pid: int, bodies: list[bytes]) -> Block:
    """Rows as a block."""
    data, size = blocks.encode_rows(Rows.of(bodies))
    return Block(pid, len(bodies), 0, size, data, crc32(data))


def publish(log: Log, pid: int, sequence: int, bodies: list[bytes], *, producer: str = "source") -> Result:
    """One publish of one block, waited for."""
    return log.apply(append(pid, sequence, bodies, producer=producer))


def append(pid: int, sequence: int, bodies: list[bytes], *, producer: str = "source") -> Append:
    """The request of one publish of one block."""
    return Append(producer, 1, sequence, [block(pid, bodies)])


def bodies_of(stored: list[Stored]) -> list[bytes]:
    """Every event's bytes."""
    found: list[bytes] = []
    for item in stored:
        rows = blocks.decode(item.data, arrow=None)
        assert isinstance(rows, Rows)
        found += rows.bodies()
    return found


def contents(log: Log, pid: int) -> list[bytes]:
    """Everything that lies in a partition."""
    found: list[bytes] = []
    end = 0
    while stored := log.read(pid, end, events_max=1000):
        found += bodies_of(stored)
        end = stored[-1].first + stored[-1].count
    return found


def batch(number: int, size: int = 0) -> list[bytes]:
    """The events of one publish, told apart by their numbers, padded to about `size` bytes each."""
    first = number * EVENTS_PER_BATCH
    return [b"event-%06d" % (first + i) + b"." * size for i in range(EVENTS_PER_BATCH)]


def expected(batches: int, partition: int, size: int = 0) -> list[bytes]:
    """What the partition must hold at the end, in order."""
    return [body for n in range(batches) if n % PARTITIONS == partition for body in batch(n, size)]


def is_dead(body: bytes) -> bool:
    """Whether the handler gives the event up."""
    return int(body[6:12]) % 7 == 0


class Job(msgspec.Struct, frozen=True, tag="log"):
    """How much is done, and how."""

    batches: int = 8
    size: int = 0
    durability: str = "full"
    checkpoint_pages: int = 0
    """Checkpoint after so many pages of write-ahead log instead of the product's own bound; 0 keeps that."""

    def run(self, place: Path, ack: Ack) -> None:
        """The job on the log `place`/log."""
        run(place / "log", self, ack)

    def look(self, place: Path, acked: list[str]) -> Found:
        """What is there of it."""
        return look(place / "log", self, acked)


def run(directory: Path, job: Job, ack: Ack) -> None:
    """Do the job from wherever an earlier run was cut off; tells `ack` each thing once the log says it is there."""
    with _few_pages(job), opened(directory, LogConfig(durability=job.durability)) as log:  # type: ignore[arg-type]
        pids, out, dead = declare(log, "in"), declare(log, "out"), declare(log, "dead")
        group = write(log, lambda db: catalogue.declare_group(db, "g", b"{}")).id
        claimed = log.apply(Claim(group, pids))
        assert isinstance(claimed, Claimed)
        handlers = [_Handler(log, group, held, (out[i], dead[i])) for i, held in enumerate(claimed.held)]
        for number in range(job.batches):
            partition = number % PARTITIONS
            answer = publish(log, pids[partition], number, batch(number, job.size))
            assert isinstance(answer, Appended), answer
            ack(f"publish {number} {answer.first[0]}")
            handlers[partition].catch_up(ack)


@contextlib.contextmanager
def _few_pages(job: Job) -> Generator[None]:
    if not job.checkpoint_pages:
        yield
        return
    with mock.patch.object(log_module, "CHECKPOINT_PAGES", job.checkpoint_pages):
        yield


def ledger(log: Log, group: int, held: Held) -> list[progress.Entry]:
    """The ledger of a claimed partition."""
    reading = progress.LedgerReading(group, held)
    reading.rest(log.look)
    assert not reading.overtaken
    return reading.entries


class _Handler:
    """One partition's steps."""

    def __init__(self, log: Log, group: int, held: Held, targets: tuple[int, int]) -> None:
        self._log = log
        self._group = group
        self._held = held
        self._floor = held.floor
        self._sum = {key: int(value) for _, key, value in ledger(log, group, held)}.get(b"sum", 0)
        self._targets = targets

    def catch_up(self, ack: Ack) -> None:
        while stored := self._log.read(self._held.pid, self._floor, events_max=EVENTS_PER_BATCH):
            skip = self._floor - stored[0].first
            bodies = bodies_of(stored)[skip:]
            answer = self._log.apply(self._step(bodies))
            assert isinstance(answer, Appended), answer
            self._floor += len(bodies)
            ack(f"step {self._held.pid} {self._floor}")

    def _step(self, bodies: list[bytes]) -> Request:
        self._sum += sum(int(body[6:12]) for body in bodies)
        split = [[b for b in bodies if not is_dead(b)], [b for b in bodies if is_dead(b)]]
        return Advance(
            group_id=self._group,
            pid=self._held.pid,
            epoch=self._held.epoch,
            before=self._floor,
            after=self._floor + len(bodies),
            blocks=[block(pid, part) for pid, part in zip(self._targets, split, strict=True) if part],
            ledger=[("state", b"sum", b"%d" % self._sum)],
            origin="g",
        )


def look(directory: Path, job: Job, acked: list[str]) -> Found:
    """Open the log as it is and hold it against what was acked and against itself."""
    found = Found([])
    try:
        with opened(directory, LogConfig(durability=job.durability)) as log:  # type: ignore[arg-type]
            _look(log, job, acked, found)
    except PenstockError as exc:
        found.wrong.append(f"{type(exc).__name__}: {exc}")
        found.lost += len(acked)
    return found


def _look(log: Log, job: Job, acked: list[str], found: Found) -> None:
    topics = {row.name: row.pids for row in log.look(catalogue.topics)}
    rows = {row.pid: row for row in log.look(progress.all_progress)}
    complete = len(topics) == 3
    for partition, pid in enumerate(topics.get("in", ())):
        inside = contents(log, pid)
        wanted = expected(job.batches, partition, job.size)
        if inside != wanted[: len(inside)]:
            found.wrong.append(f"partition {partition} holds {len(inside)} events that are not the first ones in order")
        floor = rows[pid].floor if pid in rows else 0
        complete = complete and inside == wanted and floor == len(wanted)
        found.events += len(inside)
        _consistent(
            log, found, inside[:floor], {name: topics[name][partition] for name in ("out", "dead") if name in topics}
        )
        _remembered(log, found, pid, inside[:floor], floor)
    found.lost += sum(_gone(entry, topics, rows, log) for entry in acked)
    found.complete = complete


def _consistent(log: Log, found: Found, handled: list[bytes], targets: dict[str, int]) -> None:
    for name, pid in targets.items():
        wanted = [body for body in handled if is_dead(body) == (name == "dead")]
        inside = contents(log, pid)
        if inside != wanted:
            found.wrong.append(f"{name} holds {len(inside)} events where {len(wanted)} belong to the floor")


def _remembered(log: Log, found: Found, pid: int, handled: list[bytes], floor: int) -> None:
    groups = log.look(catalogue.groups)
    if not groups:
        return
    group = groups[0].id
    entries = {key: int(value) for _, key, value in log.look(lambda db: progress.ledger_of(db, group, pid))}
    if entries.get(b"sum", 0) != sum(int(body[6:12]) for body in handled):
        found.wrong.append(f"the ledger's sum of partition id {pid} is not the sum of what was handled")
    steps = log.look(lambda db: progress.steps_of(db, group, pid))
    found.steps += len(steps)
    at = 0
    for step in steps:
        if step.before != at:
            found.wrong.append(f"step {step.number} of partition id {pid} begins at {step.before}, not {at}")
        at = step.after
    if at != floor:
        found.wrong.append(f"steps of partition id {pid} end at {at}, its floor is {floor}")


def _gone(entry: str, topics: dict, rows: dict, log: Log) -> bool:
    """Whether something that was acked is not there."""
    kind, first, second = entry.split()
    if kind == "step":
        row = rows.get(int(first))
        return row is None or row.floor < int(second)
    partition = int(first) % PARTITIONS
    if "in" not in topics:
        return True
    pid = topics["in"][partition]
    return log.look(lambda db: placed.next_offset(db, pid)) < int(second) + EVENTS_PER_BATCH


def main(place: str, job: str) -> None:
    """Do the job, printing what was acked."""
    msgspec.json.decode(job, type=Job).run(Path(place), lambda note: print(note, flush=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
