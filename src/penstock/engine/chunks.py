"""What a source's chunk becomes: batches of its topic, and dead letters for what cannot be an event there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from penstock.channel.typed import TypedTopic
from penstock.delivery.deadletter import DeadLetter, to_batch
from penstock.errors import ConfigError, PenstockError, SchemaIncompatible
from penstock.event.batch import Attributes, Columns, NewBatch
from penstock.source.api import Chunk


class Layout:
    """Lays the chunks of one source out for its topic and its dead letters."""

    def __init__(self, name: str, into: TypedTopic[Any], dead: TypedTopic[Any]) -> None:
        self._name = name
        self._into = into
        self._dead = dead

    def batches(self, chunk: Chunk) -> tuple[list[NewBatch], int]:
        """The batches, and how many of the events are among the dead letters instead.

        Raises:
            ConfigError: the chunk's columns are not the topic's: no row of it can be an event.
        """
        if isinstance(chunk.events, Columns):
            batches, letters = self._columns(chunk.events)
        else:
            bodies = chunk.events.bodies()
            packed = self._into.pack(bodies, keys=chunk.keys, attributes=chunk.events.attributes)
            batches = packed.batches
            letters = [
                self._letter(bodies[index], reason, f"event {index}") for index, reason in packed.refused.items()
            ]
        refused = len(letters)
        letters += [self._letter(bad.body, bad.reason, bad.where) for bad in chunk.bad]
        if letters:
            batches = [*batches, to_batch(letters, topic=self._dead.name, partition=0)]
        return batches, refused

    def _columns(self, columns: Columns) -> tuple[list[NewBatch], list[DeadLetter]]:
        """All rows as they are; else those that can be events, found by halving, and the others as letters."""
        schema = self._into.schema
        if schema is None:
            msg = f"topic {self._into.name} has no type, and the source gives columns: declare it with a type"
            raise ConfigError(msg, path=f"sources.{self._name}")
        table = columns.table
        if not table.schema.equals(schema.arrow):
            found, expected = (", ".join(f"{f.name} {f.type}" for f in s) for s in (table.schema, schema.arrow))
            msg = f"its columns are {found}; topic {self._into.name} takes {expected}"
            if table.schema.names != schema.arrow.names or table.schema.types != schema.arrow.types:
                raise ConfigError(msg, path=f"sources.{self._name}")
        try:
            return self._packed(columns), []
        except (SchemaIncompatible, ValueError):
            good, reasons = self._sorted(columns, 0, table.num_rows)
        letters = [self._letter(self._body(table, row), reason, f"row {row}") for row, reason in reasons.items()]
        return (self._packed(_rows(columns, good)) if good else []), letters

    def _packed(self, columns: Columns) -> list[NewBatch]:
        assert self._into.schema is not None
        table = columns.table
        if not table.schema.equals(self._into.schema.arrow):  # only in what may be null
            import pyarrow as pa  # noqa: PLC0415

            table = pa.RecordBatch.from_arrays(table.columns, schema=self._into.schema.arrow)
        self._into.schema.check(table)
        return self._into.pack_columns(table, columns.attributes)

    def _sorted(self, columns: Columns, start: int, end: int) -> tuple[list[int], dict[int, str]]:
        """The rows that can be events, and why each of the others cannot."""
        good: list[int] = []
        reasons: dict[int, str] = {}
        left = [(start, end)]
        while left:
            start, end = left.pop()
            try:
                self._packed(_rows(columns, range(start, end)))
                good += range(start, end)
            except (SchemaIncompatible, ValueError) as exc:
                if end - start == 1:
                    reasons[start] = str(exc)
                else:
                    middle = (start + end) // 2
                    left += [(middle, end), (start, middle)]
        return good, reasons

    def _body(self, table: Any, row: int) -> bytes:
        """A row as JSON, as near as its values allow."""
        one = table.slice(row, 1)
        assert self._into.schema is not None
        try:
            return self._into.schema.columns_to_lines(one)[0]
        except (PenstockError, ValueError, TypeError, AttributeError):
            values = {name: _plain(column, row) for name, column in zip(table.schema.names, table.columns, strict=True)}
            return msgspec.json.encode(values, enc_hook=str)

    def _letter(self, body: bytes, reason: str, where: str) -> DeadLetter:
        limit = self._dead.spec.event_bytes_max
        cut = f" (of its {len(body)} bytes the first {limit} are kept)" if len(body) > limit else ""
        return DeadLetter(
            group=f"source.{self._name}",
            topic=self._into.name,
            partition=0,
            offset=-1,
            body=body[:limit],
            reason=f"{where}{cut}: {self._into.hide(body)(reason)}",
            error="Unreadable",
        )


def _rows(columns: Columns, rows: Sequence[int]) -> Columns:
    attributes: Attributes = {name: [values[row] for row in rows] for name, values in columns.attributes.items()}
    if isinstance(rows, range):
        return Columns(columns.table.slice(rows.start, len(rows)), attributes)
    return Columns(columns.table.take(rows), attributes)


def _plain(column: Any, row: int) -> object:
    try:
        return column[row].as_py()
    except (ValueError, OverflowError):  # a time that Python has none for
        return str(column[row])
