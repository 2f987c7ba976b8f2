"""An event as it was when it was handed over: what is changed afterwards is not what was sent, or returned."""

from __future__ import annotations

from typing import Any

import msgspec

from penstock.channel.typed import TypedTopic
from penstock.errors import PermanentError
from penstock.event.envelope import NewEvent


class Sealed(msgspec.Struct, gc=False):
    """Its bytes, and its envelope when it came in one; or why it has none. `beside` is what its headers count."""

    body: bytes
    event: NewEvent | None = None
    refused: str = ""
    beside: int = 0

    def __len__(self) -> int:
        return len(self.body) + self.beside


def seal(topic: TypedTopic[Any], event: Any) -> Sealed:
    """Encode an event; one that cannot be encoded is refused."""
    try:
        if type(event) is not NewEvent:
            return Sealed(topic.encode(event))
        topic.check_envelope(event)
        return enveloped(topic.encode(event.data), event)
    except (PermanentError, TypeError, ValueError) as exc:
        return Sealed(b"", None, str(exc))


def enveloped(body: bytes, event: NewEvent) -> Sealed:
    """These bytes, and the envelope they come in, with headers of its own."""
    if not event.headers:
        return Sealed(body, event)
    headers = dict(event.headers)
    size = sum(len(name) + len(text) for name, text in headers.items())
    return Sealed(body, msgspec.structs.replace(event, headers=headers), beside=size)
