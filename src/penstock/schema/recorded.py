"""A reader for tools that have a topic's recorded description and not its Python type; events are dicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from penstock.errors import ConfigError
from penstock.schema.building import Builder
from penstock.schema.columns import ColumnsSchema
from penstock.schema.description import read_description
from penstock.schema.reading import read_class
from penstock.schema.schema import Schema

if TYPE_CHECKING:
    import pyarrow as pa


class RecordedSchema(Schema[dict[str, Any]]):
    """A `Schema` whose events are what JSON says: dicts, lists, texts, numbers. It checks all that the type checks."""

    def decode(self, body: bytes) -> dict[str, Any]:
        """The event as a dict, as it stands in JSON; checked against the recorded type."""
        return _as_dict(super().decode(body))

    def decode_lines(self, body: bytes, count: int, *, valid: bool = False) -> list[dict[str, Any]]:
        """See `Schema.decode_lines`."""
        return list(map(_as_dict, super().decode_lines(body, count, valid=valid)))

    def from_columns(self, batch: pa.RecordBatch) -> list[dict[str, Any]]:
        """The rows as dicts, as they stand in JSON."""
        return list(map(_as_dict, super().from_columns(batch)))


def _as_dict(event: Any) -> dict[str, Any]:
    return msgspec.to_builtins(event)


def schema_from_description(description: dict[str, Any], arrow: bytes | None) -> RecordedSchema | ColumnsSchema:
    """The reader of a recorded description.

    Args:
        description: what `describe` gave.
        arrow: the Arrow schema recorded with it; needed for topics that exist only as columns.

    Raises:
        ConfigError: a description of another kind (written by a newer version), or columns without `arrow`.
    """
    kind = description.get("kind")
    if kind == "struct":
        made = Builder().class_of(read_description(description))
        return RecordedSchema(made, read_class(made), description["name"])
    if kind == "columns" and arrow is not None:
        import pyarrow as pa  # noqa: PLC0415

        return ColumnsSchema("columns", pa.ipc.read_schema(pa.BufferReader(arrow)))
    msg = f"a recorded type of kind {kind!r}; expected struct, or columns with an Arrow schema: update penstock"
    raise ConfigError(msg)
