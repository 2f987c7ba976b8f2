"""Frames of users as batches of a topic: columns in the topic's order and types, or why they do not fit."""

from __future__ import annotations

from typing import Any

from penstock.app.outcome import Rejected
from penstock.channel.typed import TypedTopic
from penstock.errors import SchemaIncompatible
from penstock.event.batch import NewBatch
from penstock.event.partition import KEY_BYTES_MAX


def record_batch(frame: Any) -> Any:
    """One Arrow record batch of a Polars frame, an Arrow table or a record batch."""
    import pyarrow as pa  # noqa: PLC0415

    table = _arrow(frame)
    _check_memory(table)
    if isinstance(table, pa.RecordBatch):
        return table
    try:
        batches = table.combine_chunks().to_batches()
    except pa.ArrowException as exc:
        msg = f"the frame's chunks cannot be put together: {exc}"
        raise SchemaIncompatible(msg) from exc
    if len(batches) > 1:
        msg = f"{table.nbytes} bytes in one frame; publish it in parts, as with frame.iter_slices()"
        raise SchemaIncompatible(msg)
    return (
        batches[0]
        if batches
        else pa.RecordBatch.from_arrays([pa.nulls(0, f.type) for f in table.schema], schema=table.schema)
    )


def _arrow(frame: Any) -> Any:
    import pyarrow as pa  # noqa: PLC0415

    found = frame
    if callable(getattr(frame, "to_arrow", None)):
        try:
            found = frame.to_arrow()
        except Exception as exc:
            msg = f"the frame cannot be turned into Arrow columns: {exc}"
            raise SchemaIncompatible(msg) from exc
    if not isinstance(found, pa.Table | pa.RecordBatch):
        msg = f"found {type(frame).__name__}; expected a Polars DataFrame, an Arrow table or a record batch"
        raise SchemaIncompatible(msg)
    return found


def _check_memory(columns: Any) -> None:
    """That the columns hold what their types say (text that is UTF-8, offsets that lie inside): Arrow believes it.

    Raises:
        SchemaIncompatible: the first column that does not.
    """
    import pyarrow as pa  # noqa: PLC0415

    for name, column in zip(columns.schema.names, columns.columns, strict=True):
        try:
            column.validate(full=True)
        except pa.ArrowException as exc:
            msg = f"column {name} holds what is no {column.type}: {exc}"
            raise SchemaIncompatible(msg) from exc


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
    names: list[str] = batch.schema.names
    if sorted(names) != sorted(wanted.names):
        twice = sorted({name for name in names if names.count(name) > 1})
        more = f" ({', '.join(twice)} more than once)" if twice else ""
        msg = f"topic {topic.name}: columns {', '.join(names)}{more}; expected {', '.join(wanted.names)}, each once"
        raise SchemaIncompatible(msg)
    columns = [_column(topic, batch.column(field.name), field) for field in wanted]
    made = pa.RecordBatch.from_arrays(columns, schema=wanted)
    topic.schema.check(made)
    _check_keys(topic, made)
    return made


def _column(topic: TypedTopic[Any], column: Any, field: Any) -> Any:
    """The column as the topic stores it: the same values, or it is refused."""
    import pyarrow as pa  # noqa: PLC0415

    from penstock.schema.widening import difference  # noqa: PLC0415

    if column.type.equals(field.type):
        return column
    where = f"topic {topic.name}: column {field.name} is {column.type}; expected {field.type}"
    to_do = difference(column.type, field.type)
    if to_do:
        msg = f"{where}: {to_do}"
        raise SchemaIncompatible(msg)
    try:
        return column.cast(field.type)
    except pa.ArrowException as exc:
        msg = f"{where}: {exc}"
        raise SchemaIncompatible(msg) from exc


def _check_keys(topic: TypedTopic[Any], batch: Any) -> None:
    """That every key can be one, as it must when events are published one by one."""
    import pyarrow as pa  # noqa: PLC0415

    from penstock.schema.arrow import compute as pc  # noqa: PLC0415

    if topic.spec.key is None or batch.num_rows == 0:
        return
    keys = batch.column(topic.spec.key)
    if not (pa.types.is_string(keys.type) or pa.types.is_binary(keys.type)):
        return
    sizes = pc.binary_length(keys)
    longest = pc.max(sizes).as_py() or 0
    if longest > KEY_BYTES_MAX:
        row = pc.index(sizes, pa.scalar(longest, sizes.type)).as_py()
        msg = (
            f"topic {topic.name}: column {topic.spec.key}, row {row}: a key of {longest} bytes; at most "
            f"{KEY_BYTES_MAX} are allowed: use its hash as the key"
        )
        raise SchemaIncompatible(msg)


def frame_batches(topic: TypedTopic[Any], frame: Any) -> list[NewBatch] | Rejected:
    """The frame's rows by partition, or why the topic cannot take it."""
    try:
        return topic.pack_columns(fitted(topic, record_batch(frame)))
    except SchemaIncompatible as exc:
        return Rejected(topic.name, str(exc))
