"""What users write for a roll (``"60s"``) as a `Roll`."""

from __future__ import annotations

import re

from penstock.errors import ConfigError
from penstock.sink.api import Roll

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")


def roll_of(value: Roll | str | float, *, path: str) -> Roll:
    """A roll from itself, from a duration such as ``"60s"``, or from seconds.

    Raises:
        ConfigError: not a positive duration; `path` is where it was written.
    """
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip())
        if match is None:
            msg = f"{value!r} is not a duration; write a number and one of {', '.join(_UNITS_S)}, such as '60s'"
            raise ConfigError(msg, path=path)
        value = float(match[1]) * _UNITS_S[match[2]]
    roll = value if isinstance(value, Roll) else Roll(seconds=float(value))
    if not (roll.seconds > 0 and roll.events_max > 0 and roll.bytes_max > 0):
        msg = f"{roll} never lets anything be staged; every part of a roll must be above zero"
        raise ConfigError(msg, path=path)
    return roll
