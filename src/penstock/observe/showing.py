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
        return topic in self._hidings or self._is_closed(topic)

    def event(self, event: RecordedEvent) -> RecordedEvent:
        """The event as it is shown: its data as JSON has it where anything is hidden."""
        topic = self._topics[event.topic]
        if is_dead_letters(topic):  # a copy of its event
            body, key = self._copy(event.headers.get("topic", ""), event.data, event.key)
            return msgspec.structs.replace(event, data=body, key=key)
        if self._is_closed(event.topic):
            hidden = HIDDEN.encode()
            data = hidden if isinstance(event.data, bytes) else HIDDEN
            return msgspec.structs.replace(event, data=data, key=event.key and hidden)
        hiding = self._hidings.get(event.topic)
        if hiding is None:
            return event
        known: Any = msgspec.to_builtins(event.data, str_keys=True)
        return msgspec.structs.replace(event, data=hiding.shown(known), key=self._key(event.topic, event.key))

    def letter(self, found: Found) -> Found:
        """The letter as it is shown: texts are as they lie in the log, which quotes nothing personal in them."""
        letter = found.letter
        body, key = self._copy(letter.topic, letter.body, letter.key)
        return msgspec.structs.replace(found, letter=msgspec.structs.replace(letter, body=body, key=key))

    def _is_closed(self, topic: str) -> bool:
        """Whether it may hold anybody's events, and says not what of them is personal: the engine's own, or gone."""
        return bool(self._hidings) and (topic not in self._topics or self._topics[topic].spec.internal)

    def _copy(self, source: str, body: bytes, key: bytes | None) -> tuple[bytes, bytes | None]:
        """Bytes and key of an event of `source`."""
        hiding = self._hidings.get(source)
        if hiding is not None:
            return hiding.shown_body(body), self._key(source, key)
        return (HIDDEN.encode(), key and HIDDEN.encode()) if self._is_closed(source) else (body, key)

    def _key(self, topic: str, key: bytes | None) -> bytes | None:
        field = self._topics[topic].spec.key
        covered = key is not None and field is not None and self._hidings[topic].covers(field)
        return HIDDEN.encode() if covered else key


__all__ = ["Showing"]
