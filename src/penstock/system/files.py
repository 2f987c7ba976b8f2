"""File operations that survive a power loss: each is written, synced and named in the right order."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from penstock.system.points import reached

_CANNOT = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
"""What file systems say that cannot allocate ahead."""
_ZEROS = bytes(1 << 16)


def allocate(fd: int, size: int) -> None:
    """Give a new file so many bytes, with room on the disk for each: one with holes has none, and a map of it kills.

    Raises:
        OSError: there is no room.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as exc:
            if exc.errno not in _CANNOT:
                raise
        else:
            return
    while size > 0:
        size -= os.write(fd, _ZEROS[: min(size, len(_ZEROS))])


def sync_fd(fd: int) -> None:
    """Bring the file's data to the disk itself; on macOS only F_FULLFSYNC does."""
    if sys.platform == "darwin":
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(fd)


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable (a new, renamed or removed entry)."""
    reached(f"files.sync_directory:{directory.name}")
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def locked_directory(directory: Path) -> Generator[None]:
    """Whoever else takes this lock waits, also in other processes. It ends with the process."""
    fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def write_synced(path: Path, data: bytes) -> None:
    """Create or replace `path` with `data` and sync it. The name is durable only after `sync_directory`."""
    reached(f"files.write:{path.name}")
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        reached(f"files.sync:{path.name}")
        sync_fd(fd)
    finally:
        os.close(fd)


def sync_file(path: Path) -> None:
    """Sync a file that somebody else wrote by name (a Parquet writer)."""
    reached(f"files.sync:{path.name}")
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def link_once(source: Path, target: Path) -> bool:
    """Give `source` the second name `target` unless that name exists: compare-and-set on a file system.

    Returns:
        True when this call created the name; it is durable on return. False when it was there already.
    """
    reached(f"files.link:{target.name}")
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    sync_directory(target.parent)
    return True


def rename_synced(source: Path, target: Path) -> None:
    """Rename within one directory; durable on return."""
    reached(f"files.rename:{target.name}")
    os.replace(source, target)
    sync_directory(target.parent)


def remove(path: Path) -> None:
    """Remove a file if it is there; for scratch files only."""
    reached(f"files.remove:{path.name}")
    path.unlink(missing_ok=True)
