"""The witness: a small file beside the log that says how many commits the log must hold.

A flipped bit in SQLite's write-ahead log silently drops every later commit, and SQLite's integrity check says ok. The
witness is written after COMMIT, under the writers' lock, so it never runs ahead of the log; a log that holds fewer
commits has lost some. Two slots are written in turn, each in a sector of its own with a checksum, so one torn or
flipped slot leaves the other.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from zlib import crc32

import msgspec

from penstock.errors import WitnessDamaged
from penstock.system.files import sync_directory, write_synced

NAME = "witness"
_SLOT = struct.Struct("<8s32sIQ")
_MAGIC = b"PNSTKW01"
_SECTOR = 512


class Seen(msgspec.Struct, frozen=True):
    """What a witness has seen: the log's identity, its history and its number of commits."""

    log: str
    incarnation: int
    commits: int


def _pack(seen: Seen) -> bytes:
    body = _SLOT.pack(_MAGIC, seen.log.encode(), seen.incarnation, seen.commits)
    return body + struct.pack("<I", crc32(body))


def _unpack(raw: bytes) -> Seen | None:
    body, check = raw[: _SLOT.size], raw[_SLOT.size : _SLOT.size + 4]
    if check != struct.pack("<I", crc32(body)):
        return None
    magic, log, incarnation, commits = _SLOT.unpack(body)
    return Seen(log.rstrip(b"\0").decode(), incarnation, commits) if magic == _MAGIC else None


def _age(seen: Seen) -> tuple[int, int]:
    return seen.incarnation, seen.commits


class Witness:
    """An open witness file. Reads and writes happen under the writers' lock."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._spare = 0

    @classmethod
    def create(cls, directory: Path, seen: Seen) -> None:
        """Write both slots, durably; replaces an older witness."""
        data = bytearray(_SECTOR * 2)
        for slot in range(2):
            packed = _pack(seen)
            data[slot * _SECTOR : slot * _SECTOR + len(packed)] = packed
        new = directory / f"{NAME}.new"
        write_synced(new, bytes(data))
        os.replace(new, directory / NAME)
        sync_directory(directory)

    @classmethod
    def open(cls, directory: Path, *, write: bool = True) -> Witness:
        """Open the witness of a log; without `write`, to read it only.

        Raises:
            WitnessDamaged: there is none.
        """
        try:
            return cls(os.open(directory / NAME, (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC))
        except FileNotFoundError:
            msg = (
                f"{directory / NAME} is missing, so nobody can say whether the log is whole; put the file back, or "
                "accept the log as it is with `penstock doctor --accept-loss` (raises the incarnation)"
            )
            raise WitnessDamaged(msg) from None

    def read(self) -> Seen:
        """The newest of the readable slots.

        Raises:
            WitnessDamaged: neither slot is readable.
        """
        raw = os.pread(self._fd, _SECTOR * 2, 0)
        one, other = _unpack(raw[:_SECTOR]), _unpack(raw[_SECTOR:])
        if one is None and other is None:
            msg = (
                "both slots of the witness file are damaged, so nobody can say whether the log is whole; restore the "
                "file, or accept the log as it is with `penstock doctor --accept-loss` (raises the incarnation)"
            )
            raise WitnessDamaged(msg)
        if one is None or (other is not None and _age(other) > _age(one)):
            assert other is not None
            self._spare = 0
            return other
        self._spare = 1
        return one

    def write(self, seen: Seen) -> None:
        """Record what was committed, into the slot that was not the newest at the last `read`."""
        os.pwrite(self._fd, _pack(seen), self._spare * _SECTOR)
        self._spare = 1 - self._spare

    def sync(self) -> None:
        """Bring it to the disk; only needed before the log's files are copied or moved."""
        os.fsync(self._fd)

    def close(self) -> None:
        """Close the file; may be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
