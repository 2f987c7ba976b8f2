"""Files that were read to their end in 16 bytes each: a position holds thousands of them."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from hashlib import blake2b
from zlib import crc32

import msgspec

KNOWN_MAX = 2**40 - 1
_KEY_BYTES = 5
_ENTRY = struct.Struct("<IBIH")
_PAIR = struct.Struct("<II")
_FILE = struct.Struct("<QQ")
_WHOLE = _KEY_BYTES + _ENTRY.size


class Folded(msgspec.Struct, frozen=True):
    """What is kept of one file: its size, a checksum of how it begins and ends, and one of its inode and time.

    The name is kept as a hash. Two names with one hash are never both folded; a new name that has the hash of another
    (one in a hundred million) finds the file changed, and stops the source: nothing is skipped for it.
    """

    known: int
    check: int
    file: int


def key(name: str) -> bytes:
    """The hash that stands for a name."""
    return blake2b(os.fsencode(name), digest_size=_KEY_BYTES).digest()


def check_of(head: int, tail: int) -> int:
    """One checksum of two."""
    return crc32(_PAIR.pack(head, tail))


def file_of(inode: int, modified_ns: int) -> int:
    """What tells, with the size and the content, that a file of another name is the same one."""
    return crc32(_FILE.pack(inode & (2**64 - 1), modified_ns & (2**64 - 1))) & 0xFFFF


def entry(folded: Folded) -> bytes:
    """As bytes of fixed length."""
    return _ENTRY.pack(folded.known & 0xFFFFFFFF, folded.known >> 32, folded.check, folded.file)


def of_entry(data: bytes) -> Folded:
    """Back from bytes."""
    low, high, check, file = _ENTRY.unpack(data)
    return Folded(high << 32 | low, check, file)


def joined(entries: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Keys and entries, one after the other."""
    return b"".join(name + data for name, data in entries)


def split(data: bytes) -> dict[bytes, bytes]:
    """Back from `joined`.

    Raises:
        ValueError: the length is that of no number of entries.
    """
    if len(data) % _WHOLE:
        raise ValueError(f"{len(data)} bytes of folded files; expected a multiple of {_WHOLE}")
    return {data[at : at + _KEY_BYTES]: data[at + _KEY_BYTES : at + _WHOLE] for at in range(0, len(data), _WHOLE)}
