"""What Arrow and the file system say, in our words: one table, complete by test."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from penstock.errors import IOFailed, PenstockError, RefusedByTarget, SinkFull, TransientError
from penstock.sink.room import no_room

ARROW: Mapping[str, type[PenstockError]] = {
    "ArrowException": RefusedByTarget,
    "ArrowInvalid": RefusedByTarget,
    "ArrowTypeError": RefusedByTarget,
    "ArrowKeyError": RefusedByTarget,
    "ArrowIndexError": RefusedByTarget,
    "ArrowNotImplementedError": RefusedByTarget,
    "ArrowCapacityError": RefusedByTarget,
    "ArrowSerializationError": RefusedByTarget,
    "ArrowMemoryError": TransientError,
    "ArrowCancelled": TransientError,
}
"""Class name in `pyarrow.lib` → what it means for the staged batch."""


def translated(exc: pa.ArrowException, what: str) -> PenstockError:
    """The error to raise from `exc`; `what` says what was being done, with names."""
    return ARROW[type(exc).__name__](f"{what}: {exc}")


def io_failed(exc: OSError, root: str) -> PenstockError:
    """A disk's error; what was staged cannot be trusted any more. A full disk is waited for."""
    found = f"{root}: {exc.strerror or exc}{f' ({exc.filename})' if exc.filename else ''}"
    if no_room(exc):
        return SinkFull(f"{found}; nothing of it is visible: free room on that disk, then it goes on by itself")
    return IOFailed(f"{found}; nothing of it is visible: claim the partition again")
