"""The type of a topic that exists only as columns: what a flow puts out, without a Python class."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from penstock.errors import DecodeError, SchemaIncompatible, Unsupported

if TYPE_CHECKING:
    import pyarrow as pa

    from penstock.schema.schema import Invalid
    from penstock.schema.shapes import Field


class ColumnsSchema(msgspec.Struct, frozen=True, eq=False):
    """A named Arrow schema. Two are the same type when their `fingerprint` is the same; the name does not count.

    It reads like a `Schema`, an event being a dict of the row's values. It takes no JSON: such a topic holds columns.
    """

    name: str
    arrow: pa.Schema

    def describe(self) -> dict[str, Any]:
        """The canonical description, fit for JSON: kind, and each field's name, Arrow type, may it be null."""
        return {"kind": "columns", "fields": [[f.name, str(f.type), f.nullable] for f in self.arrow]}

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of the description as JSON."""
        return sha256(msgspec.json.encode(self.describe(), order="sorted")).hexdigest()

    def arrow_bytes(self) -> bytes:
        """`arrow`, serialised."""
        return self.arrow.serialize().to_pybytes()

    def check(self, batch: pa.RecordBatch) -> None:
        """That the batch has these columns, in this order, of these types, and no null where none may be.

        Raises:
            SchemaIncompatible: the first difference, with the column, what was found and what was expected.
        """
        from penstock.schema.checking import check_columns  # noqa: PLC0415

        check_columns(self.name, self.arrow, batch)

    def conform(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch with this schema's columns: those it lacks are null, those it has beyond are dropped.

        Raises:
            SchemaIncompatible: a column is of another type, or lacks and may not be null.
        """
        if batch.schema.equals(self.arrow):
            return batch
        import pyarrow as pa  # noqa: PLC0415

        found = dict(zip(batch.schema.names, batch.columns, strict=True))
        columns = [found.get(f.name, pa.nulls(batch.num_rows, f.type)) for f in self.arrow]
        try:
            out = pa.RecordBatch.from_arrays(columns, schema=self.arrow)
        except pa.ArrowException as exc:
            msg = f"{self.name}: {exc}"
            raise SchemaIncompatible(msg) from exc
        self.check(out)
        return out

    def from_columns(self, batch: pa.RecordBatch) -> list[dict[str, Any]]:
        """The rows as dicts, column name to value; times finer than a microsecond are cut to it."""
        import pyarrow as pa  # noqa: PLC0415

        batch = self.conform(batch)
        columns: list[list[Any]] = []
        for column in batch.columns:
            fine = pa.types.is_timestamp(column.type) and column.type.unit == "ns"
            exact = column.cast(pa.timestamp("us", column.type.tz), safe=False) if fine else column
            columns.append(exact.to_pylist())
        names = batch.schema.names
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]

    def columns_to_lines(self, batch: pa.RecordBatch) -> list[bytes]:
        """Each row as a JSON object; what JSON has no number for (NaN, infinities) is null there."""
        return list(map(msgspec.json.Encoder().encode, self.from_columns(batch)))

    def decode(self, body: bytes) -> dict[str, Any]:
        """A row from its JSON, as `columns_to_lines` gives it; texts stay texts.

        Raises:
            DecodeError: it is no JSON object.
        """
        try:
            return msgspec.json.decode(body, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            msg = f"{self.name}: {exc}"
            raise DecodeError(msg) from exc

    def field(self, name: str) -> Field:
        """Raises `Unsupported`: columns have Arrow types, see `arrow`."""
        return self._refuse(name)

    def encode(self, event: object) -> bytes:
        """Raises `Unsupported`: rows are published as columns."""
        return self._refuse(event)

    def validate_lines(self, bodies: list[bytes]) -> list[dict[str, Any]] | Invalid[dict[str, Any]]:
        """Raises `Unsupported`: rows are published as columns."""
        return self._refuse(bodies)

    def decode_lines(self, body: bytes, count: int, *, valid: bool = False) -> list[dict[str, Any]]:
        """Raises `Unsupported`: such a topic has no lines."""
        return self._refuse(body, count, valid)

    def lines_to_columns(self, body: bytes, count: int) -> pa.RecordBatch:
        """Raises `Unsupported`: such a topic has no lines."""
        return self._refuse(body, count)

    def _refuse(self, *_: object) -> NoReturn:
        msg = f"{self.name} exists only as columns, without a Python type: publish and read it as columns"
        raise Unsupported(msg)
