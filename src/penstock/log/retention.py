"""Removing the oldest blocks of a topic: by age and by size, in slices, never past what a group still needs.

One slice is one short transaction. It decides and removes under the same lock under which groups commit, so nothing can
come to need a block between the two. Only whole blocks from a partition's beginning go, and the partition's row then
says where it begins: offsets stay what they are, and that no block is missing stays checkable.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import apsw
import msgspec

from penstock.log import placed, progress, quarantine
from penstock.log.ages import SLACK_US, Ages
from penstock.log.ddl import OFFSET_BITS, OFFSET_MAX
from penstock.log.living import Expiry, Standing, standings
from penstock.system.points import reached

SLICE_BLOCKS = 64
SLICE_BYTES = 4_000_000
"""What one transaction removes at most: who publishes meanwhile waits for it, a millisecond or two."""

_ROWS_AT_ONCE = 32
_STEPS_AT_ONCE = 500


class Limits(msgspec.Struct, frozen=True):
    """What a topic keeps: events younger than `age_us`, and at most `bytes_max` bytes of blocks. None: no limit."""

    age_us: int | None = None
    bytes_max: int | None = None


class Apart(msgspec.Struct, frozen=True):
    """The partitions to be trimmed hold what belongs to a group beside its input, each to one partition of `inputs`.

    `needed` tells, of what the group's ledger for such an input has in `space`, from which offset on it needs them;
    None: it needs none. `why` is for people. `always`: what is forced, or a group that is gone, changes nothing.
    """

    group: str
    inputs: Mapping[int, int]
    space: str
    needed: Callable[[list[progress.Entry]], int | None]
    why: str
    always: bool = False


class Task(msgspec.Struct, frozen=True):
    """What is to be trimmed: a topic's partitions, its limits; `force`: also what groups still need."""

    pids: Sequence[int]
    limits: Limits
    force: bool = False
    apart: Apart | None = None


class Held(msgspec.Struct, frozen=True):
    """Retention would remove more of this partition, and stops at `offset`, which `group` still needs.

    `why` says so where that is no offset of its input.
    """

    pid: int
    group: str
    offset: int
    why: str = ""


class Trimmed(msgspec.Struct):
    """What one slice has removed; `more`: there is more to do. `held`: what would go, were it not needed."""

    blocks: int = 0
    events: int = 0
    bytes: int = 0
    more: bool = False
    held: list[Held] = msgspec.field(default_factory=list[Held])


class _Head(msgspec.Struct, frozen=True, order=True):
    """One of the first blocks of a partition, by the latest time at which it can have been recorded."""

    written_us: int
    pid: int
    first: int
    count: int
    bytes: int


def bytes_of(db: apsw.Connection, pid: int, *, start: int = 0, end: int = OFFSET_MAX) -> int:
    """The bytes of the partition's blocks that begin from `start` on and before `end`."""
    low = pid << OFFSET_BITS
    row: Any = db.execute(
        "SELECT coalesce(sum(length(data)), 0) FROM block WHERE at >= ? AND at < ?", (low | start, low | end)
    ).fetchone()
    return row[0]


class Plan(msgspec.Struct):
    """What a slice is to remove: the partitions' new first offsets, and what that is."""

    begins: dict[int, int]
    done: Trimmed


def plan(db: apsw.Connection, task: Task, *, ages: Ages, expiry: Expiry, bytes_now: int) -> Plan:
    """What one slice would remove; reads only.

    Args:
        db: any connection.
        task: what to trim.
        ages: what is known of the clocks, as of now.
        expiry: when a group holds no more.
        bytes_now: the bytes of the topic's blocks (see `bytes_of`).

    Raises:
        CorruptionError: a row is not what was written.
    """
    now_us, apart = ages.now_us, task.apart

    @cache
    def holders() -> tuple[list[Standing], list[Standing]]:
        """Whose input and whose own topics hold this back. They are asked for only when a block is to go."""
        if task.force and apart is None:
            return [], []
        pids = [*task.pids, *(apart.inputs.values() if apart is not None else ())]
        found = standings(db, now_us=now_us, expiry=expiry, pids=pids)
        groups = [] if task.force else [standing for standing in found if standing.holds]
        return groups, found if apart is not None and apart.always else groups

    @cache
    def needed(pid: int) -> Held | None:
        groups, owners = holders()
        both = _needed(groups, pid), None if apart is None else _needed_apart(db, owners, pid, apart)
        return min((held for held in both if held is not None), key=lambda held: held.offset, default=None)

    slice_ = _Slice(task.limits, now_us, bytes_now, needed)
    begins = {pid: placed.known(db, pid).begin for pid in task.pids}
    heads = (_heads(db, pid, begin, ages, slice_.stopped) for pid, begin in begins.items())
    for head in heapq.merge(*heads):
        if not slice_.take(head):
            break
    return Plan(slice_.begins, slice_.done)


