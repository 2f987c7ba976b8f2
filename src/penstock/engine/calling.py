"""Calling a user's handler over many events: tight loops, one slot store per event, results made bytes at once."""

from __future__ import annotations

import asyncio
import inspect
from array import array
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, cast

import msgspec

from penstock.channel.api import TOGETHER_BYTES_MAX
from penstock.channel.sealed import Sealed, seal
from penstock.channel.typed import TypedTopic
from penstock.errors import ConfigError, PermanentError, Reject, TransientError
from penstock.event.envelope import NewEvent

RUN_BYTES_MAX = 64_000_000
"""Results of one run of calls past it are let go, and their events handled again in the next: nothing was settled."""
EVENT_RESULTS_BYTES_MAX = TOGETHER_BYTES_MAX - RUN_BYTES_MAX - 32_000_000
"""What one event may give, so that a step with what was gathered before it is never too large."""
RESULT_BYTES_MIN = 64
"""What a result counts at least while they are gathered: small ones, and empty ones, take so much memory, too."""
TOO_MUCH = (
    f"the results of one event are more than {EVENT_RESULTS_BYTES_MAX} bytes (each counts {RESULT_BYTES_MIN} or more); "
    "return fewer"
)


class OutputRefused(PermanentError):
    """What a handler returned cannot be published."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"what the handler returned cannot be published: {reason}")


class NotCalled(TransientError):
    """The handler could not be called, which says nothing of the event: the group pauses, and begins again."""


class Calls(Protocol):
    """Events that the handler is to be called on, in order, with their offsets. Another thread may cut them short."""

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """Those that are left."""
        ...

    def cut_short(self) -> None:
        """End behind the event at hand, but not before one has been called."""
        ...

    def uncalled(self, last: int) -> int | None:
        """From which offset on nothing was called, when they were cut short; `last` is that of the last call."""
        ...


class Raised(msgspec.Struct):
    """The handler raised on the event at `offset`; the iterator stands behind it."""

    offset: int
    error: BaseException | None

    def take(self) -> BaseException:
        """The error, which is nobody else's from now on.

        Its traceback leads to the frames of the calls that hand `self` on: together they would be kept, and with them
        the events of the call, until the collector of cycles finds them.
        """
        error, self.error = self.error, None
        assert error is not None
        return error


def is_outcome(error: BaseException) -> bool:
    """Whether what was raised is about the event, and not about the process or the task that runs user code.

    A cancellation that nobody asked this task for comes from inside the handler: it is the handler's own mistake.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() == 0
    return not isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit | NotCalled)


class Shape(msgspec.Struct, frozen=True):
    """How a handler wants to be called."""

    is_async: bool
    wants_context: bool


def shape_of(function: Callable[..., Any], *, name: str) -> Shape:
    """Read a handler's signature.

    Raises:
        ConfigError: it does not take one event (and, if it likes, a context).
    """
    path = f"handlers.{name}"
    called = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
    if inspect.isasyncgenfunction(function) or inspect.isasyncgenfunction(called):
        msg = f"{function!r} is an async generator; return a list instead of yielding"
        raise ConfigError(msg, path=path)
    everything = list(inspect.signature(function).parameters.values())
    needed = [p.name for p in everything if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if needed:
        msg = f"{function!r} needs {', '.join(needed)} by keyword; give them defaults, or use functools.partial"
        raise ConfigError(msg, path=path)
    parameters = [
        p
        for p in everything
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        and (p.default is p.empty or p.name in {"ctx", "context"})
    ]
    if len(parameters) not in (1, 2):
        msg = f"{function!r} takes {len(parameters)} positional parameters; expected (event) or (event, ctx)"
        raise ConfigError(msg, path=path)
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)
    return Shape(is_async, len(parameters) == 2)  # noqa: PLR2004


_SAYS_NOTHING = ("None", "Any", "object", "NoReturn", "Never")


def returned_by(function: Callable[..., Any]) -> str:
    """What a handler gives, if its annotation says that it gives something; else empty."""
    found = inspect.signature(function).return_annotation
    if found is inspect.Signature.empty:
        return ""
    text = found if isinstance(found, str) else inspect.formatannotation(found)
    return "" if text.removeprefix("typing.") in _SAYS_NOTHING else text


def call_sync(
    handler: Callable[[Any], Any],
    events: Iterable[tuple[int, Any]],
    words: memoryview,
    gave: Gave,
) -> Raised | None:
    """Call the handler on each event of `events`.

    Args:
        handler: takes one event.
        events: offsets and events, consumed as far as the call gets.
        words: the attempts slot; `words[1]` is set to the event's offset before each call.
        gave: takes what they give.

    Returns:
        What was raised, None when nothing was.
    """
    plain: type | None = None
    out, causes, sealing = gave.out, gave.causes, gave.sealing
    quick = sealing.quick
    for offset, event in events:
        words[1] = offset
        try:
            result = handler(event)
            if result is not None and type(result) is not plain:
                plain, result = sealing.settled(result)
        except Reject as exc:
            gave.rejected.append((offset, exc.with_traceback(None)))
            continue
        except BaseException as exc:  # a user's handler may raise anything
            if not is_outcome(exc):
                raise
            if gave.goes_on is not None and gave.goes_on(offset, exc):
                continue
            return Raised(offset, exc)
        if result is None:
            continue
        try:
            out.append(quick(result) if plain is not None else result)
        except Exception:  # noqa: BLE001 - what was returned may be anything; why it has no bytes is looked at
            out.append(sealing.one(result))
        causes.append(offset)
    return None


