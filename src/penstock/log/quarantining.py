"""Telling the log to pass over damaged events: only what cannot be read, and only when somebody says so."""

from __future__ import annotations

from typing import Any

import apsw

from penstock.errors import ConfigError
from penstock.log import placed, quarantine
from penstock.log.progress import Look
from penstock.log.quarantine import Quarantined
from penstock.log.verify import Place, Verified, damages
from penstock.system.points import reached


def damaged(look: Look[Any], place: Place, first: int, end: int, *, now_us: int) -> Quarantined:
    """What is to be recorded of the offsets from `first` to before `end`, after a look at each of them.

    Raises:
        ConfigError: some of them can be read, or are quarantined already, or are not in the partition.
    """
    ends = look(lambda db: placed.known(db, place.pid))
    known = look(lambda db: quarantine.of(db, place.pid))
    found = [
        damage
        for damage in damages(look, place, ends, Verified())
        if not any(one.first <= damage.first and damage.end <= one.end for one in known)
    ]
    inside = [damage for damage in found if first <= damage.first and damage.end <= end]
    if first >= end or sum(damage.end - damage.first for damage in inside) != end - first:
        listed = ", ".join(f"{damage.first}:{damage.end - 1}" for damage in found) or "none"
        msg = f"offsets {first}:{end - 1} are not all damaged; damaged and not quarantined are: {listed}"
        raise ConfigError(msg, path=f"topics.{place.topic}/{place.number}")
    return Quarantined(place.pid, first, end, now_us, "; ".join(damage.what for damage in inside)[:2000])


def pass_over(db: apsw.Connection, one: Quarantined) -> Quarantined:
    """Record it, inside the caller's transaction; blocks do not change, so what was damaged still is.

    Raises:
        ConfigError: somebody else has just done so.
    """
    if any(one.first < other.end and other.first < one.end for other in quarantine.of(db, one.pid)):
        raise ConfigError(f"offsets {one.first}:{one.end - 1} are quarantined already")
    quarantine.record(db, one)
    reached("log.quarantine")
    return one
