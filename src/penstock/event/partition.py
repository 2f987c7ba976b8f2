"""Which partition a key belongs to: fixed, documented, and the same on every channel.

``partition = (crc32(key) * 0x9E3779B1 mod 2^32) * partitions >> 32`` with CRC-32 as in IEEE 802.3 (zlib) over the
key's canonical bytes. The multiplication (Knuth's golden ratio) spreads keys whose checksums differ in few bits; the
shift maps to a range without a division.

Source: Knuth, TAOCP 3, 6.4 (multiplicative hashing); Lemire, "Fast random integer generation in an interval", 2018.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID
from zlib import crc32

Key = str | bytes | int | UUID | None

KEY_BYTES_MAX = 64 * 1024
_GOLDEN = 0x9E3779B1


def canonical_key(key: Key) -> bytes | None:
    """The bytes that are hashed: text as UTF-8, bytes as they are, an int in decimal, a UUID in its text form.

    None stays None (an event without a key). The empty key is a key.

    Raises:
        ValueError: another type, a bool, or more than KEY_BYTES_MAX bytes.
    """
    if key is None or type(key) is bytes:
        raw = key
    elif isinstance(key, str):
        try:
            raw = key.encode()
        except UnicodeEncodeError as exc:
            msg = f"a key with half a surrogate pair at index {exc.start}, which has no bytes: use the original bytes"
            raise ValueError(msg) from exc
    elif isinstance(key, UUID):
        raw = str(key).encode()
    elif isinstance(key, int) and not isinstance(key, bool):
        raw = b"%d" % key
    else:
        msg = f"a key of type {type(key).__name__}; expected str, bytes, int, UUID or None"
        raise ValueError(msg)
    if raw is not None and len(raw) > KEY_BYTES_MAX:
        msg = f"a key of {len(raw)} bytes; at most {KEY_BYTES_MAX} are allowed: use its hash as the key"
        raise ValueError(msg)
    return raw


def partition_of(key: bytes | None, partitions: int) -> int:
    """The partition (0 ≤ p < partitions) of canonical key bytes; events without a key belong to partition 0."""
    if key is None:
        return 0
    return ((crc32(key) * _GOLDEN) & 0xFFFFFFFF) * partitions >> 32


def partitions_of(keys: Iterable[bytes | None], partitions: int) -> list[int]:
    """`partition_of` for many keys, in their order."""
    if partitions == 1:
        return [0 for _ in keys]
    return [0 if k is None else ((crc32(k) * _GOLDEN) & 0xFFFFFFFF) * partitions >> 32 for k in keys]
