"""Every write, sync and change of a name that this process asks of the disk, seen and steered; needs no compiler.

SQLite's own calls come through a default VFS of SQLite in front of the real one; the others through the functions of
`os`. An observer sees each act before it is done: it may record it, delay it, fail it, or kill the process.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import apsw
import msgspec

from penstock.system.points import hooked


class Op(msgspec.Struct, frozen=True):
    """One act on the disk. `path` is absolute; `other` is the second name of a rename or link.

    kind: create, write, truncate, sync, rename, link, unlink, mkdir, sync_directory, point (a named point in the
    code, which changes nothing) or ack (the program has been told that `note` is durable).
    """

    kind: str
    path: str
    offset: int = 0
    data: bytes = b""
    other: str = ""
    note: str = ""

    def __str__(self) -> str:
        where = f"{Path(self.path).name}->{Path(self.other).name}" if self.other else Path(self.path).name
        return f"{self.kind} {where}{f' @{self.offset}+{len(self.data)}' if self.data else ''} {self.note}".strip()


Observer = Callable[[Op], None]

_SQLITE_OWN_JOURNAL = apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_SUPER_JOURNAL


@contextmanager
def watched(observer: Observer, under: Path) -> Generator[None]:
    """Show every act on files under `under` to the observer, before it is done, for the time of the block.

    Connections must be opened inside the block; not for several threads that open connections at once.
    """
    root = str(under.resolve())

    def see(op: Op) -> None:
        if op.path == root or op.path.startswith(root + os.sep):
            observer(op)

    with ExitStack() as stack:
        vfs = _Vfs(see)
        stack.callback(vfs.unregister)
        for patch in _os_patches(see):
            stack.enter_context(patch)
        stack.enter_context(hooked(lambda name: observer(Op("point", root, note=name))))
        yield


def killer(at: int) -> Observer:
    """Kill this process (kill -9) before its act number `at`, counted from 0."""
    count = 0

    def observe(op: Op) -> None:
        nonlocal count
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1

    return observe


class _Vfs(apsw.VFS):
    def __init__(self, see: Observer) -> None:
        self._see = see
        self._base = next(name for name in apsw.vfs_names() if not name.startswith("watched"))
        super().__init__(f"watched-{id(self):x}", self._base, makedefault=True)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        fresh = path is not None and not os.path.exists(path)
        if path is not None and fresh and flags[0] & apsw.SQLITE_OPEN_CREATE:
            self._see(Op("create", path))
        return _File(self._base, name, flags, see=self._see, path=path or "", fresh=fresh)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self._see(Op("unlink", filename))
        super().xDelete(filename, syncdir)
        if syncdir:
            self._see(Op("sync_directory", os.path.dirname(filename)))


class _File(apsw.VFSFile):
    def __init__(
        self,
        base: str,
        name: Any,
        flags: list[int],
        *,
        see: Observer,
        path: str,
        fresh: bool,
    ) -> None:
        self._see = see
        self._path = path
        # SQLite's own VFS syncs the directory together with the first sync of a journal or WAL that it has created.
        self._names = fresh and bool(flags[0] & _SQLITE_OWN_JOURNAL)
        super().__init__(base, name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._see(Op("write", self._path, offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        self._see(Op("truncate", self._path, newsize))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        self._see(Op("sync", self._path))
        super().xSync(flags)
        if self._names:
            self._names = False
            self._see(Op("sync_directory", os.path.dirname(self._path)))


def _os_patches(see: Observer) -> Iterator[Any]:
    """The functions of `os` that the product's own code writes with."""
    real = {name: getattr(os, name) for name in _WRAPPERS}
    paths: dict[int, str] = {}
    for name, wrapper in _WRAPPERS.items():
        yield mock.patch.object(os, name, wrapper(real[name], see, paths))


def _absolute(path: Any) -> str:
    return os.path.abspath(os.fsdecode(path))


def _open(real: Any, see: Observer, paths: dict[int, str]) -> Any:
    def call(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        where = _absolute(path)
        if flags & os.O_CREAT and not os.path.exists(where):
            see(Op("create", where))
        elif flags & os.O_TRUNC:
            see(Op("truncate", where, 0))
        fd = real(path, flags, *args, **kwargs)
        paths[fd] = where
        return fd

    return call


def _write(real: Any, see: Observer, paths: dict[int, str]) -> Any:
    def call(fd: int, data: Any) -> int:
        if fd in paths and _seekable(fd):
            see(Op("write", paths[fd], os.lseek(fd, 0, os.SEEK_CUR), bytes(data)))
        return real(fd, data)

    return call


def _seekable(fd: int) -> bool:
    try:
        os.lseek(fd, 0, os.SEEK_CUR)
    except OSError:
        return False
    return True


def _pwrite(real: Any, see: Observer, paths: dict[int, str]) -> Any:
    def call(fd: int, data: Any, offset: int) -> int:
        if fd in paths:
            see(Op("write", paths[fd], offset, bytes(data)))
        return real(fd, data, offset)

    return call


def _sync(real: Any, see: Observer, paths: dict[int, str]) -> Any:
    def call(fd: int) -> None:
        if fd in paths:
            see(Op("sync_directory" if os.path.isdir(paths[fd]) else "sync", paths[fd]))
        real(fd)

    return call


def _ftruncate(real: Any, see: Observer, paths: dict[int, str]) -> Any:
    def call(fd: int, length: int) -> None:
        if fd in paths:
            see(Op("truncate", paths[fd], length))
        real(fd, length)

    return call


def _two_names(kind: str) -> Any:
    def wrapper(real: Any, see: Observer, paths: dict[int, str]) -> Any:
        def call(source: Any, target: Any, **kwargs: Any) -> None:
            see(Op(kind, _absolute(source), other=_absolute(target)))
            real(source, target, **kwargs)

        return call

    return wrapper


def _unlink(real: Any, see: Observer, paths: dict[int, str]) -> Any:
    def call(path: Any, **kwargs: Any) -> None:
        if os.path.lexists(path):
            see(Op("unlink", _absolute(path)))
        real(path, **kwargs)

    return call


def _mkdir(real: Any, see: Observer, paths: dict[int, str]) -> Any:
    def call(path: Any, *args: Any, **kwargs: Any) -> None:
        if not os.path.exists(path):
            see(Op("mkdir", _absolute(path)))
        real(path, *args, **kwargs)

    return call


_WRAPPERS: dict[str, Any] = {
    "open": _open,
    "write": _write,
    "pwrite": _pwrite,
    "fsync": _sync,
    "fdatasync": _sync,
    "ftruncate": _ftruncate,
    "replace": _two_names("rename"),
    "rename": _two_names("rename"),
    "link": _two_names("link"),
    "unlink": _unlink,
    "remove": _unlink,
    "mkdir": _mkdir,
}
