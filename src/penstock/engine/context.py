"""What a handler may ask about its event, and who an event is: built when asked for, never per event otherwise."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import accumulate
from operator import attrgetter
from typing import Any, Protocol
from uuid import UUID, uuid5

from penstock.channel.typed import TypedTopic
from penstock.delivery.once import Marks
from penstock.event.batch import Columns, Delivered, Rows
from penstock.event.envelope import RecordedEvent
from penstock.event.partition import canonical_key
from penstock.schema.hiding import Hide, as_it_is

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAMESPACE = UUID("6f1d7f0a-4c52-5f0e-9a3b-2d7c1e5b8a90")


def moment(us: int) -> datetime:
    """A UTC time from microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=us)


def step_of(origin: str) -> str:
    """``group:topic:partition`` of a step's origin: not the floor it began at, which another run may set elsewhere."""
    return origin.rpartition(":")[0]


class Identity:
    """Ids, keys and bytes of a batch's events, by index."""

    def __init__(self, delivered: Delivered, topic: TypedTopic[Any]) -> None:
        self.delivered = delivered
        self._topic = topic

    def attribute(self, name: str, index: int) -> Any:
        """A stored attribute; None when it is unset."""
        values = self.delivered.payload.attributes.get(name)
        return None if values is None else values[index]

    def id(self, index: int) -> str:
        """The event's own id, or the one derived from where it came from; the same whenever it is asked for."""
        own = self.attribute("id", index)
        if own is not None:
            return own
        delivered = self.delivered
        cause = self.attribute("cause", index)
        if cause is not None:
            number = self.attribute("number", index) or 0
            return str(uuid5(_NAMESPACE, f"{step_of(delivered.origin)}:{cause}:{delivered.topic}:{number}"))
        position = delivered.first + index - delivered.base
        return f"{delivered.origin}/{delivered.topic}/{delivered.partition}/{position}"

    def body(self, index: int) -> bytes:
        """The event's original bytes; for columns, the JSON of the row."""
        payload = self.delivered.payload
        if isinstance(payload, Columns):
            assert self._topic.schema is not None
            return self._topic.schema.columns_to_lines(payload.table.slice(index, 1))[0]
        start = self._starts[index] + index
        return payload.body[start : start + payload.lengths[index]]

    def hide(self, index: int) -> Hide:
        """What takes the personal values of the event out of a text about it."""
        return as_it_is if self._topic.hiding is None else self._topic.hide(self.body(index))

    @cached_property
    def _starts(self) -> list[int]:
        """How many bytes of events lie before each event of a batch of rows; the newlines between them come on top."""
        payload = self.delivered.payload
        assert isinstance(payload, Rows)
        return list(accumulate(payload.lengths, initial=0))

    def key(self, index: int) -> bytes | None:
        """The event's key in canonical bytes; None when it has none."""
        stored = self.attribute("key", index)
        if stored is not None:
            return canonical_key(stored)
        field = self._topic.spec.key
        payload = self.delivered.payload
        if field is None:
            return None
        if isinstance(payload, Columns):
            return canonical_key(payload.table.column(field)[index].as_py())
        assert self._topic.schema is not None
        try:
            return canonical_key(attrgetter(field)(self._topic.schema.decode(self.body(index))))
        except Exception:  # noqa: BLE001 - an event that cannot be decoded has no key to show
            return None

    def data(self, index: int) -> Any:
        """The event as an object of the topic's type, as a dict where the topic exists only as columns, or as bytes."""
        payload, schema = self.delivered.payload, self._topic.schema
        if schema is None:
            return self.body(index)
        return (
            schema.from_columns(payload.table.slice(index, 1))[0]
            if isinstance(payload, Columns)
            else schema.decode(self.body(index))
        )

    def event(self, index: int) -> RecordedEvent:
        """The whole envelope of one event."""
        delivered, topic = self.delivered, self._topic
        data = self.data(index)
        time = self.attribute("time_us", index)
        if time is None and topic.spec.time is not None:
            time_value = data.get(topic.spec.time) if isinstance(data, dict) else attrgetter(topic.spec.time)(data)
        else:
            time_value = None if time is None else moment(time)
        cause = self.attribute("cause", index)
        return RecordedEvent(
            topic=delivered.topic,
            partition=delivered.partition,
            offset=delivered.first + index,
            id=self.id(index),
            source=self.attribute("source", index) or f"penstock/{re.split('[/:]', delivered.origin)[0]}",
            type=self.attribute("type", index) or (topic.schema.name if topic.schema is not None else delivered.topic),
            data=data,
            recorded_time=moment(delivered.recorded_us),
            time=time_value,
            key=self.key(index),
            subject=self.attribute("subject", index),
            dataschema=f"penstock:schema:{delivered.schema_id}" if delivered.schema_id else None,
            correlationid=self.attribute("correlationid", index),
            causationid=self.attribute("causationid", index)
            or (None if cause is None else "/".join([*step_of(delivered.origin).split(":")[1:], str(cause)])),
            traceparent=self.attribute("traceparent", index),
            tracestate=self.attribute("tracestate", index),
            headers=self.attribute("headers", index) or {},
        )


