"""A recorded event as CloudEvents JSON, held to the specification's rules."""

from __future__ import annotations

import base64
import json
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.event import RecordedEvent

RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def recorded(data: Any, **attributes: Any) -> RecordedEvent:
    return RecordedEvent(
        topic="t",
        partition=0,
        offset=7,
        id="p/0/1/0",
        source="/penstock/t",
        type="Departed",
        data=data,
        recorded_time=datetime(2013, 1, 1, tzinfo=UTC),
        **attributes,
    )


def conforms(event: dict[str, Any]) -> None:
    """The rules for the JSON form: required attributes, names, Strings, one of data and data_base64."""
    assert json.loads(json.dumps(event, allow_nan=False)) == event
    assert event["specversion"] == "1.0"
    assert not ("data" in event and "data_base64" in event)
    for name, value in event.items():
        if name in {"data", "data_base64"}:
            continue
        assert re.fullmatch("[a-z0-9]{1,20}", name), name
        assert isinstance(value, str), name
        assert value, name
        assert not re.search("[\x00-\x1f\x7f-\x9f\ud800-\udfff]", value), name
    assert {"id", "source", "type"} <= event.keys()
    assert all(RFC3339.fullmatch(event[name]) for name in ("time", "recordedtime") if name in event)
    if "data_base64" in event:
        assert "json" not in event["datacontenttype"]


class Seat(msgspec.Struct):
    row: int
    at: datetime
    raw: bytes
    by_number: dict[int, str]


def test_a_typed_event() -> None:
    seat = Seat(3, datetime(2013, 1, 1, tzinfo=UTC), b"\x00", {1: "a"})
    event = recorded(seat, key=b"UA-1", subject="s", time=datetime(2013, 1, 1, 5, tzinfo=timezone(timedelta(hours=5))))
    out = event.to_cloudevent()
    conforms(out)
    assert out["data"] == {"row": 3, "at": "2013-01-01T00:00:00Z", "raw": "AA==", "by_number": {"1": "a"}}
    assert out["datacontenttype"] == "application/json"
    assert out["partitionkey"] == "UA-1"
    assert out["time"] == "2013-01-01T00:00:00Z"
    assert out["sequence"] == f"{7:020d}"


@pytest.mark.parametrize(
    ("body", "data"),
    [(b'{"a": 1}', {"a": 1}), (b"null", None), (b'"text"', "text"), (b"18446744073709551616", 2**64)],
)
def test_raw_bytes_that_are_json_are_data(body: bytes, data: Any) -> None:
    out = recorded(body).to_cloudevent()
    conforms(out)
    assert out["data"] == data
    assert out["datacontenttype"] == "application/json"


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"plain text", b"NaN", b"[" * 100_000, b'{"a":Infinity}'])
def test_raw_bytes_that_are_not_json_are_base64(body: bytes) -> None:
    out = recorded(body).to_cloudevent()
    conforms(out)
    assert base64.b64decode(out["data_base64"]) == body


@pytest.mark.parametrize(("key", "text"), [(b"\x00\n", r"\x00\x0a"), (b"\xff", r"\xff"), ("Zürich".encode(), "Zürich")])
def test_a_key_that_is_no_string_is_escaped(key: bytes, text: str) -> None:
    out = recorded(b"1", key=key).to_cloudevent()
    conforms(out)
    assert out["partitionkey"] == text


def test_an_empty_or_missing_key_is_left_out() -> None:
    for key in (b"", None):
        assert "partitionkey" not in recorded(b"1", key=key).to_cloudevent()


@given(st.binary(max_size=30), st.binary(max_size=8))
def test_any_bytes_conform(body: bytes, key: bytes) -> None:
    conforms(recorded(body, key=key).to_cloudevent())


@given(st.datetimes(timezones=st.just(UTC)))
def test_any_time_is_rfc_3339(moment: datetime) -> None:
    out = recorded(b"1", time=moment).to_cloudevent()
    conforms(out)
    assert datetime.fromisoformat(out["time"]) == moment
