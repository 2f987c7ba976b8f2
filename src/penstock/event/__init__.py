"""What happened, in words (the envelope) and in bulk (the batch)."""

from penstock.event.batch import Columns, Delivered, NewBatch, Rows
from penstock.event.envelope import NewEvent, RecordedEvent
from penstock.event.partition import canonical_key, partition_of

__all__ = ["Columns", "Delivered", "NewBatch", "NewEvent", "RecordedEvent", "Rows", "canonical_key", "partition_of"]
