"""How far each file was read, and by what it is known again: a source's position, as bytes."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Mapping

import msgspec

from penstock.channel.api import NOTE_BYTES_MAX
from penstock.errors import ConfigError, CorruptionError
from penstock.source.files import folded as folding
from penstock.source.files.folded import Folded
from penstock.source.files.stream import fingerprint, open_file

FILES_MAX = 10_000
FULL_BYTES_MAX = 16 * 1024
"""What marks may take in a position before those of the files that were not read for longest are folded."""

_VERSION = 2
WAY_OUT = (
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
    folded: bytes = b""


class Marks:
    """How far each file was read, by name: in full, the file that was read last at the end, or folded."""

    def __init__(self, full: Mapping[str, Mark] | None = None, folded: Mapping[bytes, bytes] | None = None) -> None:
        self.full = dict(full or {})
        self.entries = dict(folded or {})

    def __bool__(self) -> bool:
        return bool(self.full or self.entries)

    def __contains__(self, name: str) -> bool:
        return name in self.full or self.folded(name) is not None

    def put(self, name: str, mark: Mark) -> None:
        """The file has been read so far."""
        if self.entries and self.full.pop(name, None) is None:
            self.entries.pop(folding.key(name), None)
        self.full[name] = mark

    def folded(self, name: str) -> Folded | None:
        """What is kept of a file that is folded."""
        data = self.entries.get(folding.key(name)) if self.entries and name not in self.full else None
        return None if data is None else folding.of_entry(data)

    def fold(self, bytes_max: int) -> None:
        """Fold files that were read to their end, until the marks in full are about `bytes_max` bytes."""
        size = len(msgspec.msgpack.encode(_packed(self.full)))
        for name, mark in list(self.full.items()):
            if size <= bytes_max:
                return
            key = folding.key(name)
            if mark.ended and mark.known <= folding.KNOWN_MAX and key not in self.entries:
                self.entries[key] = folding.entry(fold(mark))
                del self.full[name]
                size -= len(msgspec.msgpack.encode(mark)) + len(os.fsencode(name)) + 2

    def forget(self, count: int, present: Collection[str]) -> None:
        """Forget `count` folded files that are there no longer, those first that were folded first."""
        keys = {folding.key(name) for name in present}
        for key in [key for key in self.entries if key not in keys][:count]:
            del self.entries[key]


def fold(mark: Mark) -> Folded:
    """What is kept of a file that was read to its end."""
    file = folding.file_of(mark.inode, mark.modified_ns)
    return Folded(mark.known, folding.check_of(mark.head, mark.tail), file)


def _packed(marks: Mapping[str, Mark]) -> dict[bytes, Mark]:
    return {os.fsencode(name): mark for name, mark in marks.items()}


def encode(marks: Marks, present: Collection[str]) -> bytes:
    """The position of a source that has read so far; folds what it has no room for.

    Args:
        marks: changed where something is folded or forgotten.
        present: the names of the files that are there.

    Raises:
        ConfigError: too many files are in the middle.
    """
    full = msgspec.msgpack.encode(_packed(marks.full))
    if len(full) > FULL_BYTES_MAX:
        marks.fold(FULL_BYTES_MAX // 2)
    if len(marks.entries) > FILES_MAX:
        marks.forget(len(marks.entries) - FILES_MAX, present)
    position = _Position(_VERSION, _packed(marks.full), folding.joined(marks.entries.items()))
    data = msgspec.msgpack.encode(position)
    if len(data) > NOTE_BYTES_MAX:
        msg = (
            f"the position in {len(marks.full) + len(marks.entries)} files takes {len(data)} bytes, at most "
            f"{NOTE_BYTES_MAX} are kept: {len(marks.full)} of them are not read to their end. Make several sources, "
            "each with a narrower pattern"
        )
        raise ConfigError(msg, path="files.pattern")
    return data


def decode(position: bytes, source: str) -> Marks:
    """The marks of a position.

    Raises:
        CorruptionError: these bytes are no position of files.
    """
    if not position:
        return Marks()
    try:
        found = msgspec.msgpack.decode(position, type=_Position)
        entries = folding.split(found.folded)
    except (msgspec.MsgspecError, ValueError) as exc:
        msg = f"source {source}: the recorded position is none of files ({exc}); was the name another source's before?"
        raise CorruptionError(msg) from exc
    if not 1 <= found.version <= _VERSION:
        msg = (
            f"source {source}: the recorded position has format {found.version}, this program reads {_VERSION}: update"
        )
        raise CorruptionError(msg)
    return Marks({os.fsdecode(name): mark for name, mark in found.marks.items()}, entries)


def look(paths: Mapping[str, str]) -> dict[str, Seen]:
    """The files of these names and paths, in the order of their names.

    Raises:
        ConfigError: one is no regular file, or there are more than FILES_MAX.
    """
    if len(paths) > FILES_MAX:
        msg = (
            f"{len(paths)} files match; at most {FILES_MAX} make one source: make several sources, each with a "
            "narrower pattern, or larger files"
        )
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


def renamed(marks: Marks, seen: Mapping[str, Seen]) -> dict[str, str]:
    """New names of files that were read under another and are not folded: name now, name before.

    An inode alone proves nothing, for it is given again; the content must be the same too, and the file must not have
    been written since, unless it has grown.
    """
    full = marks.full
    free = {m.inode: name for name, m in full.items() if name not in seen or seen[name].inode != m.inode}
    found: dict[str, str] = {}
    for name, file in seen.items():
        before = free.get(file.inode)
        if before is None or (name in full and full[name].inode == file.inode) or marks.folded(name) is not None:
            continue
        mark = full[before]
        if (mark.modified_ns == file.modified_ns or file.size > mark.known) and fits(mark, file, name):
            found[name] = before
    return found


def renamed_folded(marks: Marks, seen: Mapping[str, Seen]) -> dict[str, bytes]:
    """New names of folded files that were not written since: name now, key before."""
    new = [name for name in seen if name not in marks] if marks.entries else []
    if not new:
        return {}
    here = {folding.key(name) for name in seen}
    gone = {key: folding.of_entry(data) for key, data in marks.entries.items() if key not in here}
    free = {(entry.known, entry.file): key for key, entry in gone.items()}
    found: dict[str, bytes] = {}
    for name in new:
        file = seen[name]
        key = free.get((file.size, folding.file_of(file.inode, file.modified_ns)))
        if key is not None and gone[key].check == folding.check_of(*_prints(file, file.size, name)):
            found[name] = key
            del free[file.size, gone[key].file]
    return found


def fits(mark: Mark, file: Seen, name: str) -> bool:
    """Whether the file begins with what was read, as far as its checksums tell."""
    return file.size >= mark.known and _prints(file, mark.known, name) == (mark.head, mark.tail)


def _prints(file: Seen, end: int, name: str) -> tuple[int, int]:
    fd = open_file(file.path, shown(name))
    try:
        return fingerprint(fd, end, shown(name))
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
            raise CorruptionError(f"{where} is gone, and was not read to its end: {WAY_OUT}")
    elif file.size < mark.known:
        raise CorruptionError(f"{where} has {file.size} bytes now, and had {mark.known}: {WAY_OUT}")
    elif not fits(mark, file, name):
        raise CorruptionError(f"{where} has another content now: {WAY_OUT}")


def verify_folded(entry: Folded, file: Seen, name: str) -> None:
    """See `verify`."""
    where = f"{shown(name)}, which was read to its end,"
    if file.size < entry.known:
        raise CorruptionError(f"{where} has {file.size} bytes now, and had {entry.known}: {WAY_OUT}")
    if folding.check_of(*_prints(file, entry.known, name)) != entry.check:
        raise CorruptionError(f"{where} has another content now: {WAY_OUT}")


def shown(name: str) -> str:
    """The name of a file for messages: no byte of it can break a line or a terminal."""
    text = os.fsencode(name).decode(errors="backslashreplace")
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
