"""Reads files that match a pattern, one after another, and remembers how far it came with each."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any
from zlib import crc32

from penstock.errors import ConfigError, CorruptionError, PenstockError
from penstock.event.batch import Rows
from penstock.schema import Schema
from penstock.source.api import Chunk
from penstock.source.files import folded as folding
from penstock.source.files import marks as positions
from penstock.source.files.again import Stretch, stretches
from penstock.source.files.config import FORMATS, GZIP_SUFFIX, FilesConfig, Format
from penstock.source.files.csvfile import CsvReader
from penstock.source.files.folded import Folded
from penstock.source.files.lines import Lines
from penstock.source.files.marks import Mark, Marks, Seen, shown
from penstock.source.files.ndjson import NdjsonReader
from penstock.source.files.part import Part, Reader
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
        self._marks = Marks()
        self._verified: dict[str, Seen] = {}
        self._waiting: dict[str, Seen] = {}
        self._queue: list[tuple[str, Seen]] = []
        self._open: _Open | None = None
        self._failed: PenstockError | None = None

    def open(self, schema: Schema[Any] | None, position: bytes) -> None:
        """See `Source`."""
        self.close()
        self._schema = schema
        self._marks = positions.decode(position, self.name)
        self._verified = {}
        self._waiting = {}
        self._failed = None
        self._scan()
        if not self._queue and not self._marks and self.finite:
            msg = f"no file matches {self._config.pattern!r} in {self._base}; expected at least one, or follow=True"
            raise ConfigError(msg, path="files.pattern")
        for name, seen in self._queue:
            if name not in self._marks:
                os.close(self._opened(name, seen, Mark()).fd)

    def read(self, *, events_max: int, bytes_max: int, until: bytes | None = None) -> Chunk | None:
        """See `Source`. A chunk holds lines of as many files as it has room for."""
        if until is not None:
            return self._again(until, events_max, bytes_max)
        if self._failed is not None:
            raise self._failed
        whole = Part()
        try:
            self._fill(whole, events_max, bytes_max)
        except PenstockError as exc:
            self._failed = exc  # half of a chunk may be consumed: until it is opened again, there is no way on
            if not whole:
                raise
        return Chunk(Rows.of(whole.bodies), positions.encode(self._marks, self._verified), whole.bad) if whole else None

    def _fill(self, whole: Part, events_max: int, bytes_max: int) -> None:
        while (whole.lines < events_max and whole.size < bytes_max) and self._forward(look=not whole):
            assert self._open is not None
            part = self._open.reader.take(events_max - whole.lines, bytes_max - whole.size)
            mark = self._open.mark()
            self._marks.put(self._open.name, mark)
            if mark.ended:
                self._leave()
            elif not part.lines:
                assert not self.finite, "in a file that will not be continued every line is complete"
                self._waiting[self._open.name] = self._verified[self._open.name]
                self._leave()
            if part or whole:  # lines that hold nothing do not make a chunk
                whole.add(part)

    def _again(self, until: bytes, events_max: int, bytes_max: int) -> Chunk:
        after = positions.decode(until, self.name)
        whole = Part()
        try:
            for stretch in stretches(self._marks, after, self._verified, self._unfolded):
                self._reread(stretch, whole, events_max, bytes_max)
        except BaseException:
            self._leave()
            raise
        self._marks = after
        return Chunk(Rows.of(whole.bodies), until, whole.bad)

    def _reread(self, stretch: Stretch, whole: Part, events_max: int, bytes_max: int) -> None:
        """The lines of a stretch, with the limits with which they were read."""
        reads_on = self._open is not None and stretch.end is None and self._open.name == stretch.name
        if not reads_on or self._open is None or self._open.reader.lines.offset != stretch.start.offset:
            self._leave()
            self._open = self._opened(stretch.name, stretch.file, stretch.start, end=stretch.end)
        lines = self._open.reader.lines
        while not lines.ended if stretch.offset is None else lines.offset < stretch.offset:
            events = events_max - whole.lines if whole.lines < events_max else events_max
            size = bytes_max - whole.size if whole.size < bytes_max else bytes_max
            size = size if stretch.offset is None else min(size, stretch.offset - lines.offset)
            part = self._open.reader.take(events, size)
            if not part.lines:
                break
            whole.add(part)
        if not lines.ended if stretch.offset is None else lines.offset != stretch.offset:
            msg = (
                f"{shown(stretch.name)}:{lines.line} does not end where it ended when it was read: {positions.WAY_OUT}"
            )
            raise CorruptionError(msg)
        if stretch.end is not None:
            self._leave()

    def close(self) -> None:
        """See `Source`."""
        self._leave()
        self._queue = []

    def _leave(self) -> None:
        if self._open is not None:
            os.close(self._open.fd)
            self._open = None

    # -- which files -----------------------------------------------------------------------------------------------

    def _forward(self, *, look: bool) -> bool:
        """Have a file open; False when there is nothing to read (for now). `look`: for new files too."""
        if look and self._open is None and not self._queue and not self.finite:
            self._scan()
        if self._open is None and self._queue:
            name, seen = self._queue[0]
            self._open = self._opened(name, seen, self._mark(name, seen))
            del self._queue[0]
        return self._open is not None

    def _mark(self, name: str, seen: Seen) -> Mark:
        entry = self._marks.folded(name)
        return self._marks.full.get(name, Mark()) if entry is None else self._unfolded(name, seen, entry)

    def _scan(self) -> None:
        """Look at what is there: nothing that was read may have changed, and what was added is to be read."""
        seen = positions.look(self._paths())
        marks = self._marks
        for name, key in positions.renamed_folded(marks, seen).items():
            marks.entries[folding.key(name)] = marks.entries.pop(key)
        moved = positions.renamed(marks, seen)
        kept = {name: mark for name, mark in marks.full.items() if name not in moved.values()}
        marks.full = kept | {name: marks.full[before] for name, before in moved.items()}
        for name, mark in marks.full.items():
            file = seen.get(name)
            if file is None or self._verified.get(name) != file:
                positions.verify(mark, file, name)
        for name, file in seen.items() if marks.entries else ():
            entry = marks.folded(name) if self._verified.get(name) != file else None
            if entry is not None:
                positions.verify_folded(entry, file, name)
        self._verified = seen
        self._queue = [(name, file) for name, file in seen.items() if self._has_more(name, file)]

    def _has_more(self, name: str, file: Seen) -> bool:
        mark = self._marks.full.get(name)
        if mark is not None and mark.ended and mark.known == file.size:
            return False
        entry = self._marks.folded(name)
        if entry is not None and entry.known == file.size:
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

    def _opened(self, name: str, seen: Seen, mark: Mark, *, end: int | None = None) -> _Open:
        """The file at `mark`; of which there is, with `end`, only so much."""
        where = shown(name)
        kind, gzipped = self._kind(name)
        fd = open_file(seen.path, where)
        try:
            self._check_magic(fd, where, gzipped=gzipped)
            reader = self._reader(where, kind, mark, lambda at: self._lines(fd, at, where, gzipped=gzipped, end=end))
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

    def _reader(self, where: str, kind: Format, mark: Mark, lines_at: Callable[[Mark], Lines]) -> Reader:
        lines = lines_at(mark)
        if mark.open_end:
            _not_continued(lines, where)
        if kind == "ndjson":
            return NdjsonReader(lines, where, self._schema, line_bytes_max=self._limit)
        assert self._schema is not None
        start = lines_at(Mark()) if mark.offset else None
        return CsvReader(
            lines, start, name=where, schema=self._schema, config=self._config.csv, line_bytes_max=self._limit
        )

    def _lines(self, fd: int, mark: Mark, where: str, *, gzipped: bool, end: int | None) -> Lines:
        """The lines from the mark on; out of gzip by reading everything before it again."""
        stream: Stream = PlainStream(fd, where, mark.offset, end=end)
        checksum = None
        if gzipped:
            stream, checksum = GzipStream(fd, where, self._config.gzip, end=end), 0
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

    def _unfolded(self, name: str, seen: Seen, entry: Folded) -> Mark:
        """What was known of a file before it was folded, by reading again what was read of it."""
        where, gzipped = shown(name), self._kind(name)[1]
        offset = line = content = 0
        last = b"\n"
        fd = open_file(seen.path, where)
        try:
            stream: Stream = PlainStream(fd, where, 0, end=entry.known)
            if gzipped:
                stream = GzipStream(fd, where, self._config.gzip, end=entry.known)
            while data := stream.read(READ_BYTES):
                offset, line, last = offset + len(data), line + data.count(b"\n"), data[-1:]
                content = crc32(data, content) if gzipped else 0
            head, tail = fingerprint(fd, entry.known, where)
        finally:
            os.close(fd)
        open_end = last != b"\n"
        return Mark(
            offset=offset,
            line=line + open_end,
            known=entry.known,
            head=head,
            tail=tail,
            content=content if gzipped else None,
            ended=True,
            open_end=open_end,
            inode=seen.inode,
            modified_ns=seen.modified_ns,
        )


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
