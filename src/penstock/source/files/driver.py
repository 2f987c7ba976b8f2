"""Reads files that match a pattern, one after another, and remembers how far it came with each."""

from __future__ import annotations

import glob
import os
from pathlib import Path, PurePosixPath
from typing import Any
from zlib import crc32

from penstock.errors import ConfigError, CorruptionError
from penstock.event.batch import Rows
from penstock.schema import Schema
from penstock.source.api import Chunk
from penstock.source.files import marks as positions
from penstock.source.files.config import FORMATS, GZIP_SUFFIX, FilesConfig, Format
from penstock.source.files.csvfile import CsvReader
from penstock.source.files.lines import Lines
from penstock.source.files.marks import Mark, Seen, shown
from penstock.source.files.ndjson import NdjsonReader
from penstock.source.files.part import Reader
from penstock.source.files.stream import (
    GZIP_MAGIC,
    READ_BYTES,
    GzipStream,
    PlainStream,
    Stream,
    fingerprint,
    open_file,
    pread,
)


class _Open:
    """One file that is being read."""

    def __init__(self, name: str, fd: int, reader: Reader, *, gzipped: bool) -> None:
        self.name = name
        self.fd = fd
        self.reader = reader
        self._gzipped = gzipped

    def mark(self) -> Mark:
        """How far it is read."""
        lines, entry = self.reader.lines, os.fstat(self.fd)
        ended = lines.ended
        known = (entry.st_size if ended else 0) if self._gzipped else lines.offset
        head, tail = fingerprint(self.fd, known, shown(self.name))
        return Mark(
            offset=lines.offset,
            line=lines.line,
            known=known,
            head=head,
            tail=tail,
            content=lines.checksum,
            ended=ended,
            open_end=lines.open_end,
            inode=entry.st_ino,
            modified_ns=entry.st_mtime_ns,
        )


