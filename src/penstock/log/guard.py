"""Guards of a log's files: what is open must still be what lies under the name, in the process that opened it."""

from __future__ import annotations

import os
from pathlib import Path

from penstock.errors import LogReplaced, LogTruncated
from penstock.log.store import Identity
from penstock.log.witness import NAME as WITNESS
from penstock.log.witness import Seen
from penstock.system.inodes import Name

DATABASE = "log.db"
FILES = (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", WITNESS)


class FileGuard:
    """Remembers the inodes of the log's files; `check` before every commit.

    A commit into a write-ahead log whose name is gone would be acked and lost (somebody who thought himself alone has
    checkpointed and deleted it). Beside another `-shm` two processes would write over each other's commits, and
    another witness means that somebody has accepted a loss.
    """

    def __init__(self, directory: Path) -> None:
        names = [Name(str(directory / name)) for name in FILES]
        self._files = [(name, os.stat(name.path).st_ino) for name in names]

    def check(self) -> None:
        """Compare.

        Raises:
            LogReplaced: a file was deleted or replaced since it was opened; nothing has been committed.
        """
        for name, inode in self._files:
            found = name.inode()
            if found != inode:
                state = "is gone" if found is None else "was replaced"
                msg = f"{name.path} {state} while the log was open: nothing was committed; open the log again"
                raise LogReplaced(msg)


def compare(seen: Seen, identity: Identity, commits: int, where: Path) -> None:
    """Hold a log against its witness.

    Raises:
        LogReplaced: the witness belongs to another log or another history.
        LogTruncated: the log holds fewer commits than the witness has seen.
    """
    if seen.log != identity.log:
        msg = f"{where}: the witness belongs to log {seen.log}, the file is log {identity.log}; put the right file back"
        raise LogReplaced(msg)
    if seen.incarnation != identity.incarnation:
        msg = (
            f"{where}: the witness has seen incarnation {seen.incarnation}, the file is incarnation "
            f"{identity.incarnation}: an older copy was put in its place; put the right file back, or accept it with "
            "`penstock doctor --accept-loss` (raises the incarnation)"
        )
        raise LogReplaced(msg)
    if commits < seen.commits:
        msg = (
            f"{where}: the log holds {commits} commits, its witness has seen {seen.commits}: the last "
            f"{seen.commits - commits} were lost (a damaged or missing write-ahead log, or an older copy). Restore a "
            "backup, or accept the loss with `penstock doctor --accept-loss` (raises the incarnation)"
        )
        raise LogTruncated(msg)
