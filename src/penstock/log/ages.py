"""The log's own time: how old its contents are at least, whatever the wall clock does.

A block says when it was recorded by the wall clock, which may jump. The log's own time goes on only by what both the
wall clock and the monotonic one say has passed, so it never runs ahead: what is old by it is old. It falls behind
while the machine is off or asleep; nothing is ever thought older than it is.

Every writer looks before it records anything after a jump (see `Store`), so the log knows its *periods*: from when on
the wall clock was ahead of the log's own time by how much. A recorded time is read back through them.
"""

from __future__ import annotations

from collections.abc import Sequence

import apsw
import msgspec

from penstock.errors import RecordDamaged
from penstock.log import meta
from penstock.log.checks import row_check, verify_row

SLACK_US = 60 * 1_000_000
"""A jump may go unnoticed for as long as nobody looks; what is shorter is not told from a jump."""

_KEY = "aged"
_TOLERATED_US = 1_000_000
_PERIODS_MAX = 366
"""A machine that sleeps every night begins one a day: those of a year are told apart, older ones count as younger."""
_WAY_OUT = "nothing was used or changed: restore a backup, or run `penstock doctor`"


class Period(msgspec.Struct, frozen=True, array_like=True):
    """From `start_us` of the log's own time on, the wall clock was ahead of it by `lag_us`."""

    start_us: int
    lag_us: int


class Ages(msgspec.Struct, frozen=True, array_like=True):
    """What is known of the clocks: their values at the last look, and the periods so far, of which there is one."""

    looked_us: int
    monotonic_us: int
    periods: Sequence[Period]

    @property
    def lag_us(self) -> int:
        """By how much the wall clock is ahead of the log's own time now."""
        return self.periods[-1].lag_us

    @property
    def now_us(self) -> int:
        """The log's own time at the look."""
        return self.looked_us - self.lag_us

    def youngest_us(self, first_us: int, last_us: int | None = None) -> int:
        """The latest moment, in the log's own time, at which something with this recorded time can have been written.

        With `last_us` it is of several things: the first recorded time among them, and the last. Where the wall clock
        has shown a time twice there are several moments; the latest is the one on the safe side.
        """
        last_us = first_us if last_us is None else last_us
        ends = [*(period.start_us for period in self.periods[1:]), self.now_us]
        fitting: list[int] = []
        for index, (period, end) in enumerate(zip(self.periods, ends, strict=True)):
            latest = min(last_us - period.lag_us, end + SLACK_US)
            earliest = first_us - period.lag_us
            if earliest <= latest and (index == 0 or latest >= period.start_us - SLACK_US):
                fitting.append(latest)
        return max(fitting or [last_us - period.lag_us for period in self.periods])


def moved(ages: Ages | None, *, now_us: int, monotonic_us: int | None) -> Ages:
    """What is known after a look at the clocks; without a monotonic clock the wall clock is believed, except backwards.

    The monotonic clock begins again with the machine, and then nothing tells how long it was off: no time has passed.
    """
    seen_us = monotonic_us or 0
    if ages is None:
        return Ages(now_us, seen_us, [Period(now_us, 0)])
    passed = now_us - ages.looked_us
    limit = passed if monotonic_us is None else monotonic_us - ages.monotonic_us
    credit = max(0, min(passed, limit))
    jump = passed - credit
    if abs(jump) <= _TOLERATED_US:
        return Ages(now_us, seen_us, ages.periods)
    start = ages.looked_us - ages.lag_us + credit
    periods = [*ages.periods, Period(start, ages.lag_us + jump)]
    if len(periods) > _PERIODS_MAX:  # the oldest two become one, on the safe side
        one, other, *rest = periods
        periods = [Period(one.start_us, min(one.lag_us, other.lag_us)), *rest]
    return Ages(now_us, seen_us, periods)


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(tuple[Ages, int]).decode


def known(db: apsw.Connection) -> Ages | None:
    """What is known of the clocks; None when nobody has looked yet.

    Raises:
        RecordDamaged: it is not what was written.
    """
    value = meta.get(db, _KEY)
    if value is None:
        return None
    try:
        ages, check = _unpack(value)
    except (msgspec.MsgspecError, TypeError) as exc:
        msg = f"the log's own time is {value!r}; {_WAY_OUT}"
        raise RecordDamaged(msg) from exc
    verify_row("the log's own time", check, _KEY, _pack(ages))
    return ages


def look(db: apsw.Connection, *, now_us: int, monotonic_us: int | None) -> Ages:
    """Note what the clocks say; inside the caller's transaction.

    Raises:
        RecordDamaged: what was noted is not what was written.
    """
    ages = moved(known(db), now_us=now_us, monotonic_us=monotonic_us)
    meta.put(db, {_KEY: _pack((ages, row_check(_KEY, _pack(ages))))})
    return ages