async def call_async(
    handler: Callable[[Any], Awaitable[Any]],
    events: Iterable[tuple[int, Any]],
    words: memoryview,
    gave: Gave,
) -> Raised | None:
    """`call_sync` for a handler that is awaited, one event after the other."""
    plain: type | None = None
    out, causes, sealing = gave.out, gave.causes, gave.sealing
    quick = sealing.quick
    for offset, event in events:
        words[1] = offset
        try:
            result = await handler(event)
            if result is not None and type(result) is not plain:
                plain, result = sealing.settled(result)
        except Reject as exc:
            gave.rejected.append((offset, exc.with_traceback(None)))
            continue
        except BaseException as exc:
            if not is_outcome(exc):
                raise
            if gave.goes_on is not None and gave.goes_on(offset, exc):
                continue
            return Raised(offset, exc)
        if result is None:
            continue
        try:
            out.append(quick(result) if plain is not None else result)
        except Exception:  # noqa: BLE001 - what was returned may be anything; why it has no bytes is looked at
            out.append(sealing.one(result))
        causes.append(offset)
    return None


class Sealing:
    """Makes bytes of results for the topic `into`; None: they are only counted.

    `quick` is for plain ones, and raises whatever an encoder raises.
    """

    def __init__(self, into: TypedTopic[Any] | None) -> None:
        self._into = into
        self.quick: Callable[[Any], bytes] = _no_bytes if into is None else into.encode_quick

    def one(self, result: Any) -> Sealed:
        """One result, in an envelope or not, or why it cannot be one; what is sealed already stays as it is."""
        if type(result) is Sealed:
            return result
        if self._into is None:
            return Sealed(b"")
        if type(result) is NewEvent and result.id is not None:
            return Sealed(b"", None, ID_REFUSED.format(result.id))
        return seal(self._into, result)

    def all(self, result: Any) -> list[Sealed]:
        """What a handler returned, one by one, without None.

        A generator runs to its end: each result is taken as it is when it is given, for it may be changed for the next
        one. It may still raise, and that belongs to its event.

        Raises:
            OutputRefused: it gives more than a step can hold; it may never end.
        """
        several: Iterable[Any] = result if isinstance(result, list | tuple | Iterator) else (result,)
        given: list[Sealed] = []
        size = 0
        for one in several:
            if one is not None:
                given.append(self.one(one))
                size += max(len(given[-1]), RESULT_BYTES_MIN)
                if size > EVENT_RESULTS_BYTES_MAX:
                    raise OutputRefused(TOO_MUCH)
        return given

    def settled(self, result: Any) -> tuple[type | None, Any]:
        """What a handler returned; with its type when results of it are single ones, and plain, else as `all` of it."""
        if type(result) is NewEvent or isinstance(result, list | tuple | Iterator):
            return None, self.all(result)
        return type(result), result


ID_REFUSED = (
    "id: {!r}; a result's id is made from its event's, and is the same whenever that is handled: leave it out, and put "
    "yours into the data or a header"
)


def _no_bytes(_result: Any) -> bytes:
    return b""


class Gave(msgspec.Struct):
    """What a run of calls gave. The event of a result that is not None was at the offset in `causes`.

    `out` has results as bytes, at once: the handler may change afterwards what it has returned. One that is more than
    its bytes, or has none, is sealed; several of one event are a list. `rejected` are events that were refused, with
    the decision: the next one is called all the same. `goes_on` takes what else is raised, and says whether it is, too.
    """

    sealing: Sealing
    out: list[bytes | Sealed | list[Sealed]] = []
    causes: list[int] = []
    rejected: list[tuple[int, Reject]] = []
    goes_on: Callable[[int, BaseException], bool] | None = None

    def add(self, other: Gave) -> None:
        """Take what another run gave, behind one's own."""
        self.out += other.out
        self.causes += other.causes
        self.rejected += other.rejected


class Flat(msgspec.Struct, frozen=True):
    """Single results; the offset of each one's event; each one's number among those of its event.

    `numbers` is None when no event gave more than one; `sealed` has those that are more than their bytes, by index.
    """

    bodies: list[bytes]
    causes: array[int]
    numbers: array[int] | None
    sealed: Mapping[int, Sealed]


def flatten(gave: Gave) -> Flat:
    """What the calls gave as single results."""
    out, causes = gave.out, gave.causes
    if set(map(type, out)) == {bytes}:
        return Flat(cast("list[bytes]", out[:]), array("q", causes), None, {})
    bodies: list[bytes] = []
    offsets, numbers = array("q"), array("q")
    sealed: dict[int, Sealed] = {}
    for given, cause in zip(out, causes, strict=True):
        for number, one in enumerate(given if isinstance(given, list) else (given,)):
            if isinstance(one, Sealed):
                if one.event is not None or one.refused:
                    sealed[len(bodies)] = one
                bodies.append(one.body)
            else:
                bodies.append(one)
            offsets.append(cause)
            numbers.append(number)
    return Flat(bodies, offsets, numbers if any(numbers) else None, sealed)
