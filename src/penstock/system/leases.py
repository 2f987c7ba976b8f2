"""Who lives, as one observer sees it: a lock that is free is a death, a counter that stands still is a stopped process.

Only the observer's own monotonic clock counts, and of that only the time in which it looked: a wall clock may jump, and
an observer that was stopped itself has seen nothing meanwhile.
Source: FAULTS.md B12, leases by renew counters (as in the DynamoDB lock client), not by time stamps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

LEASE_S = 2.0
"""How long a member's counter may stand still before its partitions are given to others."""
LEASE_S_MIN = 0.5
"""A shorter lease takes a moment's load for a process that has stopped."""
LOOK_S = 0.05
"""How often counters are renewed and looked at."""
GAP_S_MAX = 4 * LOOK_S
"""The longest time between two looks that counts in full."""


@dataclass(frozen=True, slots=True)
class Sign:
    """What is seen of a member at one look: whether its lock is held, and its counter."""

    locked: bool
    beat: int


class Leases:
    """One observer's view of the other members. Pure but for what it remembers; the clock is passed in.

    Args:
        lease_s: see `LEASE_S`; at least a few looks long.
    """

    def __init__(self, lease_s: float = LEASE_S) -> None:
        self._lease_s = lease_s
        self._seen: dict[str, tuple[int, float]] = {}  # name → counter, and for how long it has stood still
        self._looked_s: float | None = None

    def live(self, signs: Mapping[str, Sign], now_s: float) -> set[str]:
        """The names of those who live, given what is seen of everybody at this moment."""
        passed_s = 0.0 if self._looked_s is None else min(max(0.0, now_s - self._looked_s), GAP_S_MAX)
        self._looked_s = now_s
        seen: dict[str, tuple[int, float]] = {}
        for name, sign in signs.items():
            beat, still_s = self._seen.get(name, (sign.beat, 0.0))
            seen[name] = (sign.beat, still_s + passed_s if sign.beat == beat else 0.0)
        self._seen = seen
        return {name for name, sign in signs.items() if sign.locked and seen[name][1] < self._lease_s}
