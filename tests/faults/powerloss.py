"""What a disk may hold after the power went: states made from a record of acts, by a model that assumes the least.

Data: what was synced is there. Each later write is there, missing, or there in some of its 512-byte sectors, whatever
the order it was asked in. Names: what a synced directory held is there; each later change of a name is there or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import msgspec

from tests.faults.disk import Op

SECTOR = 512
MODES = ("nothing", "everything", "prefix", "subset", "torn")
"""What of the unsynced acts is kept: none, all, those up to some moment, some, or some sectors of some."""


class _Inode:
    """A file: its content as synced, and what was asked since."""

    def __init__(self) -> None:
        self.stable = b""
        self.pending: list[Op] = []

    def content(self, kept: Sequence[Op]) -> bytes:
        data = bytearray(self.stable)
        for op in kept:
            _apply(data, op)
        return bytes(data)


def _apply(data: bytearray, op: Op) -> None:
    if op.kind == "truncate":
        del data[op.offset :]
        data.extend(bytes(op.offset - len(data)))
        return
    if len(data) < op.offset:
        data.extend(bytes(op.offset - len(data)))
    data[op.offset : op.offset + len(op.data)] = op.data


class _Names(msgspec.Struct):
    """One directory: its entries as synced, and changes since."""

    stable: dict[str, _Inode | None] = msgspec.field(default_factory=dict)
    pending: list[tuple[str, str, str, _Inode | None]] = msgspec.field(default_factory=list)


class Disk:
    """The model; feed it the acts in order, take states whenever you like."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._now: dict[str, _Inode | None] = {}
        self._names: dict[str, _Names] = {self._root: _Names()}
        self.acked: list[str] = []

    def feed(self, op: Op) -> None:
        """The act was done. An `open` creates a missing file, and may empty another (note: truncate)."""
        match op.kind:
            case "open":
                if op.path not in self._now:
                    self.feed(Op("create", op.path))
                elif op.note:
                    self.feed(Op("truncate", op.path))
            case "write" | "truncate" | "sync" | "sync_directory":
                self._data(op)
            case "create" | "mkdir" | "rename" | "link" | "unlink":
                self._renamed(op)
            case "ack":
                self.acked.append(op.note)
            case _:
                pass

    def _data(self, op: Op) -> None:
        names, inode = self._names.get(op.path), self._now.get(op.path)
        if names is not None:
            _change(names.stable, names.pending)
            names.pending = []
        elif inode is not None and op.kind == "sync":
            inode.stable, inode.pending = inode.content(inode.pending), []
        elif inode is not None:
            inode.pending.append(op)

    def _renamed(self, op: Op) -> None:
        if op.kind in {"create", "mkdir"}:
            inode = self._now[op.path] = _Inode() if op.kind == "create" else None
            if inode is None:
                self._names[op.path] = _Names()
            self._named("add", op.path, "", inode)
        elif op.kind == "unlink":
            self._now.pop(op.path, None)
            self._named("unlink", op.path, "", None)
        elif op.path in self._now:  # a FIFO is nothing to us
            inode = self._now.pop(op.path) if op.kind == "rename" else self._now[op.path]
            self._now[op.other] = inode
            self._named(op.kind, op.path, op.other, inode)

    def _named(self, kind: str, path: str, other: str, inode: _Inode | None) -> None:
        names = self._names.get(str(Path(other or path).parent))
        if names is not None:
            names.pending.append((kind, path, other, inode))

    def state(self, mode: str, chance: Random) -> dict[str, bytes | None]:
        """One state: absolute path → content; None for a directory."""
        found: dict[str, bytes | None] = {}
        kept: dict[int, bytes] = {}
        self._collect(self._root, mode, chance, found, kept)
        return found

    def _collect(
        self, directory: str, mode: str, chance: Random, found: dict[str, bytes | None], kept: dict[int, bytes]
    ) -> None:
        names = self._names[directory]
        entries = dict(names.stable)
        _change(entries, _chosen(names.pending, mode, chance))
        for path, inode in sorted(entries.items()):
            if inode is None:
                found[path] = None
                self._collect(path, mode, chance, found, kept)
                continue
            if id(inode) not in kept:  # two names of one file hold the same
                kept[id(inode)] = inode.content(_data_kept(inode.pending, mode, chance))
            found[path] = kept[id(inode)]


def _change(entries: dict[str, _Inode | None], changes: Sequence[tuple[str, str, str, _Inode | None]]) -> None:
    for kind, path, other, inode in changes:
        if kind == "add":
            entries[path] = inode
        elif kind == "unlink":
            entries.pop(path, None)
        else:
            if kind == "rename":
                entries.pop(path, None)
            entries[other] = inode


def _chosen(pending: list, mode: str, chance: Random) -> list:
    match mode:
        case "nothing":
            return []
        case "everything":
            return pending
        case "prefix":
            return pending[: chance.randint(0, len(pending))]
        case _:
            return [item for item in pending if chance.random() < 0.5]


def _data_kept(pending: list[Op], mode: str, chance: Random) -> list[Op]:
    kept = _chosen(pending, mode, chance)
    return [part for op in kept for part in _torn(op, chance)] if mode == "torn" else kept


def _torn(op: Op, chance: Random) -> list[Op]:
    """Some sectors of a write; sectors are those of the disk, not of the write."""
    if op.kind != "write":
        return [op]
    parts: list[Op] = []
    at = 0
    while at < len(op.data):
        size = min(SECTOR - (op.offset + at) % SECTOR, len(op.data) - at)
        if chance.random() < 0.7:
            parts.append(Op("write", op.path, op.offset + at, op.data[at : at + size]))
        at += size
    return parts


def materialise(state: dict[str, bytes | None], root: Path, target: Path) -> None:
    """Write a state down under `target`."""
    for path, content in sorted(state.items()):
        place = target / Path(path).relative_to(root)
        if content is None:
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
