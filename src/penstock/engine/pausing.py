"""A pause that ends early when the engine is told to stop."""

from __future__ import annotations

from penstock.engine.work import Stopping
from penstock.system.ports import Clock

LOOK_S = 0.1


async def waited(clock: Clock, seconds: float, stopping: Stopping) -> bool:
    """Whether the whole pause went by without the wish to stop."""
    while seconds > 0 and not stopping():
        await clock.sleep(min(seconds, LOOK_S))
        seconds -= LOOK_S
    return not stopping()