class TooLate(RuntimeError):
    """It is too late to take a token."""

    def __init__(self) -> None:
        super().__init__(
            "ctx.once after the handler has come back from its event, which no mark can belong to any more: call it "
            "before, and wait for the tasks and threads that do"
        )


class Takes(Protocol):
    """What takes tokens; see `Marks`."""

    def take(self, token: str | bytes, offset: int) -> bool:
        """Whether the event at `offset` is the first with this token; then it holds the token."""
        ...


class InHand:
    """Takes tokens for an event of `partition` while the words of `hand` say that it is handled, and not after."""

    def __init__(self, marks: Marks, hand: memoryview, partition: int) -> None:
        self._marks = marks
        self._hand = hand
        self._said = partition + 1

    def take(self, token: str | bytes, offset: int) -> bool:
        """See `Takes`."""
        try:
            handled = (self._hand[0], self._hand[1]) == (self._said, offset)
        except ValueError:  # the slot is closed
            handled = False
        if not handled:
            raise TooLate
        return self._marks.take(token, offset)


class Context:
    """What a handler may ask about the event it is handling.

    `attempt` counts from 1. `redriven` says how often the event came back from the dead letters: later events of its
    key may have been handled before it, unless the handler's policy is *block*.
    """

    __slots__ = ("_delivered", "_marks", "_topic", "attempt", "offset", "redriven")

    def __init__(
        self,
        delivered: Delivered,
        offset: int,
        attempt: int,
        topic: TypedTopic[Any],
        *,
        redriven: int = 0,
        marks: Takes | None = None,
    ) -> None:
        self._delivered = delivered
        self._topic = topic
        self.offset = offset
        self.attempt = attempt
        self.redriven = redriven
        self._marks = marks

    @property
    def delivered(self) -> Delivered:
        """The batch it came in, for the engine."""
        return self._delivered

    @property
    def topic(self) -> str:
        """The event's topic."""
        return self._delivered.topic

    @property
    def partition(self) -> int:
        """The event's partition."""
        return self._delivered.partition

    @property
    def id(self) -> str:
        """The event's id."""
        return Identity(self._delivered, self._topic).id(self.offset - self._delivered.first)

    @property
    def headers(self) -> Mapping[str, str]:
        """The event's headers; empty when it has none."""
        return Identity(self._delivered, self._topic).attribute("headers", self.offset - self._delivered.first) or {}

    @property
    def recorded_time(self) -> datetime:
        """When the log recorded it."""
        return moment(self._delivered.recorded_us)

    def once(self, token: str | bytes) -> bool:
        """Whether this group handles `token` in this partition for the first time; afterwards it is False.

        Guard with it what the event gives, where several events may ask for the same: the mark becomes permanent in the
        same step as the results, dead letters and progress of the event that got True. When that one fails, is timed
        out, is rejected, or the process dies, the mark is gone and the next one gets True: that event's next attempt,
        or another event with the token that comes before it. With ``concurrency=`` a token that an event still in
        flight holds is False for others, whatever becomes of that event.

        A mark is remembered for the ONCE_EVENTS (100,000) offsets of the partition that follow the event's own, and
        for no time. It says nothing about other partitions: events that share a token need one key. What the handler
        does elsewhere (a request, a mail) still happens at least once.

        Args:
            token: names the effect, such as an order's number; not empty. Text stands for its bytes in UTF-8.

        May be called while the event is handled, from the event loop's thread.

        Raises:
            TypeError, ValueError: an empty token, something else than text or bytes, or more than 100 for one event.
            RuntimeError: the handler has come back from the event; what it gave is settled, with the marks of then.
        """
        if self._marks is None:
            self._marks = Marks()
        return self._marks.take(token, self.offset)

    def event(self) -> RecordedEvent:
        """The whole envelope."""
        return Identity(self._delivered, self._topic).event(self.offset - self._delivered.first)
