"""What users write for sizes and durations, as numbers with a unit."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from penstock.errors import ConfigError

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_UNITS_BYTES = {"B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
_MEASURE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)")


def duration_s(value: str | float, *, path: str) -> float:
    """Seconds, from seconds or from text such as ``"90s"``, ``"1.5h"`` or ``"200ms"``.

    Raises:
        ConfigError: not a duration, or below zero; `path` is where it was written.
    """
    if isinstance(value, str):
        return _measured(value, _UNITS_S, what="a duration", example="60s", path=path)
    if isinstance(value, bool) or not isinstance(value, int | float):  # pyright: ignore[reportUnnecessaryIsInstance]
        msg = f"{value!r} is not a duration; expected seconds, or text such as '60s'"
        raise ConfigError(msg, path=path)
    if not value >= 0:
        msg = f"{value} s; expected 0 or more seconds"
        raise ConfigError(msg, path=path)
    return float(value)


def path_text(value: str | os.PathLike[str], *, path: str, example: str) -> str:
    """A path as text.

    Raises:
        ConfigError: not a path; `path` is where it was written.
    """
    if not isinstance(value, str | os.PathLike):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(f"{value!r}; expected a path such as {example!r}", path=path)
    return os.fspath(value)


def size_bytes(value: str | int, *, path: str) -> int:
    """Bytes, from a number or from text such as ``"10GB"`` or ``"1.5 MB"`` (of 1000).

    Raises:
        ConfigError: not a size, or below zero; `path` is where it was written.
    """
    if isinstance(value, str):
        return int(_measured(value, _UNITS_BYTES, what="a size", example="10GB", path=path))
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:  # pyright: ignore[reportUnnecessaryIsInstance]
        msg = f"{value!r}; expected a whole number of bytes, or text such as '10GB'"
        raise ConfigError(msg, path=path)
    return value


def _measured(text: str, units: Mapping[str, float], *, what: str, example: str, path: str) -> float:
    match = _MEASURE.fullmatch(text.strip())
    if match is None or match[2] not in units:
        msg = f"{text!r} is not {what}; write a number and one of {', '.join(units)}, such as '{example}'"
        raise ConfigError(msg, path=path)
    return float(match[1]) * units[match[2]]
