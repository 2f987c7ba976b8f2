"""Complete lines of a stream, a block at a time, in bounded memory."""

from __future__ import annotations

import zlib

import msgspec

from penstock.source.files.stream import READ_BYTES, Stream


class Long(msgspec.Struct, frozen=True):
    """A line that is longer than it may be: how it begins, and its length without the newline."""

    head: bytes
    size: int


class Lines:
    """The lines of `stream`, whose next byte is number `offset` and stands in line `line` + 1.

    `final`: what stands behind the last newline counts as a line. `checksum` (None: not kept) is the CRC-32 of
    everything before `offset`. Looking at lines does not consume them: `advance` does.
    """

    def __init__(self, stream: Stream, *, offset: int, line: int, final: bool, checksum: int | None) -> None:
        self._stream = stream
        self._final = final
        self._buffer = b""
        self._at = 0
        self._over = False
        self.offset = offset
        self.line = line
        self.checksum = checksum
        self.open_end = False
        self._torn = False

    @property
    def ended(self) -> bool:
        """Whether everything that is there has been consumed."""
        if self._torn:
            return False
        if not self._over and self._at == len(self._buffer):
            self._fill(1)
        return self._over and self._at == len(self._buffer)

    def peek(self, size: int) -> bytes:
        """The next `size` bytes, or what there is of them."""
        self._fill(size)
        return self._buffer[self._at : self._at + size]

    def block(self, size: int) -> bytes:
        """Complete lines from here, of together at most `size` bytes; each ends in a newline, but perhaps the last one.

        Empty when the next line is longer, or not complete.
        """
        self._fill(size + 1)
        if self._final and self._over and len(self._buffer) - self._at <= size:
            return self._buffer[self._at :]
        cut = self._buffer.rfind(b"\n", self._at, self._at + size) + 1
        return self._buffer[self._at : cut] if cut > self._at else b""

    def complete(self, size: int) -> bool:
        """Whether what is seen of the next `size` bytes will stay as it is: all are there, or the file is final."""
        self._fill(size + 1)
        return len(self._buffer) - self._at > size or (self._over and self._final)

    def advance(self, size: int, lines: int) -> None:
        """Consume `size` bytes, which are `lines` lines."""
        end = self._at + size
        if self.checksum is not None:
            self.checksum = zlib.crc32(memoryview(self._buffer)[self._at : end], self.checksum)
        self.open_end = size > 0 and self._buffer[end - 1 : end] != b"\n"
        self._at = end
        self.offset += size
        self.line += lines

    def skip_long(self, head_bytes_max: int) -> Long | None:
        """Consume the next line without holding it; None, and nothing more can be read, when its end is not there."""
        head = self._buffer[self._at : self._at + head_bytes_max]
        size, checksum = 0, self.checksum
        while True:
            found = self._buffer.find(b"\n", self._at)
            end = len(self._buffer) if found < 0 else found + 1
            if checksum is not None:
                checksum = zlib.crc32(memoryview(self._buffer)[self._at : end], checksum)
            size += end - self._at
            self._at = end
            if found >= 0 or self._over:
                break
            self._buffer, self._at = b"", 0
            self._fill(1)
        if found < 0 and not self._final:
            self._torn = True
            return None
        self.offset += size
        self.line += 1
        self.checksum = checksum
        self.open_end = found < 0
        return Long(head, size - (found >= 0))

    def _fill(self, size: int) -> None:
        """Have `size` bytes before us, or all there are."""
        missing = size - (len(self._buffer) - self._at)
        if missing <= 0 or self._over:
            return
        parts = [self._buffer[self._at :]]
        while missing > 0:
            data = self._stream.read(max(missing, READ_BYTES))
            if not data:
                self._over = True
                break
            parts.append(data)
            missing -= len(data)
        self._buffer, self._at = b"".join(parts), 0
