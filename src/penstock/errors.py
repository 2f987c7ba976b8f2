"""The error tree, named by what happens next.

Every message names what was found, what was expected and the way out; the classes say who acts on it.
"""

from __future__ import annotations


class PenstockError(Exception):
    """Anything that Penstock raises on purpose."""


class ConfigError(PenstockError):
    """Stop before start: a declaration or an option is wrong.

    Args:
        message: what was found, what was expected, the way out.
        path: where, as a dotted path such as ``topics.orders.key``.
    """

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path


class TransientError(PenstockError):
    """Try again: nothing is known to be wrong with the event."""


class NotConnected(TransientError):
    """The other side is not there at the moment."""


class TimedOut(TransientError):
    """A stated limit of time has passed."""


class Throttled(TransientError):
    """The other side asks for less; wait `retry_after_s` seconds."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class LogBusy(TransientError):
    """Another process holds the log's writer lock; the message names its pid and for how long."""


class LogFull(TransientError):
    """The disk has no room: nothing was stored. Free room or trim, then publish again."""


class SinkFull(TransientError):
    """A sink's disk has no room: what was staged is given up. Free room; it claims again and goes on by itself."""


class OutcomeUnknown(TransientError):
    """It may or may not have been stored. Publishing again with the same sequence is safe."""


class PermanentError(PenstockError):
    """This event goes to the dead letters: trying again cannot help."""


class DecodeError(PermanentError):
    """The bytes are not what the topic's schema says."""


class SchemaIncompatible(PermanentError):
    """A type has changed so that recorded events could not be read any more."""


class RefusedByTarget(PermanentError):
    """A sink's target said no to this event."""


class Rejected(PermanentError):
    """A publish was refused before it was stored; the reason names the field or the limit."""


class Reject(PermanentError):
    """Raised by a handler: this event is not to be handled; the text is the recorded reason."""


class ConflictError(PenstockError):
    """Reload and decide again: somebody else was faster."""


class Fenced(ConflictError):
    """A newer owner has taken the partition or the producer's name; this one must stop."""


class DeclaredDifferently(ConflictError):
    """Two programs declare one topic or group differently; the message names the difference."""


class Unsupported(PenstockError):
    """The channel does not have this power; its capabilities say so."""


class CorruptionError(PenstockError):
    """Stop and look: stored data is not what was stored. Nothing is skipped by itself."""


class LogTruncated(CorruptionError):
    """The log holds fewer commits than its witness has seen."""


class LogRegressed(CorruptionError):
    """A group or a sink is ahead of the log: the log was restored from an older copy."""


class LogReplaced(CorruptionError):
    """The log's files were swapped underneath an open log (another inode or another identity)."""


class WitnessDamaged(CorruptionError):
    """The witness file is missing or unreadable; the log itself may be sound."""


class BlockDamaged(CorruptionError):
    """A block's checksum does not match; topic, partition and offset range are named."""


class RecordDamaged(CorruptionError):
    """A row of progress, ledger or producer state fails its checksum."""


class OffsetOutOfRange(PenstockError):
    """A position lies below the first event that is kept: retention has passed it. Nothing was skipped."""


class Closed(PenstockError):
    """We closed it ourselves; open a new one."""


class IOFailed(PenstockError):
    """The disk answered with an I/O error: this log object is closed for good (fail-stop)."""
