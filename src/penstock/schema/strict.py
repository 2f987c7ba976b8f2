"""JSON from outside: what parsers read differently, or not at all, is refused before it is stored."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from penstock.errors import DecodeError

DEPTH_MAX = 128
_INT_DIGITS_MAX = 20
_SHOWN_MAX = 24
_BOM = b"\xef\xbb\xbf"
_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
# A newline that does not stand between two braces.
_BAD_BREAK = re.compile(rb"\n(?!(?<=\}\n)\{)")
_BRACKETS = re.compile(rb"[\[\]{}]")


def one_per_line(body: bytes, count: int) -> bool:
    """Whether bodies that were joined by newlines are JSON objects of one line each, if a parser finds `count` in them.

    Then each body begins with a brace and ends with one, so no object can begin in one body and end in another: neither
    a text nor a nested value goes on with a newline and a brace. So each holds one object at least, hence exactly one.
    """
    if count == 0:
        return not body
    return body[:1] == b"{" and body[-1:] == b"}" and _BAD_BREAK.search(body) is None


def verify(body: bytes) -> None:
    """That every JSON parser reads these bytes alike.

    Raises:
        DecodeError: not UTF-8, a byte order mark, half a surrogate pair, a number that 64 bits cannot hold, too deep,
            a key twice, or no JSON at all.
    """
    if body.startswith(_BOM):
        msg = "begins with a byte order mark: send UTF-8 without one"
        raise DecodeError(msg)
    try:
        text = body.decode()
    except UnicodeDecodeError as exc:
        msg = f"byte {exc.start} is not UTF-8: send UTF-8"
        raise DecodeError(msg) from exc
    if _depth(body) > DEPTH_MAX:
        msg = f"nested more than {DEPTH_MAX} deep: flatten it"
        raise DecodeError(msg)
    try:
        found = json.loads(
            text, object_pairs_hook=_pairs, parse_constant=_constant, parse_int=_integer, parse_float=_number
        )
        if "\\u" in text:
            json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError as exc:
        msg = r"half a surrogate pair (such as \ud800) is no character: send whole characters"
        raise DecodeError(msg) from exc
    except ValueError as exc:
        msg = f"no JSON: {exc}"
        raise DecodeError(msg) from exc


def _depth(body: bytes) -> int:
    if body.count(b"[") + body.count(b"{") <= DEPTH_MAX:
        return 0
    depth = deepest = 0
    for match in _BRACKETS.finditer(_TEXT.sub(b"", body)):
        depth += 1 if match.group() in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        msg = f"the key {twice!r} appears twice, and parsers differ in which one they keep: send it once"
        raise DecodeError(msg)
    return out


def _constant(text: str) -> float:
    msg = f"{text} is no number in JSON: send null where the field is optional, or leave the event out"
    raise DecodeError(msg)


def _integer(text: str) -> int:
    value = int(text) if len(text) <= _INT_DIGITS_MAX else None
    if value is None or not -(2**63) <= value < 2**63:
        msg = f"{_named(text)} does not fit in 64 bits: send it as a string"
        raise DecodeError(msg)
    return value


def _number(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        msg = f"{_named(text)} is beyond the largest float: send it as a string"
        raise DecodeError(msg)
    return value


def _named(number: str) -> str:
    """A number as it is written, or by its length: of half of one nobody could tell that it is personal."""
    return number if len(number) <= _SHOWN_MAX else f"a number of {len(number)} characters"
