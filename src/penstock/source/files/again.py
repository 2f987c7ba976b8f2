"""Which stretches of which files a recorded chunk was made of: between the position before it and the one behind it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import msgspec

from penstock.errors import CorruptionError
from penstock.source.files import folded as folding
from penstock.source.files import marks as positions
from penstock.source.files.folded import Folded
from penstock.source.files.marks import Mark, Marks, Seen, shown

Unfold = Callable[[str, Seen, Folded], Mark]
"""The mark of a folded file, which only reading what was read then can tell."""
_GONE = (
    "is not there, so that what was read of it cannot be published again: put it back, or run without publishing again"
)


class Stretch(msgspec.Struct, frozen=True):
    """What was read of one file: from `start` to `offset` bytes of content, or, where it ended then, to `end`.

    `name` is the one it had then, `end` counts bytes of the file as it lies there.
    """

    name: str
    file: Seen
    start: Mark
    offset: int | None
    end: int | None


def stretches(before: Marks, after: Marks, seen: Mapping[str, Seen], unfold: Unfold) -> list[Stretch]:
    """In the order in which they were read.

    Raises:
        CorruptionError: a file is gone, or no longer what was read of it then.
    """
    found = [*_of_full(before, after, seen, unfold), *_of_folded(before, after, seen, unfold)]
    return sorted(found, key=lambda stretch: os.fsencode(stretch.name))


def _of_full(before: Marks, after: Marks, seen: Mapping[str, Seen], unfold: Unfold) -> list[Stretch]:
    found: list[Stretch] = []
    for name, mark in after.full.items():
        entry = before.folded(name)
        if entry is not None and mark.ended and entry.known == mark.known:
            continue
        start = _start(name, mark, before, after)
        if entry is None and start.offset == mark.offset:
            continue
        file = _now(name, mark, seen)
        if file is None:
            raise CorruptionError(f"{shown(name)} {_GONE}")
        positions.verify(mark, file, name)
        if entry is not None:
            start = unfold(name, file, entry)
        found.append(Stretch(name, file, start, mark.offset, mark.known if mark.ended else None))
    return found


def _now(name: str, mark: Mark, seen: Mapping[str, Seen]) -> Seen | None:
    """The file of that name; or the one that had it then, if its inode and content say so."""
    file = seen.get(name)
    if file is None or file.inode != mark.inode:
        moved = next((other for other in seen.values() if other.inode == mark.inode), None)
        if moved is not None and positions.fits(mark, moved, name):
            return moved
    return file


def _start(name: str, mark: Mark, before: Marks, after: Marks) -> Mark:
    """How far the file was read before, under this name or under another one."""
    same = before.full.get(name)
    if same is not None:
        moved = any(other != name and m.inode == same.inode for other, m in after.full.items())
        if same.inode == mark.inode or not moved:
            return same
    for other, earlier in before.full.items():
        if earlier.inode == mark.inode and earlier.offset <= mark.offset and other not in after:
            return earlier
    return Mark()


def _of_folded(before: Marks, after: Marks, seen: Mapping[str, Seen], unfold: Unfold) -> list[Stretch]:
    new = {key: data for key, data in after.entries.items() if before.entries.get(key) != data}
    if not new:
        return []
    earlier = {folding.key(name): mark for name, mark in before.full.items()}
    left = {folding.key(name): mark for name, mark in before.full.items() if name not in after}
    renamed = {data for key, data in before.entries.items() if key not in after.entries}
    renamed |= {folding.entry(positions.fold(mark)) for mark in left.values() if mark.ended}
    names = {folding.key(name): name for name in seen}
    found: list[Stretch] = []
    for key, data in new.items():
        entry, mark = folding.of_entry(data), earlier.get(key, Mark())
        if entry.known == 0 or data in renamed or (mark.ended and mark.known == entry.known):
            continue
        name = names.get(key) or _name(entry, seen)
        positions.verify_folded(entry, seen[name], name)
        if key in before.entries:
            mark = unfold(name, seen[name], folding.of_entry(before.entries[key]))
        elif key not in earlier:
            mark = next((m for m in left.values() if m.inode == seen[name].inode and m.known < entry.known), mark)
        found.append(Stretch(name, seen[name], mark, None, entry.known))
    return found


def _name(entry: Folded, seen: Mapping[str, Seen]) -> str:
    """The name that a folded file has now, if it was not written since.

    Raises:
        CorruptionError: there is none.
    """
    for name, file in seen.items():
        if file.size == entry.known and folding.file_of(file.inode, file.modified_ns) == entry.file:
            return name
    raise CorruptionError(f"a file of {entry.known} bytes, whose name is not there now, {_GONE}")
