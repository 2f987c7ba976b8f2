"""Every kind of type that can travel: its annotation, values at its edges, and what it is as a column.

The table in docs/reference/types.md is held to these rows, and each row is sent through every format both ways.
"""

from __future__ import annotations

import enum
import uuid
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
import pyarrow as pa

from penstock.schema import scale

BERLIN = ZoneInfo("Europe/Berlin")


class Colour(enum.Enum):
    RED = "red"
    GREEN = "grün"


class Level(enum.IntEnum):
    LOW = -1
    HIGH = 2**40


class Place(msgspec.Struct, rename="camel"):
    street_name: str
    floor: int | None = None


class Card(msgspec.Struct, tag=True):
    number: str
    amount: Annotated[Decimal, scale(2)]


class Cash(msgspec.Struct, tag="cash"):
    pass


class Kind(NamedTuple):
    """One row: `python` is its name in the table, `hint` the annotation, the rest its type elsewhere."""

    python: str
    hint: Any
    values: list[Any]
    arrow: pa.DataType
    json: str
    parquet: str
    duckdb: str
    from_parquet: str | None = None


_US = pa.timestamp("us", "UTC")
_MICRO = timedelta(microseconds=1)
_UNION = pa.struct(
    [("type", pa.string()), ("Card", pa.struct([("number", pa.string()), ("amount", pa.decimal128(38, 2))]))]
)
_MOMENTS = [
    datetime(1, 1, 1, tzinfo=UTC),
    datetime.max.replace(tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, 999999, UTC),
    datetime(2026, 3, 29, 1, 59, 59, tzinfo=BERLIN),
    datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=0),
    datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1),
    datetime(2026, 1, 1, 0, 0, 0, 1, timezone(timedelta(hours=-11, minutes=-30))),
]

KINDS = [
    Kind("bool", bool, [True, False], pa.bool_(), "true, false", "BOOLEAN", "BOOLEAN"),
    Kind("int", int, [0, -1, 2**63 - 1, -(2**63)], pa.int64(), "number", "INT64", "BIGINT"),
    Kind(
        "float",
        float,
        [0.0, -0.0, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, -1e-7, 0.1, 3.0, 1e22],
        pa.float64(),
        "number",
        "DOUBLE",
        "DOUBLE",
    ),
    Kind(
        "Decimal",
        Decimal,
        [Decimal("0"), Decimal("-0.00"), Decimal("1.10"), Decimal("9" * 38), Decimal("1E+400"), Decimal("1E-30")],
        pa.string(),
        "string",
        "STRING",
        "VARCHAR",
    ),
    Kind(
        "Annotated[Decimal, scale(2)]",
        Annotated[Decimal, scale(2)],
        [Decimal("0"), Decimal("1.5"), Decimal("-" + "9" * 36 + ".99"), Decimal("1E+3"), Decimal("0.01")],
        pa.decimal128(38, 2),
        "string",
        "DECIMAL(38, 2)",
        "DECIMAL(38,2)",
    ),
    Kind(
        "str",
        str,
        ["", "a\x00b", "\U0001f600 é \u2028", '"\\/\n\r\t\x1f', "x" * 5000, "null"],
        pa.string(),
        "string",
        "STRING",
        "VARCHAR",
    ),
    Kind("bytes", bytes, [b"", b"\x00\xff", bytes(range(256))], pa.binary(), "string (base64)", "BYTE_ARRAY", "BLOB"),
    Kind(
        "date",
        date,
        [date.min, date.max, date(1970, 1, 1), date(2024, 2, 29)],
        pa.date32(),
        "string (ISO 8601)",
        "DATE",
        "DATE",
    ),
    Kind(
        "datetime",
        datetime,
        _MOMENTS,
        _US,
        "string (RFC 3339)",
        "TIMESTAMP(MICROS, UTC)",
        "TIMESTAMP WITH TIME ZONE",
    ),
    Kind(
        "timedelta",
        timedelta,
        [timedelta(0), _MICRO, -_MICRO, timedelta(days=400, hours=5), timedelta(days=-90, microseconds=7)],
        pa.duration("us"),
        "string (ISO 8601)",
        "INT64",
        "INTERVAL",
        "BIGINT",
    ),
    Kind("UUID", uuid.UUID, [uuid.UUID(int=0), uuid.UUID(int=2**128 - 1)], pa.string(), "string", "STRING", "VARCHAR"),
    Kind("Enum of str", Colour, list(Colour), pa.string(), "string", "STRING", "VARCHAR"),
    Kind("Enum of int", Level, list(Level), pa.int64(), "number", "INT64", "BIGINT"),
    Kind('Literal["a", "b"]', Literal["a", "b"], ["a", "b"], pa.string(), "string", "STRING", "VARCHAR"),
    Kind("Literal[1, 2]", Literal[1, 2], [1, 2], pa.int64(), "number", "INT64", "BIGINT"),
    Kind("list[X]", list[int | None], [[], [1], [None, -5]], pa.list_(pa.int64()), "array", "LIST", "BIGINT[]"),
    Kind(
        "dict[str, X]",
        dict[str, list[date]],
        [{}, {"": []}, {"b": [date(2000, 1, 1)], "a": [date.min, date.max]}],
        pa.map_(pa.string(), pa.list_(pa.date32())),
        "object",
        "MAP",
        "MAP(VARCHAR, DATE[])",
    ),
    Kind(
        "Struct, dataclass",
        Place,
        [Place(""), Place("Hauptstraße", -1)],
        pa.struct([("street_name", pa.string()), ("floor", pa.int64())]),
        "object",
        "group",
        "STRUCT(street_name VARCHAR, floor BIGINT)",
    ),
    Kind(
        "union of tagged Structs",
        Card | Cash,
        [Card("1234", Decimal("3.10")), Cash()],
        _UNION,
        "object with the tag",
        "group",
        'STRUCT("type" VARCHAR, Card STRUCT(number VARCHAR, amount DECIMAL(38,2)))',
    ),
]
