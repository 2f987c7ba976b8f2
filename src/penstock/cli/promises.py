"""What each edge of an app promises: how often an event takes effect, what it survives, in which order it comes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import msgspec

from penstock.log.opening import file_system
from penstock.observe.health import MEMORY_FILE_SYSTEMS

if TYPE_CHECKING:
    from penstock.app.app import App
    from penstock.app.declared import TopicHandle

Processing = Literal["atomic", "effectively-once", "at-least-once"]
_WEAKEST: tuple[Processing, ...] = ("at-least-once", "effectively-once", "atomic")
AT_LEAST_ONCE = "what a handler does outside of the log (a call, a mail) may happen again after a crash"


class Edge(msgspec.Struct, frozen=True):
    """One way that events take. `why` says what the level of processing rests on."""

    start: str
    end: str
    by: str
    processing: Processing
    durability: str
    order: str
    why: str


class Promises(msgspec.Struct, frozen=True):
    """The edges of an app; its own level is the weakest along them."""

    app: str
    log: str
    processing: Processing
    durability: str
    edges: list[Edge]
    durability_why: str = ""


def promises(app: App, probed: tuple[str, str] | None = None) -> Promises:
    """What the app promises where it is to run; `probed` is what a look at its log has found, level and reason."""
    durability, why = probed or (_durability(app), "the log is not there yet: as its file system lets it be")
    if app.durability != "full":
        durability, why = "D1", f'the program asks for durability="{app.durability}": commits are not synced'
    edges = list(_edges(app, durability))
    weakest = min((_WEAKEST.index(edge.processing) for edge in edges), default=len(_WEAKEST) - 1)
    return Promises(app.name, str(app.directory), _WEAKEST[weakest], durability, edges, why)


def _durability(app: App) -> str:
    """D2 outlives a power loss of the disk; D1 the death of the process only."""
    existing = next(path for path in (app.directory, *app.directory.parents) if path.exists())
    in_memory = file_system(existing) in MEMORY_FILE_SYSTEMS
    return "D2" if app.durability == "full" and not in_memory else "D1"


def _edges(app: App, durability: str) -> Iterator[Edge]:
    for source in app.sources.values():
        why = "the position read is committed with the events, under the source's own sequence"
        yield Edge(type(source.spec).__name__, source.into.name, f"source {source.name}", "effectively-once",
                   durability, _order(source.into), why)  # fmt: skip
    for handled in app.handlers.values():
        name = handled.handler.name
        end = f"{name}.dead" if handled.into is None else f"{handled.into.name}, {name}.dead"
        why = f"results, dead letters and progress are one commit; {AT_LEAST_ONCE}"
        yield Edge(handled.source.name, end, f"handler {name}", "atomic", durability, _order(handled.source), why)
    for flowed in app.flows.values():
        name = flowed.spec.name
        start = flowed.source if isinstance(flowed.source, str) else flowed.source.name
        end = name if flowed.into is None else flowed.into.name
        order = "per key" if isinstance(flowed.source, str) else _order(flowed.source)
        why = "results, state and progress are one commit"
        yield Edge(start, end, f"flow {name}", "atomic", durability, order, why)
        for sink in flowed.sinks:
            why = "the target keeps the offset in its own commit"
            target = type(sink.config).__name__
            yield Edge(end, target, f"sink {sink.name}", "effectively-once", durability, order, why)


def _order(topic: TopicHandle[object]) -> str:
    return "per partition" if topic.spec.key is None else "per key"
