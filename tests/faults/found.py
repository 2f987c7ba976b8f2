"""What a look at a job's results showed."""

from __future__ import annotations

import msgspec


class Found(msgspec.Struct):
    """`wrong` holds contradictions, `lost` counts acked things that are gone; `complete`: nothing is left to do."""

    wrong: list[str]
    lost: int = 0
    events: int = 0
    steps: int = 0
    complete: bool = False
