"""The topics of a log with the types it has recorded of them, without the programs that declared them."""

from __future__ import annotations

from typing import Any

from penstock.channel.api import Topic
from penstock.channel.typed import TypedTopic
from penstock.delivery.deadletter import SUFFIX
from penstock.schema import ColumnsSchema, RecordedSchema, Schema, schema_from_description


def is_dead_letters(topic: Topic) -> bool:
    """Whether the topic holds a group's dead letters."""
    return topic.spec.internal and topic.spec.schema is None and topic.spec.name.endswith(SUFFIX)


def typed(topic: Topic) -> TypedTopic[Any]:
    """The topic with its recorded type: events are objects with its fields, or dicts where there are only columns."""
    if topic.spec.schema is None:
        return TypedTopic(topic, None)
    found = schema_from_description(dict(topic.spec.schema), topic.spec.arrow)
    if isinstance(found, RecordedSchema):
        return TypedTopic(topic, Schema(found.type, found.shape, found.name))
    return TypedTopic(topic, ColumnsSchema(topic.spec.name, found.arrow))
