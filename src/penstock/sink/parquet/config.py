"""What a user says about a Parquet directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from penstock.config import path_text
from penstock.errors import ConfigError
from penstock.sink.api import Roll
from penstock.sink.roll import roll_of

if TYPE_CHECKING:
    from penstock.sink.api import Sink

ZSTD_LEVEL_DEFAULT = 3
ROLL_DEFAULT = Roll()
_ZSTD_LEVELS = range(1, 23)


class ParquetSink(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A directory that readers glob as ``**/*.parquet``; created when it is missing.

    `roll` says how much goes into one file; `zstd_level` is 1 (fast) to 22 (small).
    """

    path: str
    roll: Roll = ROLL_DEFAULT
    zstd_level: int = ZSTD_LEVEL_DEFAULT

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns that the events must have: none."""
        return ()

    def open(self) -> Sink:
        """The sink itself; the caller closes it. Nothing is touched before the first claim."""
        from penstock.sink.parquet.driver import ParquetDirectory  # noqa: PLC0415 - the library loads on first use

        return ParquetDirectory(self)


def parquet(
    path: str | os.PathLike[str], *, roll: Roll | str | float = ROLL_DEFAULT, zstd_level: int = ZSTD_LEVEL_DEFAULT
) -> ParquetSink:
    """Results as Parquet files in the directory `path`, a new file at every roll (``"60s"``, or a `Roll`).

    Delivery guarantee: effectively-once; D2 on a local disk; order per partition within a file.

    Args:
        path: the directory, relative to the program's; made when it is missing.
        roll: when a file is finished; a duration alone keeps the other limits of a `Roll`.
        zstd_level: 1 (fast) to 22 (small).

    Raises:
        ConfigError: the path is empty or a file, the roll is not a duration, the level is out of range.
    """
    text = path_text(path, path="parquet.path", example="lake/delays")
    if not text:
        msg = "the path is empty; expected a directory such as 'lake/delays'"
        raise ConfigError(msg, path="parquet.path")
    if Path(text).exists() and not Path(text).is_dir():
        msg = f"{text} is a file; expected a directory (or nothing yet)"
        raise ConfigError(msg, path="parquet.path")
    if zstd_level not in _ZSTD_LEVELS:
        msg = f"{zstd_level} is no level of zstd; expected 1 to 22"
        raise ConfigError(msg, path="parquet.zstd_level")
    return ParquetSink(text, roll_of(roll, path="parquet.roll"), zstd_level)
