"""What a long run is told: seed, limits, and where to say how it goes."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

Say = Callable[[str], None]


class Limits(msgspec.Struct, frozen=True):
    """points: kill points per job, 0 for each one. states: power-loss states at `full`. flips: per file.

    minutes: of the soak. cycles: kills and stops of workers. kills: of one that redrives. seeds: simulated.
    """

    seed: int = 0
    points: int = 0
    states: int = 2400
    flips: int = 300
    minutes: float = 30.0
    cycles: int = 200
    kills: int = 30
    seeds: int = 20_000
