"""What lies beside events' data, gathered event by event: a column for each attribute that any of them has."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from penstock.event.envelope import NewEvent

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def time_us(moment: datetime) -> int:
    """Microseconds since 1970 in UTC; exact for every aware datetime."""
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


class Beside:
    """The attributes of events that came in an envelope, by the events' indexes; the others have none."""

    __slots__ = ("_columns",)

    def __init__(self) -> None:
        self._columns: dict[str, list[Any]] = {}

    def note(self, event: NewEvent, index: int) -> None:
        """Keep what the envelope of event `index` says; higher than any index before."""
        for name in event.__struct_fields__:
            value = getattr(event, name)
            if value is None or name == "data":
                continue
            if name == "time":
                name, value = "time_us", time_us(value)  # noqa: PLW2901 - as it is stored
            elif name == "headers":
                if not value:
                    continue
                value = dict(value)
            self._column(name, index).append(value)

    def columns(self, count: int) -> dict[str, list[Any]]:
        """Attribute name → one value for each of `count` events, None where it has none."""
        return {name: self._column(name, count) for name in self._columns}

    def cut(self, count: int) -> None:
        """Forget all but the first `count` events."""
        for values in self._columns.values():
            del values[count:]

    def _column(self, name: str, count: int) -> list[Any]:
        """The attribute's values of the first `count` events."""
        values = self._columns.setdefault(name, [])
        values.extend([None] * (count - len(values)))
        return values
