"""Lines of a byte stream as they come: numbered, bounded, without waiting for more than there is."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

CHUNK_BYTES = 1 << 20


class Line(msgspec.Struct, frozen=True):
    """One line without its newline. `size` is its whole length: a longer one than allowed has no `body`."""

    number: int
    body: bytes
    size: int


class Lines:
    """Cuts what `read` returns into lines; holds one line at most, and of a line that is too long nothing.

    `read` takes how many bytes are wanted at most and returns what there is, empty at the end: a `read1`.
    """

    def __init__(self, read: Callable[[int], bytes], *, line_bytes_max: int) -> None:
        self._read = read
        self._max = line_bytes_max
        self._number = 0
        self._rest = b""
        self._skipped = 0
        self._over = False

    def next(self) -> list[Line]:
        """The lines that came next, at least one; empty at the end. Blank lines count but are left out."""
        while not self._over:
            chunk = self._read(CHUNK_BYTES)
            self._over = not chunk
            *whole, rest = (self._rest + chunk).split(b"\n")
            found = [line for body in whole if (line := self._line(body)) is not None]
            self._rest = rest
            if len(rest) > self._max:
                self._skipped += len(rest)
                self._rest = b""
            if self._over and (self._rest or self._skipped):
                last = self._line(self._rest)
                self._rest = b""
                found += [] if last is None else [last]
            if found:
                return found
        return []

    def _line(self, body: bytes) -> Line | None:
        self._number += 1
        size = self._skipped + len(body)
        self._skipped = 0
        if size > self._max:
            return Line(self._number, b"", size)
        body = body.removesuffix(b"\r")
        return Line(self._number, body, len(body)) if body.strip() else None
