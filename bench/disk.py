"""The disk as floors use it: append, sync, and telling whether a directory is on a real disk at all."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import TracebackType


def sync(fd: int) -> None:
    """Return when the file's data has reached the disk, as far as the system can promise it."""
    if sys.platform == "darwin":
        import fcntl  # noqa: PLC0415

        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(fd)


class Appender:
    """A new file that is only appended to. Owns the descriptor and, on leaving, removes the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def append(self, data: bytes) -> None:
        """Write all of `data` at the end; not durable before `sync`."""
        view = memoryview(data)
        while view:
            view = view[os.write(self.fd, view) :]

    def sync(self) -> None:
        """Make durable what was appended."""
        sync(self.fd)

    def __enter__(self) -> Appender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.fd)
        self._path.unlink()


def filesystem_of(path: Path, mounts: str) -> str:
    """The type of the file system that holds `path`, from the text of /proc/self/mounts; empty when not listed."""
    best, found = -1, ""
    for line in mounts.splitlines():
        _, point, kind, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        if path.is_relative_to(point) and len(Path(point).parts) >= best:
            best, found = len(Path(point).parts), kind
    return found


def memory_only(path: Path) -> bool:
    """Whether the directory lies in memory, where a sync costs nothing and every ratio to it is wrong."""
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return False
    return filesystem_of(path.resolve(), mounts.read_text()) in {"tmpfs", "ramfs"}
