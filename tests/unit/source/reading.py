"""Helpers of these tests: read a source to its end, chunk by chunk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from penstock.event import Rows
from penstock.schema import Schema, schema_of
from penstock.source.api import Bad, Chunk, Source
from penstock.source.files import Files


class Bid(msgspec.Struct):
    """What most of these files hold."""

    id: int
    who: str


BID: Schema[Any] = schema_of(Bid)
LIMIT = 1000


def bid(number: int, who: str = "ann") -> bytes:
    """One line, as our own encoder writes it."""
    return b'{"id":%d,"who":"%s"}' % (number, who.encode())


def lines(*numbers: int) -> bytes:
    """A file of bids."""
    return b"".join(bid(n) + b"\n" for n in numbers)


def opened(
    spec: Files, base: Path, position: bytes = b"", *, schema: Schema[Any] | None = BID, limit: int = LIMIT
) -> Source:
    """The source of `spec`, opened at `position`."""
    source = spec.open_source(base, "s", event_bytes_max=limit)
    source.open(schema, position)
    return source


def chunks(source: Source, *, events_max: int = 100, bytes_max: int = 100_000) -> list[Chunk]:
    """Everything up to the first None; the source is closed."""
    found: list[Chunk] = []
    while (chunk := source.read(events_max=events_max, bytes_max=bytes_max)) is not None:
        found.append(chunk)
    source.close()
    return found


def bodies(found: Sequence[Chunk]) -> list[bytes]:
    """The events of chunks, in order."""
    out: list[bytes] = []
    for chunk in found:
        assert isinstance(chunk.events, Rows)
        out += chunk.events.bodies()
    return out


def bads(found: Sequence[Chunk]) -> list[Bad]:
    """What was bad in chunks, in order."""
    return [bad for chunk in found for bad in chunk.bad]


def read(spec: Files, base: Path, position: bytes = b"", *, schema: Schema[Any] | None = BID) -> list[Chunk]:
    """All chunks from `position` on."""
    return chunks(opened(spec, base, position, schema=schema))
