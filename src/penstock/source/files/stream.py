"""The bytes of one file, from an offset on, plain or out of gzip; and what tells that it is still the same file."""

from __future__ import annotations

import errno
import os
import zlib
from typing import Protocol

from penstock.errors import ConfigError, CorruptionError, IOFailed, PenstockError
from penstock.source.files.config import Gzip

READ_BYTES = 256 * 1024
PRINT_BYTES = 4096
GZIP_MAGIC = b"\x1f\x8b"
_RATIO_FREE_BYTES = 16 * 1024 * 1024
_GZIP_FORMAT = 31


class Stream(Protocol):
    """Bytes in order, from the beginning or from where it was opened. Called from one thread at a time."""

    def read(self, size: int) -> bytes:
        """Between 1 and `size` bytes; none at the end of what is there now."""
        ...


class PlainStream:
    """A file as it is, or as it was when it ended at `end`. The descriptor stays the caller's."""

    def __init__(self, fd: int, name: str, offset: int, *, end: int | None = None) -> None:
        self._fd = fd
        self._name = name
        self._offset = offset
        self._end = end

    def read(self, size: int) -> bytes:
        """See `Stream`.

        Raises:
            CorruptionError: the file is shorter than what was read of it.
        """
        if self._end is not None:
            size = min(size, self._end - self._offset)
        data = pread(self._fd, size, self._offset, self._name)
        if not data and os.fstat(self._fd).st_size < self._offset:
            msg = f"{self._name} was cut to {os.fstat(self._fd).st_size} bytes after {self._offset} had been read"
            raise CorruptionError(msg)
        self._offset += len(data)
        return data


class GzipStream:
    """What comes out of a gzip file (of its first `end` bytes) of any number of members, as much as `limits` allow.

    Source: RFC 1952 (members follow one another; zero bytes may pad the end, as tapes do).
    """

    def __init__(self, fd: int, name: str, limits: Gzip, *, end: int | None = None) -> None:
        self._fd = fd
        self._name = name
        self._limits = limits
        self._end = end
        self._inflate = zlib.decompressobj(_GZIP_FORMAT)
        self._taken = 0
        self._pull()
        self._given = 0
        self._over = not self._input

    def read(self, size: int) -> bytes:
        """See `Stream`.

        Raises:
            CorruptionError: the file is damaged, or ends in the middle of a member.
            ConfigError: a limit was passed; names the option.
        """
        while not self._over:
            if self._inflate.eof:
                self._next_member()
                continue
            if not self._input:
                self._pull()
            try:
                data = self._inflate.decompress(self._input, size)
            except zlib.error as exc:
                raise CorruptionError(
                    f"{self._name}: damaged gzip behind {self._given} bytes of content: {exc}"
                ) from exc
            cut_off = not self._input
            self._input = self._inflate.unconsumed_tail
            if data:
                self._given += len(data)
                self._limit()
                return data
            if cut_off and not self._inflate.eof:
                raise CorruptionError(
                    f"{self._name}: the gzip file ends in the middle, behind {self._given} bytes of content: it is not "
                    "complete; copy it again, and rename it into place when it is"
                )
        return b""

    def _pull(self) -> None:
        size = READ_BYTES if self._end is None else min(READ_BYTES, self._end - self._taken)
        self._input = pread(self._fd, size, self._taken, self._name)
        self._taken += len(self._input)

    def _next_member(self) -> None:
        self._input = self._inflate.unused_data.lstrip(b"\0")
        while not self._input:
            self._pull()
            if not self._input:
                self._over = True
                return
            self._input = self._input.lstrip(b"\0")
        self._inflate = zlib.decompressobj(_GZIP_FORMAT)

    def _limit(self) -> None:
        if self._given > self._limits.bytes_max:
            msg = f"{self._name} holds more than {self._limits.bytes_max} bytes; if that is right, raise the limit"
            raise ConfigError(msg, path="files.gzip.bytes_max")
        if self._given > max(_RATIO_FREE_BYTES, self._taken * self._limits.ratio_max):
            msg = (
                f"{self._name} gave {self._given} bytes out of {self._taken}, more than {self._limits.ratio_max} times "
                "as many: a decompression bomb? If it is right, raise the limit"
            )
            raise ConfigError(msg, path="files.gzip.ratio_max")


def open_file(path: str, name: str) -> int:
    """A descriptor for reading; never waits (for the other end of a pipe). The caller closes it."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as exc:
        raise os_error(name, exc) from exc


def pread(fd: int, size: int, offset: int, name: str) -> bytes:
    """At most `size` bytes at `offset`."""
    try:
        return os.pread(fd, size, offset)
    except OSError as exc:
        raise os_error(name, exc) from exc


def os_error(name: str, exc: OSError) -> PenstockError:
    """What an error of the operating system means for a source."""
    reason = f"{name}: {exc.strerror or exc}"
    if exc.errno == errno.ENOENT:
        return CorruptionError(f"{reason}; it was there a moment ago")
    if exc.errno == errno.EIO:
        return IOFailed(reason)
    return ConfigError(f"{reason}; expected a file that this program may read", path="files")


def fingerprint(fd: int, end: int, name: str) -> tuple[int, int]:
    """Checksums of the first and the last bytes before `end`: another content would show."""
    head = pread(fd, min(PRINT_BYTES, end), 0, name)
    tail = pread(fd, min(PRINT_BYTES, end), max(0, end - PRINT_BYTES), name)
    return zlib.crc32(head), zlib.crc32(tail)
