"""Putting a group's progress elsewhere: what it would mean, and doing it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from penstock.channel.api import GroupSpec
from penstock.channel.rules import unknown_name
from penstock.delivery.lot import SPACE as PARKED
from penstock.delivery.redrive import LETTERS_SPACE, POSITION_SPACE
from penstock.errors import ConfigError, ConflictError
from penstock.log import catalogue, placed, progress
from penstock.log.extent import offset_at
from penstock.observe.inventory import parked_in

if TYPE_CHECKING:
    import apsw

    from penstock.channel.drivers.embedded import EmbeddedChannel

KEPT = (LETTERS_SPACE, POSITION_SPACE)
"""What became of dead letters is no matter of where the group reads: forgotten, each would be redriven once more."""

_group_spec = msgspec.json.Decoder(GroupSpec).decode


class Aim(msgspec.Struct, frozen=True):
    """Where to: an offset (None: the end), or the first event recorded at a time; of these partitions, or of all.

    `topic`: which one is meant, when somebody has said so; it must be the group's.
    """

    offset: int | None = None
    time_us: int | None = None
    partitions: Sequence[int] | None = None
    topic: str = ""


class Shift(msgspec.Struct, frozen=True):
    """One partition's move: `again` events are read again, `skipped` are never handled; `forgets` counts what goes.

    `forgets`: ledger space (attempts, state …) to entries; for parked events, how many they are. Those below `to` are
    `skipped`, but for those that lie among the dead letters.
    """

    partition: int
    floor: int
    to: int
    again: int
    skipped: int
    forgets: Mapping[str, int]


class Seeking(msgspec.Struct, frozen=True):
    """A move that has been worked out, and not been made."""

    group: str
    group_id: int
    pids: Sequence[int]
    shifts: Sequence[Shift]


def plan(channel: EmbeddedChannel, group: str, aim: Aim) -> Seeking:
    """What a move would mean; nothing is changed.

    Raises:
        ConfigError: no such group or partition, an event of another topic, an offset that is not there, or a sink: its
            position lies in its target.
        ConflictError: the group has members that live.
    """
    rows = {row.name: row for row in channel.port.look(catalogue.groups)}
    if group not in rows:
        raise ConfigError(unknown_name(group, list(rows), what="group"), path="groups")
    row, spec = rows[group], _group_spec(rows[group].spec)
    if spec.kind == "sink":
        msg = f"{group} is a sink: its position lies in its target, and the log's is only a hint; give it a new target"
        raise ConfigError(msg, path="groups")
    _require_nobody(channel, group, row.id)
    pids = channel.row(spec.topic).pids
    if aim.topic not in ("", spec.topic):
        raise ConfigError(f"group {group} reads topic {spec.topic}, not {aim.topic}", path="topic")
    numbers = range(len(pids)) if aim.partitions is None else sorted(set(aim.partitions))
    unknown = [number for number in numbers if not 0 <= number < len(pids)]
    if unknown:
        msg = f"partition {unknown[0]} of topic {spec.topic}; it has 0 to {len(pids) - 1}"
        raise ConfigError(msg, path="partition")

    def look(db: apsw.Connection) -> list[Shift]:
        return [shift_of(db, row.id, pids[number], number, aim) for number in numbers]

    return Seeking(group, row.id, [pids[number] for number in numbers], channel.port.look(look))


def shift_of(db: apsw.Connection, group_id: int, pid: int, number: int, aim: Aim) -> Shift:
    """What a move would mean for one partition.

    Raises:
        ConfigError: the offset is not there.
    """
    found = progress.progress_of(db, group_id, pid)
    floor, holes = (0, ()) if found is None else (found[0].floor, found[0].holes)
    ends = placed.known(db, pid)
    to = ends.offset if aim.offset is None else aim.offset
    if aim.time_us is not None:
        to = offset_at(db, pid, ends.offset, aim.time_us)
    if not ends.begin <= to <= ends.offset:
        held = f"{ends.begin} to {ends.offset - 1}" if ends.begin < ends.offset else "no events"
        msg = f"offset {to} of partition {number}, which holds {held}: "
        if to < ends.begin:
            msg += "retention has removed what lay before; `earliest` is the first that is kept"
        else:
            msg += f"{ends.offset} or `latest` is behind them; name the partitions that are meant"
        raise ConfigError(msg, path="offset")
    again = max(0, floor - to) + sum(hole >= max(to, floor) for hole in holes)
    skipped = max(0, to - floor - sum(hole < to for hole in holes))
    spaces = progress.spaces_of(db, group_id, pid)
    forgets = {space: count for space, count in spaces.items() if space not in KEPT}
    if PARKED in forgets:
        parked = parked_in(db, group_id, pid)
        forgets[PARKED] = len(parked.heads) + parked.events
        skipped += parked.below(to)
    return Shift(number, floor, to, again, skipped, forgets)


async def carry_out(channel: EmbeddedChannel, seeking: Seeking) -> None:
    """Make the move, in one transaction; the epochs go up.

    Raises:
        ConflictError: the group has members that live, or it or what is kept has moved since; nothing was changed.
    """
    _require_nobody(channel, seeking.group, seeking.group_id)

    def work(db: apsw.Connection) -> None:
        for pid, shift in zip(seeking.pids, seeking.shifts, strict=True):
            found = progress.progress_of(db, seeking.group_id, pid)
            if (0 if found is None else found[0].floor) != shift.floor:
                msg = f"group {seeking.group} has moved meanwhile; look again"
                raise ConflictError(msg)
            if shift.to < (begin := placed.known(db, pid).begin):
                msg = f"retention has removed what lay before offset {begin} of partition {shift.partition} meanwhile"
                raise ConflictError(f"{msg}; look again")
            progress.seek(db, seeking.group_id, pid, floor=shift.to, keep=KEPT)

    await channel.port.write(work)


def _require_nobody(channel: EmbeddedChannel, group: str, group_id: int) -> None:
    seats = channel.port.present(str(group_id))
    if seats:
        who = ", ".join(seat.label or "a member" for seat in seats)
        msg = f"group {group} is run by {who}; stop it first"
        raise ConflictError(msg)
