"""What an envelope may hold: attributes, headers, keys and times are looked at before anything is stored.

Source: CloudEvents 1.0.2, "Type System" and "Required Attributes"; RFC 3986 (URI-reference); RFC 9110, 5.6.2 (token);
W3C Trace Context, 3.2 and 3.3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime

from penstock.errors import Rejected
from penstock.event.envelope import NewEvent
from penstock.event.partition import canonical_key

ATTRIBUTE_CHARS_MAX = 2048
HEADERS_MAX = 100
HEADER_NAME_CHARS_MAX = 200
HEADER_VALUE_CHARS_MAX = 8 * 1024
HEADERS_CHARS_MAX = 32 * 1024
TRACESTATE_CHARS_MAX = 512
SHOWN_CHARS = 40

_TEXTS = ("id", "type", "source", "subject", "correlationid", "causationid", "traceparent", "tracestate")
# Controls, lone surrogates and noncharacters: what a CloudEvents String must not hold.
_FORBIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF))
    + "]"
)
_URI_REFERENCE = re.compile(r"(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_NOT_PRINTABLE = re.compile(r"[^ -~]")
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-[ -~]*)?")
_FIRST_US_UTC = datetime.min.replace(tzinfo=UTC)
_LAST_US_UTC = datetime.max.replace(tzinfo=UTC)


def check_event(event: NewEvent) -> None:
    """Whether the envelope may be recorded; the data itself is its schema's business.

    Raises:
        Rejected: names the attribute, what was found and what was expected.
    """
    for name in _TEXTS:
        value = getattr(event, name)
        if value is not None:
            check_attribute(name, value)
    if event.key is not None:
        try:
            canonical_key(event.key)
        except ValueError as exc:
            raise Rejected(f"key: {exc}") from exc
    if event.time is not None:
        check_time(event.time)
    if event.headers:
        check_headers(event.headers)


def check_attribute(name: str, value: str) -> None:
    """Whether `value` may be the CloudEvents attribute `name`: a non-empty String by the specification's rules.

    Raises:
        Rejected: names the attribute and the rule.
    """
    if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers need not be typed
        raise Rejected(f"{name}: {type(value).__name__}; expected text")
    if not 0 < len(value) <= ATTRIBUTE_CHARS_MAX:
        found = f"{len(value)} characters" if value else "empty"
        raise Rejected(f"{name}: {found}; expected 1 to {ATTRIBUTE_CHARS_MAX} characters, or None")
    bad = _FORBIDDEN.search(value)
    if bad is not None:
        raise Rejected(
            f"{name}: {_code(bad[0])} at index {bad.start()}; control characters, lone surrogates and noncharacters "
            "are not allowed in an attribute: remove it, or put it into the data"
        )
    if name == "source" and not _URI_REFERENCE.fullmatch(value):
        raise Rejected(
            f"source: {value!r} is no URI-reference; expected such as '/orders/web': percent-encode the rest"
        )
    if name == "traceparent" and not _TRACEPARENT.fullmatch(value):
        raise Rejected(f"traceparent: {value!r}; expected version-trace id-parent id-flags in lower-case hex (W3C)")
    if name == "tracestate" and (len(value) > TRACESTATE_CHARS_MAX or _NOT_PRINTABLE.search(value)):
        raise Rejected(f"tracestate: expected at most {TRACESTATE_CHARS_MAX} printable ASCII characters (W3C)")


def check_time(moment: datetime) -> None:
    """Whether an event time can be stored: aware, in microseconds, in the years 1 to 9999 of UTC.

    How far in the future a time may lie is a question for windows, not for the envelope.

    Raises:
        Rejected: says which of these it is not, and the way out.
    """
    if not isinstance(moment, datetime):  # pyright: ignore[reportUnnecessaryIsInstance] - callers need not be typed
        raise Rejected(f"time: {type(moment).__name__}; expected an aware datetime")
    if moment.utcoffset() is None:
        raise Rejected(f"time: {moment.isoformat()} has no time zone; expected such as datetime(..., tzinfo=UTC)")
    if not _FIRST_US_UTC <= moment <= _LAST_US_UTC:
        raise Rejected(f"time: {moment.isoformat()} lies outside the years 1 to 9999 of UTC")
    if getattr(moment, "nanosecond", 0):
        raise Rejected(f"time: {moment.isoformat()} has nanoseconds; the finest unit is the microsecond: round it")


def check_headers(headers: Mapping[str, str]) -> None:
    """Whether these headers can be handed to any protocol as they are, so that no sink has to repair them.

    Raises:
        Rejected: names the header, the rule or the limit, and the way out.
    """
    if not isinstance(headers, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - callers need not be typed
        raise Rejected(f"headers: {type(headers).__name__}; expected a dict of text to text")
    if len(headers) > HEADERS_MAX:
        raise Rejected(f"headers: {len(headers)}; at most {HEADERS_MAX} are allowed: put them into the data")
    total = 0
    names: set[str] = set()
    for name, value in headers.items():
        _check_header(name, value)
        total += len(name) + len(value)
        names.add(name.lower())
    if len(names) < len(headers):
        raise Rejected("headers: two names differ only in case, which no protocol keeps apart; rename one")
    if total > HEADERS_CHARS_MAX:
        raise Rejected(
            f"headers: {total} characters together; at most {HEADERS_CHARS_MAX} are allowed: put them into the data"
        )


def _check_header(name: str, value: str) -> None:
    if not isinstance(name, str) or not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise Rejected(f"headers: {type(name).__name__} to {type(value).__name__}; expected text to text")
    if len(name) > HEADER_NAME_CHARS_MAX or not _TOKEN.fullmatch(name):
        raise Rejected(
            f"headers: the name {_shown(name)}; expected 1 to {HEADER_NAME_CHARS_MAX} letters, digits or "
            "!#$%&'*+.^_`|~-"
        )
    if len(value) > HEADER_VALUE_CHARS_MAX:
        raise Rejected(
            f"headers.{name}: {len(value)} characters; at most {HEADER_VALUE_CHARS_MAX} are allowed: put it into the "
            "data"
        )
    bad = _NOT_PRINTABLE.search(value)
    if bad is not None:
        raise Rejected(
            f"headers.{name}: {_code(bad[0])} at index {bad.start()}; expected printable ASCII: percent-encode the rest"
        )


def _code(char: str) -> str:
    return f"U+{ord(char):04X}"


def _shown(text: str) -> str:
    return ascii(text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "...")
