"""How far each file was read, and by what it is known again: a source's position, as bytes."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

import msgspec

from penstock.errors import ConfigError, CorruptionError
from penstock.source.files.stream import fingerprint, open_file

FILES_MAX = 10_000
_VERSION = 1
_WAY_OUT = (
    "nothing was skipped and nothing read twice. Put the file back as it was; or give what is new another name; or "
    "read everything from the beginning under another source name (app.read(..., name=...))"
)


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """How far one file was read.

    `offset` counts bytes of content (out of gzip), `line` lines. `known` bytes of the file as it lies there have the
    checksums `head` and `tail`; `content` is the checksum of all content before `offset` where only reading it again
    tells. `ended`: the whole file was read, as it was then. `open_end`: its last line had no newline.
    """

    offset: int = 0
    line: int = 0
    known: int = 0
    head: int = 0
    tail: int = 0
    content: int | None = None
    ended: bool = False
    open_end: bool = False
    inode: int = 0
    modified_ns: int = 0


class Seen(msgspec.Struct, frozen=True):
    """A file as it lies there."""

    path: str
    inode: int
    size: int
    modified_ns: int


class _Position(msgspec.Struct, array_like=True):
    version: int
    marks: dict[bytes, Mark]


Marks = dict[str, Mark]


def encode(marks: Mapping[str, Mark]) -> bytes:
    """The position of a source that has read so far."""
    return msgspec.msgpack.encode(_Position(_VERSION, {os.fsencode(name): mark for name, mark in marks.items()}))


def decode(position: bytes, source: str) -> Marks:
    """The marks of a position.

    Raises:
        CorruptionError: these bytes are no position of files.
    """
    if not position:
        return {}
    try:
        found = msgspec.msgpack.decode(position, type=_Position)
    except msgspec.MsgspecError as exc:
        msg = f"source {source}: the recorded position is none of files ({exc}); was the name another source's before?"
        raise CorruptionError(msg) from exc
    if found.version != _VERSION:
        msg = (
            f"source {source}: the recorded position has format {found.version}, this program reads {_VERSION}: update"
        )
        raise CorruptionError(msg)
    return {os.fsdecode(name): mark for name, mark in found.marks.items()}


def look(paths: Mapping[str, str]) -> dict[str, Seen]:
    """The files of these names and paths, in the order of their names.

    Raises:
        ConfigError: one is no regular file, or there are more than FILES_MAX.
    """
    if len(paths) > FILES_MAX:
        msg = f"{len(paths)} files match; at most {FILES_MAX} make one source: use a narrower pattern, or larger files"
        raise ConfigError(msg, path="files.pattern")
    found: dict[str, Seen] = {}
    for name in sorted(paths, key=os.fsencode):
        try:
            entry = os.stat(paths[name])
        except FileNotFoundError:
            continue
        if stat.S_ISDIR(entry.st_mode):
            continue
        if not stat.S_ISREG(entry.st_mode):
            raise ConfigError(
                f"{shown(name)} is no regular file; a source must be able to go back", path="files.pattern"
            )
        found[name] = Seen(paths[name], entry.st_ino, entry.st_size, entry.st_mtime_ns)
    return found


def renamed(marks: Mapping[str, Mark], seen: Mapping[str, Seen]) -> dict[str, str]:
    """New names of files that were read under another: name now, name before.

    An inode alone proves nothing, for it is given again; the content must be the same too, and the file must not have
    been written since, unless it has grown.
    """
    free = {m.inode: name for name, m in marks.items() if name not in seen or seen[name].inode != m.inode}
    found: dict[str, str] = {}
    for name, file in seen.items():
        before = free.get(file.inode)
        if (name in marks and marks[name].inode == file.inode) or before is None:
            continue
        mark = marks[before]
        if (mark.modified_ns == file.modified_ns or file.size > mark.known) and fits(mark, file, name):
            found[name] = before
    return found


def fits(mark: Mark, file: Seen, name: str) -> bool:
    """Whether the file begins with what was read, as far as its checksums tell."""
    if file.size < mark.known:
        return False
    fd = open_file(file.path, shown(name))
    try:
        return fingerprint(fd, mark.known, shown(name)) == (mark.head, mark.tail)
    finally:
        os.close(fd)


def verify(mark: Mark, file: Seen | None, name: str) -> None:
    """That the file is what it was when it was read so far.

    Raises:
        CorruptionError: it shrank, has another content, or is gone before it was read to its end.
    """
    where = f"{shown(name)}, of which {mark.line} lines ({mark.offset} bytes) were read,"
    if file is None:
        if mark.offset and not mark.ended:
            raise CorruptionError(f"{where} is gone, and was not read to its end: {_WAY_OUT}")
    elif file.size < mark.known:
        raise CorruptionError(f"{where} has {file.size} bytes now, and had {mark.known}: {_WAY_OUT}")
    elif not fits(mark, file, name):
        raise CorruptionError(f"{where} has another content now: {_WAY_OUT}")


def shown(name: str) -> str:
    """The name of a file for messages: no byte of it can break a line or a terminal."""
    text = os.fsencode(name).decode(errors="backslashreplace")
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
