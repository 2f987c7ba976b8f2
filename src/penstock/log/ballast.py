"""Room that is kept for the day the disk is full: a file that is released first, so that something can be removed.

On a full disk removing needs room too: SQLite's DELETE and its checkpoint both write. The file holds some; when it is
gone, retention and a checkpoint have that much, and then it is made again.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from penstock.system.files import allocate, remove, sync_fd
from penstock.system.points import reached

NAME = "ballast"
BYTES_MAX, BYTES_MIN = 16_000_000, 1_000_000
_PARTS = 100
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE)
"""Not now, and no sign that the disk fails."""


def free_bytes(directory: Path) -> int:
    """What the file system has left for this user."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def wanted(free: int) -> int:
    """How large the file should be where so much is free: a hundredth, within bounds; 0 where that is too much."""
    return 0 if free < 2 * BYTES_MIN else min(BYTES_MAX, max(BYTES_MIN, free // _PARTS))


def held(directory: Path) -> int:
    """The bytes that are held now."""
    try:
        return (directory / NAME).stat().st_size
    except FileNotFoundError:
        return 0


def hold(directory: Path) -> int:
    """Make the file unless it is there; its bytes, 0 when it cannot be made now. Under the writers' lock."""
    found = held(directory)
    size = wanted(free_bytes(directory)) if found == 0 else 0
    if size == 0:
        return found
    reached("log.ballast.hold")
    try:
        fd = os.open(directory / NAME, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644)
        try:
            allocate(fd, size)
            sync_fd(fd)
        finally:
            os.close(fd)
    except OSError as exc:
        remove(directory / NAME)
        if exc.errno not in _FULL:
            raise
        return 0
    return size


def release(directory: Path) -> None:
    """Give the room back to whoever holds the writers' lock."""
    reached("log.ballast.release")
    remove(directory / NAME)
