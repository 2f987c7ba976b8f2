"""What users write for sizes and durations, as numbers with a unit."""

from __future__ import annotations

import re

from penstock.errors import ConfigError

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_UNITS_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|KB|MB|GB|TB)")
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


def size_bytes(value: str | int, *, path: str) -> int:
    """Bytes, from a number or from text such as ``"10GB"`` or ``"1.5 MB"`` (of 1000).

    Raises:
        ConfigError: not a size, or below zero; `path` is where it was written.
    """
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            msg = f"{value!r} is not a size; write a number and one of {', '.join(_UNITS_BYTES)}, such as '10GB'"
            raise ConfigError(msg, path=path)
        return int(float(match[1]) * _UNITS_BYTES[match[2]])
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:  # pyright: ignore[reportUnnecessaryIsInstance]
        msg = f"{value!r}; expected a whole number of bytes, or text such as '10GB'"
        raise ConfigError(msg, path=path)
    return value
