"""What an envelope may hold: every limit from both sides (D7, D11, D12)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import Rejected
from penstock.event import NewEvent, check_attribute, check_event, check_headers, check_time
from penstock.event.checks import (
    ATTRIBUTE_CHARS_MAX,
    HEADER_NAME_CHARS_MAX,
    HEADER_VALUE_CHARS_MAX,
    HEADERS_CHARS_MAX,
    HEADERS_MAX,
)

BAD_HEADERS: list[tuple[str, Any, str]] = [
    ("CR", {"a": "x\ry"}, r"headers\.a: U\+000D at index 1"),
    ("LF", {"a": "x\nSet-Cookie: b"}, r"U\+000A"),
    ("NUL", {"a": "\x00"}, r"U\+0000"),
    ("tab", {"a": "\t"}, r"U\+0009"),
    ("not ASCII", {"a": "Zürich"}, r"U\+00FC.*percent-encode"),
    ("surrogate", {"a": "\ud800"}, r"U\+D800"),
    ("empty name", {"": "x"}, "the name ''"),
    ("colon", {"a:b": "x"}, "'a:b'"),
    ("break in a name", {"a\r\nb": "x"}, r"'a\\r\\nb'"),
    ("name not ASCII", {"ä": "x"}, r"'\\xe4'"),
    ("long name", {"a" * (HEADER_NAME_CHARS_MAX + 1): "x"}, str(HEADER_NAME_CHARS_MAX)),
    ("10,000", {f"h{i}": "x" for i in range(10_000)}, f"10000; at most {HEADERS_MAX}"),
    ("one too many", {f"h{i}": "x" for i in range(HEADERS_MAX + 1)}, f"at most {HEADERS_MAX}"),
    ("1 MB", {"a": "x" * 1_000_000}, f"headers.a: 1000000 characters; at most {HEADER_VALUE_CHARS_MAX}"),
    ("together", {f"h{i}": "x" * HEADER_VALUE_CHARS_MAX for i in range(5)}, f"at most {HEADERS_CHARS_MAX}"),
    ("case", {"Trace": "1", "trace": "2"}, "differ only in case"),
    ("number", {"a": 1}, "str to int"),
    ("bytes", {b"a": "x"}, "bytes to str"),
    ("text", "a=x", "headers: str; expected a dict"),
    ("pairs", [("a", "x")], "headers: list; expected a dict"),
    ("a number alone", 5, "headers: int; expected a dict"),
]


@pytest.mark.parametrize(("headers", "message"), [pytest.param(h, m, id=n) for n, h, m in BAD_HEADERS])
def test_headers_are_refused_by_name(headers: dict[str, str], message: str) -> None:
    with pytest.raises(Rejected, match=message):
        check_headers(headers)


def test_headers_at_their_limits_pass() -> None:
    check_headers({f"h{i}": "x" for i in range(HEADERS_MAX)})
    check_headers({"a" * HEADER_NAME_CHARS_MAX: "x" * HEADER_VALUE_CHARS_MAX})
    check_headers({"content-type": "text/plain; charset=utf-8", "!#$%&'*+.^_`|~-": " ~"})


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=4))
def test_what_passes_has_no_character_that_a_protocol_gives_a_meaning(headers: dict[str, str]) -> None:
    try:
        check_headers(headers)
    except Rejected:
        return
    written = "".join(f"{name}: {value}" for name, value in headers.items())
    assert written.isascii()
    assert written.isprintable()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("id", "", "id: empty"),
        ("id", "x" * (ATTRIBUTE_CHARS_MAX + 1), str(ATTRIBUTE_CHARS_MAX)),
        ("id", 7, "id: int; expected text"),
        ("type", "a\x00b", r"type: U\+0000 at index 1"),
        ("type", "a\x1f", r"U\+001F"),
        ("subject", "\x7f", r"U\+007F"),
        ("subject", "\x9f", r"U\+009F"),
        ("subject", "\ud800", r"U\+D800"),
        ("subject", "\ufffe", r"U\+FFFE"),
        ("subject", "\U0010ffff", r"U\+10FFFF"),
        ("source", "", "source: empty"),
        ("source", "a b", "URI-reference"),
        ("source", "/ü", "URI-reference"),
        ("source", "/%zz", "URI-reference"),
        ("traceparent", "00-" + "0" * 32 + "-00f067aa0ba902b7-01", "traceparent"),
        ("traceparent", "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "traceparent"),
        ("traceparent", "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", "lower-case"),
        ("tracestate", "a=" + "x" * 600, "512"),
        ("tracestate", "a=ü", "printable"),
    ],
)
def test_attributes_are_refused_by_name(name: str, value: Any, message: str) -> None:
    with pytest.raises(Rejected, match=message):
        check_attribute(name, value)
    with pytest.raises(Rejected, match=message):
        check_event(NewEvent(data=None, **{name: value}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", "x"),
        ("id", "x" * ATTRIBUTE_CHARS_MAX),
        ("subject", "Zürich 😀"),
        ("source", "https://example.org/a?b=%20#c"),
        ("source", "urn:x:y"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("tracestate", "a=1,b=2"),
    ],
)
def test_attributes_at_their_limits_pass(name: str, value: Any) -> None:
    check_event(NewEvent(data=None, **{name: value}))


class Nanos(datetime):
    """What pandas calls a Timestamp: a datetime that holds more than one."""

    nanosecond = 5


@pytest.mark.parametrize(
    ("moment", "message"),
    [
        (datetime(2013, 1, 1), "no time zone.*tzinfo=UTC"),  # noqa: DTZ001 - the point
        (datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1))), "years 1 to 9999"),
        (datetime(9999, 12, 31, 23, 30, tzinfo=timezone(timedelta(hours=-1))), "years 1 to 9999"),
        (Nanos(2013, 1, 1, tzinfo=UTC), "nanoseconds"),
        ("2013-01-01T00:00:00Z", "time: str"),
        (1_356_998_400, "time: int"),
    ],
)
def test_times_are_refused_with_the_way_out(moment: Any, message: str) -> None:
    with pytest.raises(Rejected, match=message):
        check_time(moment)
    with pytest.raises(Rejected, match=message):
        check_event(NewEvent(data=None, time=moment))


@pytest.mark.parametrize(
    "moment",
    [
        datetime(1, 1, 1, tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=-14))),
        datetime(2262, 4, 12, tzinfo=UTC),
    ],
)
def test_times_at_their_limits_pass(moment: datetime) -> None:
    check_time(moment)


def test_a_key_that_has_no_bytes_is_refused() -> None:
    for key in (True, "\ud800", 1.5, b"x" * 70_000):
        with pytest.raises(Rejected, match="key"):
            check_event(NewEvent(data=None, key=key))  # type: ignore[arg-type]


def test_an_event_with_everything_passes() -> None:
    check_event(NewEvent(data={}, key="k", id="1", time=datetime(2013, 1, 1, tzinfo=UTC), headers={"a": "b"}))
