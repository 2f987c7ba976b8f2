"""Calling a user's handler over many events: tight loops, one slot store per event, nothing built per event."""

from __future__ import annotations

import asyncio
import inspect
from array import array
from collections.abc import Awaitable, Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from typing import Any, Protocol

import msgspec

from penstock.errors import ConfigError, Reject, TransientError


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


def call_sync(
    handler: Callable[[Any], Any],
    events: Iterable[tuple[int, Any]],
    words: memoryview,
    *,
    out: list[Any],
    causes: list[int],
    rejected: list[tuple[int, Reject]],
) -> Raised | None:
    """Call the handler on each event of `events`.

    Args:
        handler: takes one event.
        events: offsets and events, consumed as far as the call gets.
        words: the attempts slot; `words[1]` is set to the event's offset before each call.
        out: results that are not None are appended here,
        causes: and the offsets of their events here.
        rejected: offsets of events that were rejected, with the decision: the next event is called all the same.

    Returns:
        What was raised, None when nothing was.
    """
    plain: type | None = None
    for offset, event in events:
        words[1] = offset
        try:
            result = handler(event)
            if result is not None and type(result) is not plain:
                plain, result = _settled(result)
        except Reject as exc:
            rejected.append((offset, exc.with_traceback(None)))
            continue
        except BaseException as exc:  # a user's handler may raise anything
            if not is_outcome(exc):
                raise
            return Raised(offset, exc)
        if result is not None:
            out.append(result)
            causes.append(offset)
    return None


async def call_async(
    handler: Callable[[Any], Awaitable[Any]],
    events: Iterable[tuple[int, Any]],
    words: memoryview,
    *,
    out: list[Any],
    causes: list[int],
    rejected: list[tuple[int, Reject]],
) -> Raised | None:
    """`call_sync` for a handler that is awaited, one event after the other."""
    plain: type | None = None
    for offset, event in events:
        words[1] = offset
        try:
            result = await handler(event)
            if result is not None and type(result) is not plain:
                plain, result = _settled(result)
        except Reject as exc:
            rejected.append((offset, exc.with_traceback(None)))
            continue
        except BaseException as exc:
            if not is_outcome(exc):
                raise
            return Raised(offset, exc)
        if result is not None:
            out.append(result)
            causes.append(offset)
    return None


def _settled(result: Any) -> tuple[type | None, Any]:
    """What a handler returned, with a generator run to its end: it may still raise, and that belongs to its event.

    The type comes along when results of it need no such look.
    """
    return (None, list(result)) if isinstance(result, Iterator) else (type(result), result)


class Flat(msgspec.Struct, frozen=True):
    """Single results; the offset of each one's event; each one's number among those of its event; their types.

    `numbers` is None when no event gave more than one.
    """

    results: list[Any]
    causes: array[int]
    numbers: array[int] | None
    types: AbstractSet[type]


def flatten(out: list[Any], causes: list[int]) -> Flat:
    """Spread handlers' lists and tuples into single results."""
    types = set(map(type, out))
    if not any(issubclass(kind, list | tuple) for kind in types):
        return Flat(out, array("q", causes), None, types)
    results: list[Any] = []
    offsets = array("q")
    numbers = array("q")
    for result, cause in zip(out, causes, strict=True):
        many = result if isinstance(result, list | tuple) else (result,)
        for number, one in enumerate(one for one in many if one is not None):
            results.append(one)
            offsets.append(cause)
            numbers.append(number)
    return Flat(results, offsets, numbers if any(numbers) else None, set(map(type, results)))
