"""A watchdog over handlers: it names the event at which a call takes too long, also when that blocks the event loop.

It also ends runs of calls that have become slow: the loop cannot, while it is held.
Nothing is done for it per event: it reads the attempts slots, which are written anyway, from a thread of its own. How
long a call takes is known to one look.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from penstock.system.looking import Place, coroutine_places, thread_places
from penstock.system.ports import Clock
from penstock.telemetry import emit

LOOK_EVERY_S = 1.0
PLACES_MAX = 12
"""Of the calls in which a handler is, the innermost so many are told."""
_ENGINE = "penstock.engine."
_CALLING = "penstock.engine.calling"


class Hand(msgspec.Struct, frozen=True):
    """An event that is being handled. `call` is another one for each call; `coroutine` is what is awaited, if any."""

    call: Hashable
    partition: int
    offset: int
    coroutine: Any = None


class Watched(Protocol):
    """What handlers show to the watchdog. Read from its thread."""

    name: str
    topic: str
    warn_s: float | None
    """How long a call may take before it is told of; None: any time."""

    def in_hand(self) -> Sequence[Hand]:
        """The events that are being handled now, or were a moment ago."""
        ...

    def hurry(self, now_s: float) -> None:
        """End a run of calls that goes on for long behind the event at hand."""
        ...


class _Seen(msgspec.Struct):
    since_s: float
    due_s: float
    hand: Hand


class Watchdog:
    """See the module. `look` is called from one thread; `thread` is the one that handlers run in."""

    def __init__(self, watched: Sequence[Watched], clock: Clock, *, thread: int) -> None:
        self._watched = watched
        self._clock = clock
        self._thread = thread
        self._seen: dict[tuple[int, Hashable], _Seen] = {}

    def look(self) -> None:
        """Tell of every call that has taken too long, and again after twice as long; end runs of calls that go on."""
        now_s = self._clock.monotonic_s()
        there: dict[tuple[int, Hashable], _Seen] = {}
        for number, watched in enumerate(self._watched):
            watched.hurry(now_s)
            if watched.warn_s is None:
                continue
            for hand in watched.in_hand():
                key = (number, hand.call)
                seen = self._seen.get(key) or _Seen(now_s, watched.warn_s, hand)
                there[key] = seen
                if now_s - seen.since_s >= seen.due_s:
                    self._tell(watched, hand, now_s - seen.since_s, first=seen.due_s == watched.warn_s)
                    while seen.due_s <= now_s - seen.since_s:
                        seen.due_s *= 2
        for (number, call), seen in self._seen.items():
            watched = self._watched[number]
            if (number, call) not in there and watched.warn_s is not None and seen.due_s > watched.warn_s:
                _say(logging.INFO, "a handler has gone on", watched, seen.hand, seconds=now_s - seen.since_s, told={})
        self._seen = there

    def _tell(self, watched: Watched, hand: Hand, seconds: float, *, first: bool) -> None:
        if first:
            emit.count("penstock_handler_slow_calls_total", group=watched.name)
        places = _of_handler(coroutine_places(hand.coroutine))
        told = {"waits_at": _text(places)} if places else {}
        running = thread_places(self._thread)
        inside = [index for index, place in enumerate(running) if place.module == _CALLING]
        if inside:  # else the loop is free, and what is called waits for something
            told["runs_at"] = _text(_of_handler(running[inside[-1] :]))
        _say(logging.WARNING, "a handler has not come back from one event", watched, hand, seconds=seconds, told=told)


def _say(level: int, message: str, watched: Watched, hand: Hand, *, seconds: float, told: Mapping[str, str]) -> None:
    event = f"{watched.topic}/{hand.partition}/{hand.offset}"
    emit.log(level, message, group=watched.name, event=event, seconds=round(seconds), **told)


def _of_handler(places: Sequence[Place]) -> list[Place]:
    return [place for place in places if not place.module.startswith(_ENGINE)]


def _text(places: Sequence[Place]) -> str:
    left_out = ["…"] if len(places) > PLACES_MAX else []
    return " > ".join([*left_out, *(place.text for place in places[-PLACES_MAX:])])
