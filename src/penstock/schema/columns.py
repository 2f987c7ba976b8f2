"""The type of a topic that exists only as columns: what a flow puts out, without a Python class."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.errors import SchemaIncompatible

if TYPE_CHECKING:
    import pyarrow as pa


class ColumnsSchema(msgspec.Struct, frozen=True, eq=False):
    """A named Arrow schema. Two are the same type when their `fingerprint` is the same; the name does not count."""

    name: str
    arrow: pa.Schema

    def describe(self) -> dict[str, Any]:
        """The canonical description, fit for JSON: kind, and each field's name, Arrow type, may it be null."""
        return {"kind": "columns", "fields": [[f.name, str(f.type), f.nullable] for f in self.arrow]}

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of the description as JSON."""
        return sha256(msgspec.json.encode(self.describe(), order="sorted")).hexdigest()

    def check(self, batch: pa.RecordBatch) -> None:
        """That the batch has these columns, in this order, of these types, and no null where none may be.

        Raises:
            SchemaIncompatible: the first difference, with the column, what was found and what was expected.
        """
        if batch.schema.names != self.arrow.names:
            found, expected = ", ".join(batch.schema.names), ", ".join(self.arrow.names)
            msg = f"{self.name}: columns {found}; expected {expected}, in this order"
            raise SchemaIncompatible(msg)
        for field, column in zip(self.arrow, batch.columns, strict=True):
            if not column.type.equals(field.type):
                msg = f"{self.name}: column {field.name} is {column.type}; expected {field.type}: cast it"
                raise SchemaIncompatible(msg)
            if column.null_count and not field.nullable:
                msg = f"{self.name}: column {field.name} has {column.null_count} null values; expected none: fill them"
                raise SchemaIncompatible(msg)
