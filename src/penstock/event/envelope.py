"""The envelope of one event: CloudEvents 1.0 attributes plus key, cause and trace; new and recorded are two types.

Source: CloudEvents 1.0.2 core specification; the extensions partitionkey, sequence, recordedtime, correlation and
distributed tracing. Names here are the specification's, in Python's spelling.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from penstock.event.partition import Key

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f]")

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
    "cause",  # of a step's output: the offset of the input it came from
    "number",  # and which of that input's outputs it is, where one gave several
)


class NewEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be recorded. Only `data` is needed: the topic's declaration and the log supply the rest.

    Attributes:
        data: an instance of the topic's type; bytes for a topic without one.
        key: text, bytes, an int, a UUID or None, up to 64 KB; only for a topic that does not take it from a field.
        id: 1 to 2,048 characters; derived from where the event lies when it is None.
        type: CloudEvents: what kind of event it is; the topic's type by default.
        source: CloudEvents: where it comes from.
        subject: CloudEvents: what it is about.
        time: when it happened, an aware datetime; leave it out where the topic has a field for it (its `time`).
        correlationid: what it belongs to; a handler's results take it over.
        causationid: what it was made from.
        traceparent: W3C trace context; a handler's results take it over.
        tracestate: W3C trace context; a handler's results take it over.
        headers: text to text in printable ASCII, up to 100 and 32 KB together.
    """

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
        """The event as a CloudEvents 1.0 JSON object (attributes top-level, unset ones left out).

        Raw bytes that are JSON become `data`; any others `data_base64` with a content type that claims nothing.
        """
        out: dict[str, Any] = {"specversion": "1.0", "id": self.id, "source": self.source, "type": self.type}
        optional = {
            "subject": self.subject,
            "time": None if self.time is None else _rfc3339(self.time),
            "dataschema": self.dataschema,
            "partitionkey": _key_text(self.key) or None,
            "sequence": f"{self.offset:020d}",
            "recordedtime": _rfc3339(self.recorded_time),
            "correlationid": self.correlationid,
            "causationid": self.causationid,
            "traceparent": self.traceparent,
            "tracestate": self.tracestate,
        }
        out.update({name: value for name, value in optional.items() if value is not None})
        out.update(_data(self.data))
        return out


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().removesuffix("+00:00") + "Z"


def _key_text(key: bytes | None) -> str:
    """The key as a CloudEvents String: what may not stand in one is written as an escape."""
    text = (key or b"").decode(errors="backslashreplace")
    return _UNPRINTABLE.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def _data(data: object) -> dict[str, Any]:
    if not isinstance(data, bytes):
        return {"datacontenttype": "application/json", "data": msgspec.to_builtins(data, str_keys=True)}
    try:
        return {"datacontenttype": "application/json", "data": json.loads(data.decode(), parse_constant=_refused)}
    except (ValueError, RecursionError):
        return {"datacontenttype": "application/octet-stream", "data_base64": b64encode(data).decode()}


def _refused(constant: str) -> None:
    raise ValueError(constant)
