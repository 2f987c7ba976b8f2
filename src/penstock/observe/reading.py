"""The topics of a log with the types it has recorded of them, without the programs that declared them."""

from __future__ import annotations

from typing import Any

from penstock.channel.api import Topic
from penstock.channel.typed import TypedTopic
from penstock.delivery.deadletter import SUFFIX
from penstock.schema import ColumnsSchema


def is_dead_letters(topic: Topic) -> bool:
    """Whether the topic holds a group's dead letters."""
    return topic.spec.internal and topic.spec.schema is None and topic.spec.name.endswith(SUFFIX)


def typed(topic: Topic) -> TypedTopic[Any]:
    """The topic with its recorded type."""
    description = topic.spec.schema
    if description is None:
        return TypedTopic(topic, None)
    if description["kind"] == "columns":
        import pyarrow as pa  # noqa: PLC0415 - only columns need it

        assert topic.spec.arrow is not None
        return TypedTopic(topic, ColumnsSchema(topic.spec.name, pa.ipc.read_schema(pa.py_buffer(topic.spec.arrow))))
    from penstock.schema import schema_from

    return TypedTopic(topic, schema_from(description))
