"""What DuckDB says, in our words: one table, complete by test."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

import duckdb

from penstock.errors import ConfigError, CorruptionError, IOFailed, PenstockError, RefusedByTarget, TransientError
from penstock.sink.room import says_no_room

DUCKDB: Mapping[str, type[PenstockError]] = {
    "BinderException": RefusedByTarget,
    "CatalogException": RefusedByTarget,
    "ConnectionException": TransientError,
    "ConstraintException": RefusedByTarget,
    "ConversionException": RefusedByTarget,
    "DataError": RefusedByTarget,
    "DatabaseError": IOFailed,
    "DependencyException": RefusedByTarget,
    "Error": IOFailed,
    "FatalException": IOFailed,
    "HTTPException": IOFailed,
    "IOException": IOFailed,
    "IntegrityError": RefusedByTarget,
    "InternalError": IOFailed,
    "InternalException": IOFailed,
    "InterruptException": TransientError,
    "InvalidInputException": RefusedByTarget,
    "InvalidTypeException": RefusedByTarget,
    "NotImplementedException": RefusedByTarget,
    "NotSupportedError": RefusedByTarget,
    "OperationalError": TransientError,
    "OutOfMemoryException": TransientError,
    "OutOfRangeException": RefusedByTarget,
    "ParserException": RefusedByTarget,
    "PermissionException": ConfigError,
    "ProgrammingError": RefusedByTarget,
    "ResourceInUseException": TransientError,
    "SequenceException": RefusedByTarget,
    "SerializationException": CorruptionError,
    "SyntaxException": RefusedByTarget,
    "TransactionException": TransientError,
    "TypeMismatchException": RefusedByTarget,
}
"""Class name in `duckdb` → what it means for what is staged."""

WAY_OUT = "free room on that disk, then it goes on by itself"
_BROKEN = ("Corrupt database file", "replaying WAL")
_BROKEN_WAY_OUT = (
    "put a copy of it back, with the .wal beside it if there is one: the sink goes on from there; or remove both, and "
    "it fills a new file from the log's beginning"
)
_HOLDER = re.compile(r"\(PID (\d+)\)")


def translated(exc: duckdb.Error, what: str) -> PenstockError:
    """The error to raise from `exc`; `what` says what was being done, with names. A full disk is waited for."""
    if says_no_room(str(exc)):
        return TransientError(f"{what}: {exc}; {WAY_OUT}")
    if any(sign in str(exc) for sign in _BROKEN):
        return CorruptionError(f"{what}: {exc}; {_BROKEN_WAY_OUT}")
    return DUCKDB[type(exc).__name__](f"{what}: {exc}")


def holder_of(exc: duckdb.Error) -> int | None:
    """The process that holds the file, when that is what DuckDB complains of; ours for another mode of opening."""
    text = str(exc)
    if isinstance(exc, duckdb.ConnectionException) and "different configuration" in text:
        return os.getpid()
    if isinstance(exc, duckdb.IOException) and "lock" in text.lower():
        match = _HOLDER.search(text)
        return int(match[1]) if match else 0
    return None
