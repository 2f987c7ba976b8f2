"""What users write for sizes and durations, as numbers with a unit."""

from __future__ import annotations

import re

from penstock.errors import ConfigError

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")


def duration_s(value: str | float, *, path: str) -> float:
    """Seconds, from seconds or from text such as ``"90s"``, ``"1.5h"`` or ``"200ms"``.

    Raises:
        ConfigError: not a duration, or below zero; `path` is where it was written.
    """
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip())
        if match is None:
            msg = f"{value!r} is not a duration; write a number and one of {', '.join(_UNITS_S)}, such as '60s'"
            raise ConfigError(msg, path=path)
        return float(match[1]) * _UNITS_S[match[2]]
    if not value >= 0:
        msg = f"{value} s; expected 0 or more seconds"
        raise ConfigError(msg, path=path)
    return float(value)
