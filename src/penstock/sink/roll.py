"""What users write for a roll (``"60s"``) as a `Roll`."""

from __future__ import annotations

from penstock.config import duration_s
from penstock.errors import ConfigError
from penstock.sink.api import Roll


def roll_of(value: Roll | str | float, *, path: str) -> Roll:
    """A roll from itself, from a duration such as ``"60s"``, or from seconds.

    Raises:
        ConfigError: not a positive duration; `path` is where it was written.
    """
    roll = value if isinstance(value, Roll) else Roll(seconds=duration_s(value, path=path))
    for part, kinds, expected in (
        ("events_max", int, "a whole number"),
        ("bytes_max", int, "a whole number"),
        ("seconds", (int, float), "a number of seconds"),
    ):
        if not isinstance(getattr(roll, part), kinds):
            raise ConfigError(f"{getattr(roll, part)!r}; expected {expected}", path=f"{path}.{part}")
    if not (roll.seconds > 0 and roll.events_max > 0 and roll.bytes_max > 0):
        msg = f"{roll} never lets anything be staged; every part of a roll must be above zero"
        raise ConfigError(msg, path=path)
    return roll
