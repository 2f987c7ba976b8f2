"""A call of a handler in another process, as values: the event there, what came of it back."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import msgspec

from penstock.channel.sealed import Sealed, enveloped
from penstock.channel.typed import TypedTopic
from penstock.delivery.deadletter import storable
from penstock.engine.context import Context, Takes
from penstock.engine.results import stack_of
from penstock.errors import Reject, Rejected
from penstock.event.batch import Delivered, Rows
from penstock.event.beside import said
from penstock.event.envelope import NewEvent
from penstock.event.partition import canonical_key


class Call(msgspec.Struct, frozen=True, array_like=True):
    """One event, with what a `Context` tells of it."""

    topic: str
    partition: int
    offset: int
    body: bytes
    attributes: Mapping[str, Any]
    recorded_us: int
    schema_id: int
    origin: str
    base: int
    attempt: int
    redriven: int

    @classmethod
    def of(cls, body: bytes, delivered: Delivered, context: Context) -> Call:
        """The call that handles this event; it is one of `delivered`."""
        index = context.offset - delivered.first
        attributes = {name: values[index] for name, values in delivered.payload.attributes.items()}
        place = (delivered.topic, delivered.partition, context.offset)
        origin = (delivered.recorded_us, delivered.schema_id, delivered.origin, delivered.base)
        return cls(*place, body, attributes, *origin, context.attempt, context.redriven)

    def context(self, topic: TypedTopic[Any], marks: Takes) -> Context:
        """What the handler may ask about its event."""
        payload = Rows.of([self.body], {name: [value] for name, value in self.attributes.items()})
        delivered = Delivered(
            topic=self.topic,
            partition=self.partition,
            first=self.offset,
            count=1,
            payload=payload,
            recorded_us=self.recorded_us,
            schema_id=self.schema_id,
            origin=self.origin,
            base=self.base,
        )
        return Context(delivered, self.offset, self.attempt, topic, redriven=self.redriven, marks=marks)


class Given(msgspec.Struct, frozen=True, tag="given"):
    """The handler's results, encoded; how many there were where there is no topic for them.

    `beside` has what the handler put around some of them, by their indexes.
    """

    bodies: Sequence[bytes]
    beside: Mapping[int, Mapping[str, Any]] = {}

    @classmethod
    def of(cls, sealed: Sequence[Sealed]) -> Given:
        """What the handler returned.

        Raises:
            Rejected: some of it cannot be published.
        """
        for one in sealed:
            if one.refused:
                raise Rejected(one.refused)
        beside = {index: _beside(one.event) for index, one in enumerate(sealed) if one.event is not None}
        return cls([one.body for one in sealed], beside)

    def results(self) -> list[Sealed]:
        """The same where they are published."""
        found = [Sealed(body) for body in self.bodies]
        for index, attributes in self.beside.items():
            found[index] = enveloped(found[index].body, NewEvent(data=None, **attributes))
        return found


class Asks(msgspec.Struct, frozen=True, tag="asks"):
    """The handler calls `Context.once`; it waits for the answer."""

    token: bytes


class Raised(msgspec.Struct, frozen=True, tag="raised"):
    """What the handler raised: its class, what it says, where it was raised."""

    module: str
    name: str
    text: str
    stack: str

    @classmethod
    def of(cls, error: BaseException, text: str) -> Raised:
        """Noted where it was raised."""
        kind = type(error)
        return cls(*map(storable, (kind.__module__, kind.__qualname__, text, stack_of(error))))

    def error(self, program: Mapping[str, str]) -> Exception:
        """An exception that is one of that class where this process knows it, and says the same.

        Args:
            program: what modules are called here that have another name there.
        """
        kind = _class(program.get(self.module, self.module), self.name)
        name = self.name.rpartition(".")[2]
        try:
            error = _told_as(kind, name)()
        except Exception:  # noqa: BLE001 - it is a class of the user's, and may refuse to be derived from
            error = _told_as(Exception, name)()
        error.__dict__["told"] = self.text
        if not issubclass(kind, Reject):
            BaseException.__setattr__(error, "__cause__", Elsewhere(self.stack))
        return error


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The process has loaded the program, which it calls by this name."""

    module: str


class Unable(msgspec.Struct, frozen=True, tag="unable"):
    """It cannot: why."""

    reason: str


Said = Ready | Unable | Given | Asks | Raised


class Elsewhere(Exception):
    """The stack of another process."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def _class(module: str, name: str) -> type[Exception]:
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    known = isinstance(found, type) and issubclass(found, Exception)
    # Out of a coroutine, where it is raised again, this one comes as another error, of another text.
    return found if known and not issubclass(found, StopIteration) else Exception


@cache
def _told_as(kind: type[Exception], name: str) -> type[Exception]:
    """A class of exceptions that are `kind`, and say what they were told to."""
    builtin: Any = next(base for base in kind.__mro__ if base.__module__ == "builtins")

    def new(cls: type[Exception]) -> Exception:
        if issubclass(cls, ExceptionGroup):  # never empty
            return builtin.__new__(cls, "elsewhere", [Exception("see its text")])
        return builtin.__new__(cls)

    def init(self: Any) -> None:
        pass

    def text(self: Any) -> str:
        return self.__dict__["told"]

    return type(name, (kind,), {"__module__": kind.__module__, "__new__": new, "__init__": init, "__str__": text})


def _beside(event: NewEvent) -> dict[str, Any]:
    return {name: canonical_key(value) if name == "key" else value for name, value in said(event)}


encode_call = msgspec.msgpack.Encoder().encode
decode_call = msgspec.msgpack.Decoder(Call).decode
encode_said = msgspec.msgpack.Encoder().encode
decode_said = msgspec.msgpack.Decoder(Said).decode