class FileSource:
    """See `Source`.

    Delivery guarantee: chunks end where their position says; a file that is no longer what was read stops the source.
    """

    def __init__(self, config: FilesConfig, base: Path, name: str, *, event_bytes_max: int) -> None:
        self.name = name
        self.finite = not config.follow
        self._config = config
        self._base = base
        self._limit = event_bytes_max
        self._schema: Schema[Any] | None = None
        self._marks: positions.Marks = {}
        self._verified: dict[str, Seen] = {}
        self._waiting: dict[str, Seen] = {}
        self._queue: list[tuple[str, Seen]] = []
        self._open: _Open | None = None

    def open(self, schema: Schema[Any] | None, position: bytes) -> None:
        """See `Source`."""
        self.close()
        self._schema = schema
        self._marks = positions.decode(position, self.name)
        self._verified = {}
        self._waiting = {}
        self._scan()
        if not self._queue and not self._marks and self.finite:
            msg = f"no file matches {self._config.pattern!r} in {self._base}; expected at least one, or follow=True"
            raise ConfigError(msg, path="files.pattern")
        for name, seen in self._queue:
            if name not in self._marks:
                os.close(self._opened(name, seen).fd)

    def read(self, *, events_max: int, bytes_max: int) -> Chunk | None:
        """See `Source`."""
        while self._forward():
            assert self._open is not None
            part = self._open.reader.take(events_max, bytes_max)
            self._marks[self._open.name] = mark = self._open.mark()
            if mark.ended:
                self._leave()
            elif not part.lines:
                assert not self.finite, "in a file that will not be continued every line is complete"
                self._waiting[self._open.name] = self._verified[self._open.name]
                self._leave()
            if part.bodies or part.bad:
                return Chunk(Rows.of(part.bodies), positions.encode(self._marks), part.bad)
        return None

    def close(self) -> None:
        """See `Source`."""
        self._leave()
        self._queue = []

    def _leave(self) -> None:
        if self._open is not None:
            os.close(self._open.fd)
            self._open = None

    # -- which files -----------------------------------------------------------------------------------------------

    def _forward(self) -> bool:
        """Have a file open; False when there is nothing to read (for now)."""
        if self._open is None and not self._queue and not self.finite:
            self._scan()
        if self._open is None and self._queue:
            name, seen = self._queue.pop(0)
            self._open = self._opened(name, seen)
        return self._open is not None

    def _scan(self) -> None:
        """Look at what is there: nothing that was read may have changed, and what was added is to be read."""
        seen = positions.look(self._paths())
        moved = positions.renamed(self._marks, seen)
        kept = {name: mark for name, mark in self._marks.items() if name not in moved.values()}
        self._marks = kept | {name: self._marks[before] for name, before in moved.items()}
        for name, mark in self._marks.items():
            file = seen.get(name)
            if file is None or self._verified.get(name) != file:
                positions.verify(mark, file, name)
        self._verified = seen
        self._queue = [(name, file) for name, file in seen.items() if self._has_more(name, file)]

    def _has_more(self, name: str, file: Seen) -> bool:
        mark = self._marks.get(name)
        if mark is not None and mark.ended and mark.known == file.size:
            return False
        return self._waiting.get(name) != file

    def _paths(self) -> dict[str, str]:
        """Name and path of each match. A name is what the pattern found: relative to the base, if the pattern is."""
        pattern = self._config.pattern
        found = glob.glob(pattern, root_dir=self._base, recursive=True)
        if not found and os.path.lexists(self._base / pattern):
            found = [pattern]
        return {os.path.normpath(name): os.path.join(self._base, name) for name in found}

    # -- one file --------------------------------------------------------------------------------------------------

    def _opened(self, name: str, seen: Seen) -> _Open:
        where = shown(name)
        kind, gzipped = self._kind(name)
        fd = open_file(seen.path, where)
        try:
            self._check_magic(fd, where, gzipped=gzipped)
            reader = self._reader(fd, name, kind, gzipped=gzipped)
        except BaseException:
            os.close(fd)
            raise
        return _Open(name, fd, reader, gzipped=gzipped)

    def _kind(self, name: str) -> tuple[Format, bool]:
        path = PurePosixPath(name.lower())
        zipped = path.suffix == GZIP_SUFFIX
        kind = self._config.format or FORMATS.get(path.with_suffix("").suffix if zipped else path.suffix)
        if kind is None:
            msg = f"the suffix says no format; expected {', '.join(FORMATS)} (and .gz), or files(..., format='ndjson')"
            raise ConfigError(msg, path=shown(name))
        if kind == "csv" and self._schema is None:
            raise ConfigError("CSV needs the topic to have a type, whose fields it fills", path=shown(name))
        return kind, zipped if self._config.compression is None else self._config.compression == "gzip"

    def _check_magic(self, fd: int, where: str, *, gzipped: bool) -> None:
        magic = pread(fd, len(GZIP_MAGIC), 0, where)
        if gzipped and magic and magic != GZIP_MAGIC:
            raise ConfigError("is not gzip; rename it, or say files(..., compression='none')", path=where)
        if not gzipped and magic == GZIP_MAGIC:
            raise ConfigError("is gzip; end its name in .gz, or say files(..., compression='gzip')", path=where)

    def _reader(self, fd: int, name: str, kind: Format, *, gzipped: bool) -> Reader:
        mark, where = self._marks.get(name, Mark()), shown(name)
        lines = self._lines(fd, mark, where, gzipped=gzipped)
        if mark.open_end:
            _not_continued(lines, where)
        if kind == "ndjson":
            return NdjsonReader(lines, where, self._schema, line_bytes_max=self._limit)
        assert self._schema is not None
        start = self._lines(fd, Mark(), where, gzipped=gzipped) if mark.offset else None
        return CsvReader(
            lines, start, name=where, schema=self._schema, config=self._config.csv, line_bytes_max=self._limit
        )

    def _lines(self, fd: int, mark: Mark, where: str, *, gzipped: bool) -> Lines:
        """The lines from the mark on; out of gzip by reading everything before it again."""
        stream: Stream = PlainStream(fd, where, mark.offset)
        checksum = None
        if gzipped:
            stream, checksum = GzipStream(fd, where, self._config.gzip), 0
            left = mark.offset
            while left:
                data = stream.read(min(left, READ_BYTES))
                if not data:
                    break
                checksum = crc32(data, checksum)
                left -= len(data)
            if left or (mark.offset and checksum != mark.content):
                msg = f"{where}: its first {mark.offset} bytes of content, which were read before, are others now"
                raise CorruptionError(msg)
        lines = Lines(stream, offset=mark.offset, line=mark.line, final=self.finite or gzipped, checksum=checksum)
        lines.open_end = mark.open_end
        return lines


def _not_continued(lines: Lines, where: str) -> None:
    """A last line without a newline was taken as it was: only a newline may follow it.

    Raises:
        CorruptionError: it was continued.
    """
    after = lines.peek(2)
    if after.startswith(b"\n"):
        lines.advance(1, 0)
    elif after == b"\r\n":
        lines.advance(2, 0)
    elif after:
        msg = (
            f"{where}:{lines.line}: the file ended here without a newline, the line was taken as it was, and has been "
            "continued since: part of an event was published. Read files that are being written with follow=True, "
            "which waits for the newline"
        )
        raise CorruptionError(msg)
