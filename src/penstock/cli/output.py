"""How commands speak: JSON, one object a line, or a table for people; never with a raw control character."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import click
import msgspec

from penstock.telemetry.emit import clean

# Decimals are written as numbers: sums of whole numbers come back from SQL as decimals.
_encoder = msgspec.json.Encoder(decimal_format="number")
_published = msgspec.json.Encoder()
# JSON escapes the other control characters itself. These can only stand inside of its strings.
_UNESCAPED = re.compile("[\x7f-\x9f\u2028\u2029]")
_GROUPED = re.compile(r"[\d,]+(\.\d+)?( [kKMGT]?B)?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


ESCAPED = "penstock.escaped"
"""The name of `escaped` among Python's handlers of errors of encoding."""


def escaped(error: UnicodeError) -> tuple[str, int]:
    """What the terminal's encoding lacks, as JSON escapes it: a document stays one, and people see what it is."""
    assert isinstance(error, UnicodeEncodeError)
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2)), error.end


def document(value: Any) -> None:
    """Print one JSON document."""
    click.echo(msgspec.json.format(to_json(value), indent=2))


def to_json(value: Any) -> str:
    """A value as JSON on one line, free of every control character."""
    return _escaped(_encoder.encode(value))


def event_json(value: Any) -> str:
    """As `to_json`, with decimals as events have them: as strings, which no reader of JSON rounds to a float."""
    return _escaped(_published.encode(value))


def _escaped(body: bytes) -> str:
    return _UNESCAPED.sub(lambda m: f"\\u{ord(m.group()):04x}", body.decode())


def lines(values: Iterable[Any]) -> None:
    """Print one JSON object a line, as they come."""
    for value in values:
        click.echo(to_json(value))


def counted(count: int, noun: str) -> str:
    """So many of them, for people: "1 letter", "2,000 letters"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def say(text: str = "") -> None:
    """Print a line for people."""
    click.echo(clean(text))


def note(text: str) -> None:
    """Print a line beside the output: on stderr, so that what is piped on stays clean."""
    click.echo(clean(text), err=True)


def moment(us: int | None) -> str:
    """Microseconds since 1970 as people and machines read it; empty when unset."""
    if us is None:
        return ""
    return (_EPOCH + timedelta(microseconds=us)).isoformat().replace("+00:00", "Z")


def size(count: int) -> str:
    """A number of bytes in the unit that fits."""
    value = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1000:  # noqa: PLR2004
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def cell(value: Any) -> str:
    """One value of a table as text, free of control characters."""
    match value:
        case None:
            text = ""
        case bool() | list() | dict() | tuple():
            text = to_json(value)
        case float():
            text = f"{value:.10g}"
        case datetime():
            text = value.isoformat(sep=" ").replace("+00:00", "Z")
        case bytes():
            text = value.decode(errors="backslashreplace")
        case _:
            text = str(value)
    return clean(text)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, width_max: int = 60) -> None:
    """Print rows in aligned columns, numbers to the right; a cell longer than `width_max` is cut with an ellipsis."""
    texts = [[_cut(cell(value), width_max) for value in row] for row in rows]
    names = [_cut(clean(name), width_max) for name in columns]
    widths = [max(map(len, column)) for column in zip(names, *texts, strict=True)]
    right = [bool(rows) and all(_number(row[i]) for row in rows) for i in range(len(names))]
    click.echo(_line(names, widths, right))
    for row in texts:
        click.echo(_line(row, widths, right))


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _number(value: Any) -> bool:
    if isinstance(value, str):
        return _GROUPED.fullmatch(value) is not None
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _line(texts: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = (t.rjust(w) if r else t.ljust(w) for t, w, r in zip(texts, widths, right, strict=True))
    return "  ".join(padded).rstrip()
