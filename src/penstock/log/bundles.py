"""Bundles: a block that holds several older ones, each as it was, compressed together.

Layout: kind B, codec, two zero bytes, then three little-endian u32: size of the index, size of the payload before
compression, number of blocks; then the index (msgpack: of each block what its row said, and the size of its bytes),
then the payload: the blocks one after the other, those of rows without a compression of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from penstock.errors import BlockDamaged
from penstock.log import blocks
from penstock.log.api import Stored


class Part(msgspec.Struct, frozen=True, array_like=True):
    """One block of a bundle: what its row said, and how many bytes of the payload are its own."""

    count: int
    schema_id: int
    recorded_us: int
    origin: str
    since: int
    time_min_us: int | None
    time_max_us: int | None
    size: int
    bytes: int


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[Part]).decode


def bundle(old: Sequence[Stored], sizes: Sequence[int]) -> bytes:
    """The bundle of these neighbouring blocks; `sizes` are theirs before compression."""
    data = [blocks.plain(one.data) for one in old]
    index = _pack(
        [
            Part(
                one.count,
                one.schema_id,
                one.recorded_us,
                one.origin,
                one.first - one.base,
                one.time_min_us,
                one.time_max_us,
                size,
                len(raw),
            )
            for one, size, raw in zip(old, sizes, data, strict=True)
        ]
    )
    return blocks.pack_bundle(index, b"".join(data), len(old))


def unbundle(pid: int, first: int, data: bytes) -> list[tuple[Stored, int]]:
    """The blocks of a bundle that begins at `first`, with their sizes; its checksum has been verified.

    Raises:
        BlockDamaged: the layout contradicts itself.
    """
    index, payload, count = blocks.unpack_bundle(data)
    try:
        parts = _unpack(index)
    except msgspec.MsgspecError as exc:
        msg = f"a bundle whose index cannot be read: {exc}"
        raise BlockDamaged(msg) from exc
    if len(parts) != count or sum(part.bytes for part in parts) != len(payload):
        msg = f"a bundle of {count} blocks with an index of {len(parts)}, whose bytes do not add up"
        raise BlockDamaged(msg)
    found: list[tuple[Stored, int]] = []
    at, offset = 0, first
    for part in parts:
        raw = payload[at : at + part.bytes]
        stored = Stored(
            pid,
            offset,
            part.count,
            part.schema_id,
            part.recorded_us,
            part.origin,
            offset - part.since,
            raw,
            part.time_min_us,
            part.time_max_us,
        )
        found.append((stored, part.size))
        at += part.bytes
        offset += part.count
    return found
