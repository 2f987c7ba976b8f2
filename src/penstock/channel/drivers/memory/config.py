"""How much the memory driver holds."""

from __future__ import annotations

import msgspec


class MemoryConfig(msgspec.Struct, frozen=True):
    """Bounds of one memory; what passes them is refused, never dropped.

    events_max: events of all topics together. answers_max: publishes remembered per producer (oldest forgotten first).
    steps_max: recorded steps kept per group and partition (oldest forgotten first).
    """

    events_max: int = 50_000_000
    answers_max: int = 100_000
    steps_max: int = 100_000
