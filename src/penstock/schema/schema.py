"""A topic's type: events to JSON and columns and back, checked; built once per type, used from any thread."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import msgspec

from penstock.errors import DecodeError, SchemaIncompatible
from penstock.schema.building import Builder
from penstock.schema.description import describe_shape
from penstock.schema.reading import read_class
from penstock.schema.shapes import Field, Shape

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")
SLICE = 1000


class Invalid(msgspec.Struct, Generic[T], frozen=True):
    """What `validate_lines` found when not all is well: the good events in place, None and a reason for the others."""

    events: list[T | None]
    reasons: dict[int, str]


class Schema(Generic[T]):
    """How events of one Python type travel. See `schema_of`."""

    def __init__(self, kind: type[T], shape: Shape, name: str) -> None:
        self.name = name
        self.type = kind
        self.shape = shape
        self.fields: tuple[Field, ...] = shape.fields
        self._by_name = {f.name: f for f in shape.fields}
        self._encode = msgspec.json.Encoder().encode
        self._decoder = msgspec.json.Decoder(kind)
        self._twin = msgspec.json.Decoder(Builder().class_of(shape))

    def field(self, name: str) -> Field:
        """The field of this name.

        Raises:
            KeyError: there is none.
        """
        return self._by_name[name]

    def describe(self) -> dict[str, Any]:
        """The canonical description, fit for JSON."""
        return describe_shape(self.shape)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of the description as JSON."""
        return sha256(msgspec.json.encode(self.describe(), order="sorted")).hexdigest()

    @cached_property
    def arrow(self) -> pa.Schema:
        """The schema of the columns."""
        from penstock.schema.arrow import arrow_schema  # noqa: PLC0415

        return arrow_schema(self.shape)

    def arrow_bytes(self) -> bytes:
        """The schema of the columns, serialised."""
        return self.arrow.serialize().to_pybytes()

    # -- JSON ------------------------------------------------------------------------------------------------------

    def encode(self, event: T) -> bytes:
        """The event as JSON on one line."""
        try:
            return self._encode(event)
        except (TypeError, ValueError) as exc:
            raise DecodeError(self._message(exc)) from exc

    def decode(self, body: bytes) -> T:
        """The event of these bytes."""
        try:
            return self._decoder.decode(body)
        except Exception as exc:
            raise DecodeError(self._message(exc)) from exc

    def decode_strict(self, body: bytes) -> T:
        """The event of bytes from outside."""
        try:
            return self._twin.decode(body)
        except Exception as exc:
            raise DecodeError(self._message(exc)) from exc

    def _message(self, exc: Exception) -> str:
        return f"{self.name}: {exc}"

    def decode_lines(self, body: bytes, count: int) -> list[T]:
        """The events of `count` bodies joined by newlines."""
        try:
            events = self._decoder.decode_lines(body)
        except Exception as exc:
            raise DecodeError(self._message(exc)) from exc
        if len(events) != count or (count and body.count(b"\n") != count - 1):
            msg = f"{self.name}: {len(events)} events in {count} bodies"
            raise DecodeError(msg)
        return events

    def validate_lines(self, bodies: list[bytes]) -> list[T] | Invalid[T]:
        """The events of these bodies, when a consumer could decode every one of them."""
        joined = b"\n".join(bodies)
        try:
            events = self._twin.decode_lines(joined)
            if len(events) == len(bodies) and joined.count(b"\n") == max(len(bodies) - 1, 0) and all(bodies):
                return events
        except Exception:  # noqa: BLE001, S110 - found one by one below
            pass
        good: list[T | None] = []
        reasons: dict[int, str] = {}
        for index, body in enumerate(bodies):
            try:
                good.append(self._twin.decode(body))
            except Exception as exc:  # noqa: BLE001 - a type's own checks may raise anything
                good.append(None)
                reasons[index] = self._message(exc)
        return Invalid(good, reasons) if reasons else cast("list[T]", good)

    # -- columns ---------------------------------------------------------------------------------------------------

    def to_columns(self, events: Sequence[T]) -> pa.RecordBatch:
        """The events as columns."""
        from penstock.schema.arrow import to_batch  # noqa: PLC0415

        return to_batch(self.shape, events, self.arrow)

    def from_columns(self, batch: pa.RecordBatch) -> list[T]:
        """The rows as events."""
        from penstock.schema.arrow import from_batch  # noqa: PLC0415

        return from_batch(self.shape, self.type, batch)

    def lines_to_columns(self, body: bytes, count: int) -> pa.RecordBatch:
        """Bodies joined by newlines as columns."""
        return self.to_columns(self.decode_lines(body, count))

    def columns_to_lines(self, batch: pa.RecordBatch) -> list[bytes]:
        """Each row as JSON."""
        return list(map(self._encode, self.from_columns(batch)))

    def check(self, batch: pa.RecordBatch) -> None:
        """That the batch has these columns, in this order, of these types, and no null where none may be.

        Raises:
            SchemaIncompatible: the first difference, with the column, what was found and what was expected.
        """
        if not batch.schema.equals(self.arrow):
            msg = f"{self.name}: columns {batch.schema}; expected {self.arrow}"
            raise SchemaIncompatible(msg)


def schema_of(kind: type[T], *, name: str | None = None) -> Schema[T]:
    """The schema of a msgspec Struct or a dataclass.

    Raises:
        ConfigError: a field's type cannot travel; the path names the field, the message the way out.
    """
    return Schema(kind, read_class(kind), name or kind.__name__)
