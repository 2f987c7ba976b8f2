"""Events and dead letters as people are shown them: what the topics' types call personal is hidden."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from penstock.channel.api import Topic
from penstock.event.envelope import RecordedEvent
from penstock.observe.letters import Found
from penstock.observe.reading import is_dead_letters, typed
from penstock.schema.hiding import HIDDEN, Hiding


class Showing:
    """Hides, by what the log has recorded of each topic's type; with `reveal` nothing."""

    def __init__(self, topics: Mapping[str, Topic], *, reveal: bool = False) -> None:
        found = {} if reveal else {name: typed(topic).hiding for name, topic in topics.items()}
        self._topics = topics
        self._hidings: dict[str, Hiding] = {name: hiding for name, hiding in found.items() if hiding is not None}

    def hides(self, topic: str) -> bool:
        """Whether anything of this topic's events is hidden."""
        return topic in self._hidings

    def event(self, event: RecordedEvent) -> RecordedEvent:
        """The event as it is shown: its data as JSON has it where anything is hidden."""
        topic = self._topics[event.topic]
        if topic.spec.internal and topic.spec.schema is None:
            return self._internal(event, topic)
        hiding = self._hidings.get(event.topic)
        if hiding is None:
            return event
        data: Any = msgspec.to_builtins(event.data, str_keys=True)
        return msgspec.structs.replace(event, data=hiding.shown(data), key=self._key(event.topic, event.key))

    def letter(self, found: Found) -> Found:
        """The letter as it is shown: texts are as they lie in the log, which quotes nothing personal in them."""
        letter = found.letter
        hiding = self._hidings.get(letter.topic)
        if hiding is None:
            return found
        body, key = hiding.shown_body(letter.body), self._key(letter.topic, letter.key)
        return msgspec.structs.replace(found, letter=msgspec.structs.replace(letter, body=body, key=key))

    def _internal(self, event: RecordedEvent, topic: Topic) -> RecordedEvent:
        """A dead letter is a copy of its event. What else the engine keeps as bytes may hold anybody's events."""
        source = event.headers.get("topic", "") if is_dead_letters(topic) else ""
        if source in self._hidings:
            body = self._hidings[source].shown_body(event.data)
            return msgspec.structs.replace(event, data=body, key=self._key(source, event.key))
        if source or not self._hidings:
            return event
        return msgspec.structs.replace(event, data=HIDDEN.encode())

    def _key(self, topic: str, key: bytes | None) -> bytes | None:
        field = self._topics[topic].spec.key
        covered = key is not None and field is not None and self._hidings[topic].covers(field)
        return HIDDEN.encode() if covered else key


__all__ = ["Showing"]
