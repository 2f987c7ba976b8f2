"""Frames of users as batches of a topic: columns in the topic's order and types, or why they do not fit."""

from __future__ import annotations

from typing import Any

from penstock.app.outcome import Rejected
from penstock.channel.typed import TypedTopic
from penstock.errors import SchemaIncompatible
from penstock.event.batch import NewBatch


def record_batch(frame: Any) -> Any:
    """One Arrow record batch of a Polars frame, an Arrow table or a record batch."""
    import pyarrow as pa  # noqa: PLC0415

    if isinstance(frame, pa.RecordBatch):
        return frame
    if not isinstance(frame, pa.Table) and not callable(getattr(frame, "to_arrow", None)):
        msg = f"found {type(frame).__name__}; expected a Polars DataFrame, an Arrow table or a record batch"
        raise SchemaIncompatible(msg)
    table = frame if isinstance(frame, pa.Table) else frame.to_arrow()
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


def fitted(topic: TypedTopic[Any], batch: Any) -> Any:
    """The batch's columns in the order and of the types of the topic.

    Raises:
        SchemaIncompatible: a column is missing, unknown, null where it may not be, or its values cannot be converted.
    """
    import pyarrow as pa  # noqa: PLC0415

    if topic.schema is None:
        msg = f"topic {topic.name} has no type, so it takes no columns; publish bytes, or declare it with a type"
        raise SchemaIncompatible(msg)
    wanted = topic.schema.arrow
    if set(batch.schema.names) != set(wanted.names):
        found, expected = ", ".join(batch.schema.names), ", ".join(wanted.names)
        msg = f"topic {topic.name}: columns {found}; expected {expected}"
        raise SchemaIncompatible(msg)
    columns: list[Any] = []
    for field in wanted:
        column = batch.column(field.name)
        try:
            columns.append(column if column.type.equals(field.type) else column.cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as exc:
            msg = f"topic {topic.name}: column {field.name} is {column.type}; expected {field.type}: {exc}"
            raise SchemaIncompatible(msg) from exc
    made = pa.RecordBatch.from_arrays(columns, schema=wanted)
    topic.schema.check(made)
    return made


def frame_batches(topic: TypedTopic[Any], frame: Any) -> list[NewBatch] | Rejected:
    """The frame's rows by partition, or why the topic cannot take it."""
    try:
        return topic.pack_columns(fitted(topic, record_batch(frame)))
    except SchemaIncompatible as exc:
        return Rejected(topic.name, str(exc))
