"""Which groups still hold what they have not settled: those that were here lately, and those that were not yet warned.

A group without a member and without a commit for a stated time is warned of first (in the log, by `penstock groups`
and by `penstock doctor`), and after another stated time it holds retention up no more. Nothing of it is removed: when
it comes back it goes on, or is told that what it needs is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import apsw
import msgspec

from penstock.log import catalogue, progress
from penstock.log.api import GroupRow, ProgressRow

DAY_US = 86_400 * 1_000_000

State = Literal["live", "quiet", "warned", "expired"]


class Expiry(msgspec.Struct, frozen=True):
    """After how long without a member or a commit a group is warned of, and how long after that it holds no more."""

    quiet_us: int = 7 * DAY_US
    warned_us: int = DAY_US


class Standing(msgspec.Struct, frozen=True):
    """A group as retention sees it; times are the log's own (see `ages`)."""

    group: GroupRow
    rows: Sequence[ProgressRow]
    seen_us: int
    state: State

    @property
    def holds(self) -> bool:
        """Whether retention stops before what it has not settled."""
        return self.state != "expired"


def state_of(seen_us: int, warned_us: int, *, now_us: int, expiry: Expiry) -> State:
    """Pure: from when it was seen (0: nobody knows) and warned of (0: never)."""
    if seen_us == 0 or now_us - seen_us < expiry.quiet_us:
        return "live"
    if warned_us <= seen_us:
        return "quiet"
    return "expired" if now_us - warned_us >= expiry.warned_us else "warned"


def standings(db: apsw.Connection, *, now_us: int, expiry: Expiry, pids: Sequence[int] | None = None) -> list[Standing]:
    """Every group, by name; with `pids` those that have begun on one of these. `now_us` is the log's own time.

    Raises:
        RecordDamaged: a row is not what was written.
    """
    rows: dict[int, list[ProgressRow]] = {}
    for row in progress.all_progress(db, pids=pids):
        rows.setdefault(row.group_id, []).append(row)
    found: list[Standing] = []
    for group in catalogue.groups(db, ids=None if pids is None else list(rows)):
        mine = rows.get(group.id, [])
        times = [row.seen_us for row in mine]
        seen_us = max(times, default=0)
        found.append(Standing(group, mine, seen_us, state_of(seen_us, group.warned_us, now_us=now_us, expiry=expiry)))
    return found


def review(
    db: apsw.Connection, *, now_us: int, expiry: Expiry, alive: Callable[[int], bool]
) -> tuple[list[Standing], bool]:
    """The groups of which somebody is to be warned now; and whether anything is to be noted (see `note`)."""
    found = standings(db, now_us=now_us, expiry=expiry)
    unknown = any(s.rows and (s.seen_us == 0 or (s.state != "live" and alive(s.group.id))) for s in found)
    quiet = [s for s in found if s.state == "quiet" and not alive(s.group.id)]
    return quiet, bool(unknown or quiet)


def note(db: apsw.Connection, *, now_us: int, expiry: Expiry, alive: Callable[[int], bool]) -> list[str]:
    """Note which groups have a member, and which were found quiet; returns the names of the latter.

    Inside the caller's transaction. A group of which nobody knows when it was seen was seen now.
    """
    warned: list[str] = []
    for standing in standings(db, now_us=now_us, expiry=expiry):
        if not standing.rows:
            continue
        if standing.seen_us == 0 or (standing.state != "live" and alive(standing.group.id)):
            progress.seen(db, standing.rows[0], now_us)
        elif standing.state == "quiet":
            catalogue.set_warned(db, standing.group.id, now_us)
            warned.append(standing.group.name)
    return warned
