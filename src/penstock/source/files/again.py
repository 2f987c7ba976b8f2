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
    now = {then: name for name, then in positions.renamed(after, seen).items()}
    found: list[Stretch] = []
    for name, mark in after.full.items():
        entry = before.folded(name)
        if entry is not None and mark.ended and entry.known == mark.known:
            continue
        start = _start(name, mark, before, after)
        if entry is None and start.offset == mark.offset:
            continue
        file = seen.get(now.get(name, name))
        if file is None:
            raise CorruptionError(f"{shown(name)} {_GONE}")
        positions.verify(mark, file, name)
        if entry is not None:
            start = unfold(name, file, entry)
        found.append(Stretch(name, file, start, mark.offset, mark.known if mark.ended else None))
    return found


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
    earlier = {folding.key(name): (name, mark) for name, mark in before.full.items()}
    new = {key: data for key, data in after.entries.items() if before.entries.get(key) != data}
    names = {folding.key(name): name for name in seen} if new else {}
    found: list[Stretch] = []
    for key, data in new.items():
        entry = folding.of_entry(data)
        name, mark = earlier.get(key, ("", Mark()))
        if mark.ended and mark.known == entry.known:
            continue
        name = names.get(key, name)
        if entry.known == 0:
            continue
        if name not in seen:
            raise CorruptionError(f"{shown(name) or 'a file of a name that is not there now'} {_GONE}")
        positions.verify_folded(entry, seen[name], name)
        if key in before.entries:
            mark = unfold(name, seen[name], folding.of_entry(before.entries[key]))
        found.append(Stretch(name, seen[name], mark, None, entry.known))
    return found