class _Slice:
    """Gathers the oldest blocks for as long as they are to go and the slice has room."""

    def __init__(self, limits: Limits, now_us: int, bytes_now: int, needed: Callable[[int], Held | None]) -> None:
        self.begins: dict[int, int] = {}
        self.done = Trimmed()
        self._old_us = None if limits.age_us is None else now_us - limits.age_us - SLACK_US
        self._excess = 0 if limits.bytes_max is None else bytes_now - limits.bytes_max
        self._needed = needed
        self.stopped: set[int] = set()
        """Partitions of which nothing more goes."""

    def take(self, head: _Head) -> bool:
        """Take the next oldest block if it is to go; whether there can be another one."""
        done = self.done
        if self._excess <= 0 and (self._old_us is None or head.written_us > self._old_us):
            return False
        needed = self._needed(head.pid)
        if needed is not None and head.first + head.count > needed.offset:
            self.stopped.add(head.pid)
            done.held.append(needed)
            return True
        if done.blocks == SLICE_BLOCKS or (done.blocks and done.bytes + head.bytes > SLICE_BYTES):
            done.more = True
            return False
        self.begins[head.pid] = head.first + head.count
        done.blocks += 1
        done.events += head.count
        done.bytes += head.bytes
        self._excess -= head.bytes
        return True


def trim(db: apsw.Connection, task: Task, *, ages: Ages, expiry: Expiry, bytes_now: int) -> Trimmed:
    """Remove one slice, inside the caller's transaction; see `plan`."""
    planned = plan(db, task, ages=ages, expiry=expiry, bytes_now=bytes_now)
    for pid, begin in planned.begins.items():
        _remove(db, pid, begin)
    return planned.done


def _needed(groups: Sequence[Standing], pid: int) -> Held | None:
    """The lowest offset of the partition that a group still needs: not settled yet, or referred to by its ledger."""
    lowest: Held | None = None
    for standing in groups:
        for row in standing.rows:
            if row.pid != pid:
                continue
            offset = row.floor if row.oldest is None else min(row.floor, row.oldest)
            if lowest is None or offset < lowest.offset:
                lowest = Held(pid, standing.group.name, offset)
    return lowest


def _needed_apart(db: apsw.Connection, groups: Sequence[Standing], pid: int, apart: Apart) -> Held | None:
    for standing in groups:
        if standing.group.name == apart.group and pid in apart.inputs:
            entries = progress.ledger_of(db, standing.group.id, apart.inputs[pid], space=apart.space)
            offset = apart.needed(entries)
            if offset is not None:
                return Held(pid, apart.group, offset, apart.why)
    return None


def _heads(db: apsw.Connection, pid: int, begin: int, ages: Ages, stopped: Container[int]) -> Iterator[_Head]:
    """The partition's blocks in order, each no older than the one before: an old one may lie behind a young one.

    They end when the partition is one of `stopped`: behind what a group needs there may be millions. What is
    quarantined, of which nothing can be believed, is one with the block behind it.
    """
    name, youngest, size, end = f"partition id {pid}", 0, 0, begin
    passed = quarantine.of(db, pid)
    for row in _headers(db, pid, begin):
        at, size = row[0], size + row[-1]
        if any(one.first <= at & OFFSET_MAX < one.end for one in passed):
            continue
        (_, count, schema_id, recorded_us, _, since, *_), _ = placed.checked_header(row, name)
        written = ages.youngest_us(recorded_us, placed.recorded_last_us(schema_id, recorded_us, since))
        youngest, first, end = max(youngest, written), end, (at & OFFSET_MAX) + count
        yield _Head(youngest, pid, first, end - first, size)
        if pid in stopped:
            return
        size = 0


def _headers(db: apsw.Connection, pid: int, begin: int) -> Iterator[Any]:
    """Rows of `placed.HEADERS`, not checked, from offset `begin` on."""
    at, high = pid << OFFSET_BITS | begin, pid << OFFSET_BITS | OFFSET_MAX
    while True:
        rows: list[Any] = db.execute(placed.HEADERS + " ORDER BY at LIMIT ?", (at, high, _ROWS_AT_ONCE)).fetchall()
        yield from rows
        if not rows:
            return
        at = rows[-1][0] + 1


def _remove(db: apsw.Connection, pid: int, begin: int) -> None:
    ends = placed.known(db, pid)
    placed.remove(db, pid, start=ends.begin, end=begin)
    reached("log.trim")
    ends.begin = begin
    placed.set_begin(db, pid, ends)
    quarantine.forget(db, pid, begin=begin)


def trim_steps(db: apsw.Connection, pids: Sequence[int], group_ids: Sequence[int]) -> int:
    """Forget steps whose input is gone, of these groups, some at a time; how many. Inside the caller's transaction."""
    gone = 0
    for pid in pids:
        begin = placed.known(db, pid).begin
        for group_id in group_ids:
            if begin and gone < _STEPS_AT_ONCE:
                gone += progress.trim_steps(db, group_id, pid, begin=begin, count_max=_STEPS_AT_ONCE - gone)
    return gone


def steps_due(db: apsw.Connection, pids: Sequence[int], group_ids: Sequence[int]) -> bool:
    """Whether `trim_steps` has something to do; the next step that could go is looked at, of each."""
    for pid in pids:
        begin = placed.known(db, pid).begin
        if begin and any(progress.oldest_step_ends(db, group_id, pid) <= begin for group_id in group_ids):
            return True
    return False
