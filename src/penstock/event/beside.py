"""What lies beside events' data, gathered event by event: a column for each attribute that any of them has."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from penstock.event.envelope import NewEvent

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def time_us(moment: datetime) -> int:
    """Microseconds since 1970 in UTC; exact for every aware datetime."""
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def said(event: NewEvent) -> Iterator[tuple[str, Any]]:
    """What an envelope that has been checked says beside its data, name by name, as plain values: it may be changed."""
    for name in event.__struct_fields__:
        value = getattr(event, name)
        if value is None or name == "data":
            continue
        if name == "headers":
            value = {_plain(header): _plain(text) for header, text in value.items()} if value else None
        elif name == "time":
            value = value if type(value) is datetime else _EPOCH + timedelta(microseconds=time_us(value))
        elif name != "key":
            value = _plain(value)
        if value is not None:
            yield name, value


def _plain(text: str) -> str:
    """The same as `str` itself: no format knows what else a subclass is."""
    return text if type(text) is str else str.__str__(text)


class Beside:
    """The attributes of events that came in an envelope, by the events' indexes; the others have none."""

    __slots__ = ("_columns",)

    def __init__(self) -> None:
        self._columns: dict[str, list[Any]] = {}

    def note(self, event: NewEvent, index: int) -> None:
        """Keep what the envelope of event `index` says; higher than any index before."""
        for name, value in said(event):
            if name == "time":
                self._column("time_us", index).append(time_us(value))  # as it is stored
            else:
                self._column(name, index).append(value)

    def columns(self, count: int) -> dict[str, list[Any]]:
        """Attribute name → one value for each of `count` events, None where it has none."""
        return {name: self._column(name, count) for name in self._columns}

    def _column(self, name: str, count: int) -> list[Any]:
        """The attribute's values of the first `count` events."""
        values = self._columns.setdefault(name, [])
        values.extend([None] * (count - len(values)))
        return values
