"""What happened, in words (the envelope) and in bulk (the batch)."""

from penstock.event.batch import Columns, Delivered, NewBatch, Rows
from penstock.event.checks import check_attribute, check_event, check_headers, check_time
from penstock.event.envelope import NewEvent, RecordedEvent
from penstock.event.partition import canonical_key, partition_of

__all__ = [
    "Columns",
    "Delivered",
    "NewBatch",
    "NewEvent",
    "RecordedEvent",
    "Rows",
    "canonical_key",
    "check_attribute",
    "check_event",
    "check_headers",
    "check_time",
    "partition_of",
]
