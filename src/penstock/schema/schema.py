"""A topic's type: events to JSON and columns and back, checked; built once per type, used from any thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import msgspec

from penstock.errors import DecodeError, SchemaIncompatible
from penstock.schema import problems, strict
from penstock.schema.building import Builder, check_defaults
from penstock.schema.description import describe_shape
from penstock.schema.reading import read_class
from penstock.schema.shapes import Field, Shape

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")
SLICE = 1000
# Polars takes half a millisecond to begin: below this many lines the exact way is faster.
FAST_FROM = 512

# What a parser says, and what the person who reads it can do.
_WAYS_OUT = (
    ("timezone component", "a naive datetime is no instant: give it a time zone, such as datetime.now(UTC)"),
    ("Expected `int` <= 9223372036854775807", "integers are 64 bits: use str or Decimal for larger ones"),
    ("Expected `int` >= -9223372036854775808", "integers are 64 bits: use str or Decimal for smaller ones"),
    ("Integer value out of range", "integers are 64 bits: use str or Decimal for larger ones"),
    ("Expected `float`, got `null`", "NaN and Infinity are null in JSON: declare it Optional and use None"),
    ("Number out of range", "it is beyond the largest float: send it as a string"),
    ("surrogates not allowed", "half a surrogate pair is no character: store the original bytes, or clean the text"),
    ("recursion", f"nested too deep, at most {strict.DEPTH_MAX} levels are read: flatten it"),
)


class Invalid(msgspec.Struct, Generic[T], frozen=True):
    """What `validate_lines` found when not all is well.

    `events` has an entry per body, None where it was refused; `reasons` says why, by index.
    """

    events: list[T | None]
    reasons: dict[int, str]


class Schema(Generic[T]):
    """How events of one Python type travel. See `schema_of`.

    Methods for columns load pyarrow (and `lines_to_columns` Polars) when they are first called; the others do not.
    """

    def __init__(self, kind: type[T], shape: Shape, name: str) -> None:
        self.name = name
        self.type = kind
        self.shape = shape
        self.fields: tuple[Field, ...] = shape.fields
        self._by_name = {f.name: f for f in shape.fields}
        self._encode = msgspec.json.Encoder().encode
        self._decoder = msgspec.json.Decoder(kind)
        self._twin: msgspec.json.Decoder[T] = msgspec.json.Decoder(Builder().class_of(shape))
        self._misfits = problems.misfits(shape)
        self._times = problems.times(shape)
        self._moments = problems.moments(shape)
        self._hidden = problems.hidden(shape)
        self._shifted = problems.shifted(shape)

    def field(self, name: str) -> Field:
        """The field of this name.

        Raises:
            KeyError: there is none.
        """
        return self._by_name[name]

    def describe(self) -> dict[str, Any]:
        """The canonical description, fit for JSON; `schema_from_description` reads it."""
        return describe_shape(self.shape)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of the description as JSON; the name of the class does not count."""
        return sha256(msgspec.json.encode(self.describe() | {"name": ""}, order="sorted")).hexdigest()

    @cached_property
    def arrow(self) -> pa.Schema:
        """The columns: one per field, named as in Python."""
        from penstock.schema.arrow import arrow_schema  # noqa: PLC0415

        return arrow_schema(self.shape)

    def arrow_bytes(self) -> bytes:
        """`arrow`, serialised."""
        return self.arrow.serialize().to_pybytes()

    # -- JSON ------------------------------------------------------------------------------------------------------

    def encode(self, event: T) -> bytes:
        """The event as JSON on one line; `validate_lines` says whether it fits the type.

        Raises:
            DecodeError: it has no JSON, or holds what JSON would silently change: NaN, an offset with seconds.
        """
        try:
            for problem in (self._hidden, self._shifted):
                if problem is not None and (found := problem(event)) is not None:
                    raise DecodeError(self.name + found)
            return self._encode(event)
        except (TypeError, ValueError, ArithmeticError, AttributeError, RecursionError) as exc:
            raise self._error(exc) from exc

    def encode_all(self, events: Iterable[T]) -> list[bytes]:
        """`encode` of each event, in order.

        Raises:
            DecodeError: as `encode`; the message names the index of the first event that cannot be encoded.
        """
        events = list(events)
        if self._hidden is None:
            try:
                return list(map(self.encode_quick, events))
            except (DecodeError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError):
                pass  # the index is found below
        out: list[bytes] = []
        for index, event in enumerate(events):
            try:
                out.append(self.encode(event))
            except DecodeError as exc:
                msg = f"event {index}: {exc}"
                raise DecodeError(msg) from exc
        return out

    @cached_property
    def encode_quick(self) -> Callable[[T], bytes]:
        """As `encode`, but it raises whatever the encoder raises; `encode` then has the words for it."""
        if self._hidden is not None:
            return self.encode
        if self._shifted is None:
            return self._encode
        return problems.plainly(self.shape, self._encode, self.encode) or self.encode

    def decode(self, body: bytes) -> T:
        """The event of bytes that were validated when they were published.

        Raises:
            DecodeError: they are not what the type says; the field is named.
        """
        try:
            return self._decoder.decode(body)
        except Exception as exc:
            raise self._error(exc) from exc

    def decode_strict(self, body: bytes) -> T:
        """The event of bytes from outside (a file, a command line, a request).

        Raises:
            DecodeError: a consumer could not read it, or another JSON parser would read it differently.
        """
        event = self._valid(body)
        # What comes out of our own encoder is read alike by all; nearly everything does.
        if self._encode(event) != body:
            try:
                strict.verify(body)
            except DecodeError as exc:
                msg = f"{self.name}: {exc}"
                raise DecodeError(msg) from exc
        return self.decode(body)

    def decode_lines(self, body: bytes, count: int, *, valid: bool = False) -> list[T]:
        """The events of `count` bodies joined by newlines, in order.

        Args:
            body: the bodies.
            count: how many they are.
            valid: `validate_lines` let each of them through; then it does not matter where there are newlines.

        Raises:
            DecodeError: one is not what the type says, or holds a newline itself: decode them one by one, by length.
        """
        if valid:  # one value each, so as a sequence of values they are the events
            events = self._sequence(body)
            if len(events) == count:
                return events
        # A parser for many values passes over empty lines, and reads two of one line; a line at a time costs less than
        # the proof that each line was one event.
        lines = body.split(b"\n") if body else []
        if len(lines) != count:
            msg = f"{self.name}: {len(lines)} lines, expected {count} events of one line each: decode them one by one"
            raise DecodeError(msg)
        try:
            return list(map(self._decoder.decode, lines))
        except Exception as exc:
            raise self._error(exc) from exc

    def _sequence(self, body: bytes) -> list[T]:
        """The events that follow each other in `body`; none where one is not what the type says any more."""
        try:
            return self._decoder.decode_lines(body)
        except Exception:  # noqa: BLE001 - which of them it was is found line by line
            return []

    def validate_lines(self, bodies: list[bytes]) -> list[T] | Invalid[T]:
        """The events of these bodies, each an instance of a subclass of the type; or what a consumer could not decode.

        Bodies are as `encode` or `decode_strict` let them through: what only a strict reader refuses is not looked for.
        """
        good: list[T | None] = []
        reasons: dict[int, str] = {}
        for start in range(0, len(bodies), SLICE):
            part = bodies[start : start + SLICE]
            fast = self._valid_slice(part)
            if fast is not None:
                good += fast
                continue
            for index, body in enumerate(part, start):
                try:
                    good.append(self._valid(body))
                except DecodeError as exc:
                    good.append(None)
                    reasons[index] = str(exc)
        return Invalid(good, reasons) if reasons else cast("list[T]", good)

    def _valid_slice(self, part: list[bytes]) -> list[T] | None:
        """The events when all are well; None when they must be looked at one by one."""
        try:
            events = list(map(self._twin.decode, part))
        except Exception:  # noqa: BLE001 - the checks of a user's class may raise anything; found again one by one
            return None
        if self._misfits is not None and any(map(self._misfits, events)):
            return None
        return None if self._times is not None and self._may_be_outside(events, part) else events

    def _may_be_outside(self, events: list[T], part: list[bytes]) -> bool:
        """Whether a time may lie before year 1 or after year 9999 in UTC."""
        if self._moments is not None:
            return any(problems.outside(list(map(get, events))) for get in self._moments)
        joined = b"\n".join(part)
        return any(day in joined for day in problems.EDGE_DAYS)

    def _valid(self, body: bytes) -> T:
        try:
            event = self._twin.decode(body)
        except Exception as exc:
            raise self._error(exc) from exc
        for problem in (self._misfits, self._times):
            found = None if problem is None else problem(event)
            if found is not None:
                raise DecodeError(self.name + found)
        return event

    def _error(self, exc: Exception) -> DecodeError:
        text = str(exc) or type(exc).__name__
        way_out = next((way for sign, way in _WAYS_OUT if sign in text), "")
        return DecodeError(f"{self.name}: {text}" + (f" ({way_out})" if way_out else ""))

    # -- columns ---------------------------------------------------------------------------------------------------

    def to_columns(self, events: Sequence[T]) -> pa.RecordBatch:
        """Events as columns, validated as if they were published.

        Raises:
            DecodeError: an event does not fit the type; its index and field are named.
        """
        valid = self.validate_lines(self.encode_all(events))
        if isinstance(valid, Invalid):
            index, reason = next(iter(valid.reasons.items()))
            msg = f"event {index}: {reason}"
            raise DecodeError(msg)
        return self._columns(valid)

    def _columns(self, events: Sequence[T]) -> pa.RecordBatch:
        from penstock.schema.arrow import to_batch  # noqa: PLC0415

        return to_batch(self.shape, events, self.arrow)

    def from_columns(self, batch: pa.RecordBatch) -> list[T]:
        """The rows as events. Columns of an older, compatible type are adapted; see `conform`."""
        from penstock.schema.lifting import from_batch  # noqa: PLC0415

        return from_batch(self.shape, self.conform(batch))

    def lines_to_columns(self, body: bytes, count: int) -> pa.RecordBatch:
        """`count` bodies that `encode` wrote or `decode_strict` let through, joined by newlines, as columns.

        Raises:
            DecodeError: as `decode_lines`.
        """
        if count >= FAST_FROM and self._lines is not None and strict.one_per_line(body, count):
            from penstock.schema.ndjson import Doubtful  # noqa: PLC0415

            try:
                return self._lines(body, count)
            except Doubtful:
                pass
        return self._columns(Schema.decode_lines(self, body, count))

    @cached_property
    def _lines(self) -> Callable[[bytes, int], pa.RecordBatch] | None:
        from penstock.schema.ndjson import reader  # noqa: PLC0415

        return reader(self.shape, self.arrow)

    def columns_to_lines(self, batch: pa.RecordBatch) -> list[bytes]:
        """Each row as the JSON it would have been published as."""
        return list(map(self._encode, Schema.from_columns(self, batch)))

    def conform(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch with the columns of this schema, when it was written with an older, compatible one.

        Raises:
            SchemaIncompatible: it was not.
        """
        if batch.schema.equals(self.arrow):
            return batch
        from penstock.schema.adapting import adapt  # noqa: PLC0415

        return adapt(self.shape, batch, self.arrow)

    def check(self, batch: pa.RecordBatch) -> None:
        """That the batch has these columns, in this order, of these types, and only values that the type allows.

        Raises:
            SchemaIncompatible: the first difference, with the column, what was found and what was expected.
        """
        from penstock.schema.checking import check_columns, check_values, checked_as_columns  # noqa: PLC0415

        check_columns(self.name, self.arrow, batch)
        check_values(self.name, self.shape, batch)
        if checked_as_columns(self.shape):
            return
        try:
            self.to_columns(Schema.from_columns(self, batch))
        except (DecodeError, ValueError, TypeError, LookupError, ArithmeticError) as exc:
            msg = f"{self.name}: {exc}"
            raise SchemaIncompatible(msg) from exc


def schema_of(kind: type[T], *, name: str | None = None) -> Schema[T]:
    """The schema of a msgspec Struct or a dataclass.

    Args:
        kind: the class.
        name: what messages and envelopes call it; the class's own name by default.

    Raises:
        ConfigError: a field's type cannot travel; the path names the field, the message the way out.
    """
    shape = read_class(kind)
    check_defaults(shape)
    return Schema(kind, shape, name or kind.__name__)
