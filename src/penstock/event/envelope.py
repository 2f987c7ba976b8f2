"""The envelope of one event: CloudEvents 1.0 attributes plus key, cause and trace; new and recorded are two types.

Source: CloudEvents 1.0.2 core specification; the extensions partitionkey, sequence, recordedtime, correlation and
distributed tracing. Names here are the specification's, in Python's spelling.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from penstock.event.partition import Key

# One value per event, kept beside the data when it is not what the topic's declaration already says.
ATTRIBUTES = (
    "key",
    "id",
    "type",
    "source",
    "subject",
    "time_us",
    "dataschema",
    "correlationid",
    "causationid",
    "traceparent",
    "tracestate",
    "headers",
    "cause",
)


class NewEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be recorded. Only `data` is needed: the topic's declaration and the log supply the rest."""

    data: Any
    key: Key = None
    id: str | None = None
    type: str | None = None
    source: str | None = None
    subject: str | None = None
    time: datetime | None = None
    correlationid: str | None = None
    causationid: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    headers: Mapping[str, str] | None = None


class RecordedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What has been recorded: a view of one row of a batch, made only when somebody looks.

    `data` is the decoded event of the topic's type, or the raw bytes of an untyped topic. `id` is the publisher's own,
    or derived: from (producer, epoch, sequence, index) of a published event, from the input's position of an output.
    """

    topic: str
    partition: int
    offset: int
    id: str
    source: str
    type: str
    data: Any
    recorded_time: datetime
    time: datetime | None = None
    key: bytes | None = None
    subject: str | None = None
    dataschema: str | None = None
    correlationid: str | None = None
    causationid: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    headers: Mapping[str, str] = msgspec.field(default_factory=dict[str, str])

    def to_cloudevent(self) -> dict[str, Any]:
        """The event as a CloudEvents 1.0 JSON object (attributes top-level, unset ones left out)."""
        out: dict[str, Any] = {"specversion": "1.0", "id": self.id, "source": self.source, "type": self.type}
        optional = {
            "subject": self.subject,
            "time": None if self.time is None else self.time.isoformat().replace("+00:00", "Z"),
            "dataschema": self.dataschema,
            "partitionkey": None if self.key is None else self.key.decode(errors="backslashreplace"),
            "sequence": f"{self.offset:020d}",
            "recordedtime": self.recorded_time.isoformat().replace("+00:00", "Z"),
            "correlationid": self.correlationid,
            "causationid": self.causationid,
            "traceparent": self.traceparent,
            "tracestate": self.tracestate,
        }
        out.update({name: value for name, value in optional.items() if value is not None})
        out["datacontenttype"] = "application/json"
        out["data"] = msgspec.to_builtins(self.data)
        return out
