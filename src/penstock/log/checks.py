"""Checksums of rows and blocks: a flipped bit is an error that names the row, never a value that is used."""

from __future__ import annotations

from typing import Any
from zlib import crc32

import msgspec

from penstock.errors import RecordDamaged

_pack = msgspec.msgpack.Encoder().encode


def row_check(*values: Any) -> int:
    """CRC-32 over the row's values."""
    return crc32(_pack(values))


def verify_row(what: str, check: int, *values: Any) -> None:
    """Compare.

    Raises:
        RecordDamaged: the row is not what was written; `what` says which row.
    """
    found = row_check(*values)
    if found != check:
        msg = (
            f"{what}: stored checksum {check}, computed {found}; the row was changed outside Penstock or the disk "
            "is failing. Nothing was used or changed; restore a backup, or run `penstock doctor`"
        )
        raise RecordDamaged(msg)
