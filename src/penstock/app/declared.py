"""What an app declares: topics, handlers, flows and sources, as values; nothing is opened here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar

import msgspec

from penstock.channel.api import TopicSpec
from penstock.delivery.retry import Retry
from penstock.engine.handler import HandlerSpec
from penstock.errors import ConfigError
from penstock.flow.builder import Flow
from penstock.flow.spec import FlowSpec
from penstock.log.connection import Durability
from penstock.system.leases import LEASE_S

if TYPE_CHECKING:
    from penstock.schema import Schema
    from penstock.sink.api import Sink

T = TypeVar("T")


class TopicHandle(Generic[T]):
    """A topic as a program declares it; what handlers, flows and clients name it by."""

    def __init__(self, spec: TopicSpec, schema: Schema[T] | None) -> None:
        self.spec = spec
        self.schema = schema

    @property
    def name(self) -> str:
        """The topic's name."""
        return self.spec.name

    def __repr__(self) -> str:
        return f"<topic {self.name}>"


AnyTopic = TopicHandle[Any] | str
"""A topic of the program, or its name."""


def topic_name(topic: AnyTopic) -> str:
    """The name of what a client publishes to.

    Raises:
        ConfigError: it is no topic.
    """
    if isinstance(topic, str):
        return topic
    if not isinstance(topic, TopicHandle):  # pyright: ignore[reportUnnecessaryIsInstance]
        msg = f"found {type(topic).__name__}; expected what app.topic(…) returned, or its name: publish(orders, order)"
        raise ConfigError(msg, path="client.topic")
    return topic.name


class SinkConfig(Protocol):
    """What a user says about a target, such as `parquet(…)`."""

    @property
    def needs(self) -> Sequence[str]:
        """Columns that the events must have."""
        ...

    def open(self) -> Sink:
        """The sink itself; the caller closes it."""
        ...


class SinkSpec(msgspec.Struct, frozen=True):
    """A sink as declared: its name is its group."""

    name: str
    config: Any


class Handled(msgspec.Struct, frozen=True):
    """A handler with the topics it stands between."""

    handler: HandlerSpec
    source: TopicHandle[Any]
    into: TopicHandle[Any] | None


class Sourced(msgspec.Struct, frozen=True):
    """A source (a `SourceSpec`) and the topic its events go to."""

    name: str
    spec: Any
    into: TopicHandle[Any]


class Flowed(msgspec.Struct):
    """A flow as it stands so far: its newest spec, what it reads, where its results go."""

    spec: FlowSpec
    source: TopicHandle[Any] | str
    base: Path
    into: TopicHandle[Any] | None = None
    retry: Retry | None = None
    sinks: list[SinkSpec] = msgspec.field(default_factory=list[SinkSpec])
    grouped: Sequence[str] = ()
    """Columns of a `by` that waits for its `agg`."""


class Program:
    """All that a program declares over one log, and where that log is; `App` is its face.

    `file` is the one that declares it, None at a prompt.
    """

    runs: ClassVar[bool] = True
    """Whether programs run here; not where one is loaded for its declarations alone."""

    def __init__(self, name: str, base: Path, directory: Path, durability: Durability) -> None:
        self.name = name
        self.file: Path | None = None
        self.base = base
        self.directory = directory
        self.durability: Durability = durability
        self.lease_s = LEASE_S
        self.topics: dict[str, TopicHandle[Any]] = {}
        self.handlers: dict[str, Handled] = {}
        self.flows: dict[str, Flowed] = {}
        self.sources: dict[str, Sourced] = {}


class AppFlow(Flow):
    """A flow of an app: every change is known to the app, so a flow counts without being assigned to anything."""

    def __init__(self, spec: FlowSpec, flowed: Flowed) -> None:
        super().__init__(spec)
        self._flowed = flowed

    @property
    def name(self) -> str:
        """The flow's name: its group, its state and the topic of its results."""
        return self.spec.name

    def _with(self, spec: FlowSpec) -> Self:
        path = f"flows.{spec.name}"
        if self._flowed.spec is not self.spec:
            msg = "a second branch of one flow; give it a name of its own with app.flow(…) on this flow"
            raise ConfigError(msg, path=path)
        if self._flowed.sinks or self._flowed.into is not None:
            msg = "an operator after to(…); put it before, or make a second flow on this flow"
            raise ConfigError(msg, path=path)
        self._flowed.spec = spec
        if spec.aggregate is not None:
            self._flowed.grouped = ()
        return type(self)(spec, self._flowed)

    def _grouped(self, keys: tuple[str, ...]) -> None:
        self._flowed.grouped = keys

    def to(self, output: SinkConfig | TopicHandle[Any], *, name: str = "") -> Self:
        """Send the results to a sink, or write them to a topic of your own; may be called several times.

        Args:
            output: `parquet(…)`, `duckdb_table(…)` or a topic (one at most; without one the results go to an internal
                topic with the flow's name).
            name: the sink's group; by default the flow's name and the sink's kind.
        """
        path = f"flows.{self.spec.name}.to"
        if isinstance(output, TopicHandle):
            if self._flowed.into is not None:
                msg = f"a second topic ({output.name} after {self._flowed.into.name}); a flow writes one topic"
                raise ConfigError(msg, path=path)
            self._flowed.into = output
            return self
        if not callable(getattr(output, "open", None)):
            msg = f"found {type(output).__name__}; expected parquet(…), duckdb_table(…) or a topic"
            raise ConfigError(msg, path=path)
        kind = type(output).__name__.removesuffix("Sink").lower()
        sink = SinkSpec(name or f"{self.spec.name}.{kind}", _beside(output, self._flowed.base))
        if any(other.name == sink.name for other in self._flowed.sinks):
            msg = f"two sinks {sink.name}; give the second one a name of its own with to(…, name=…)"
            raise ConfigError(msg, path=path)
        self._flowed.sinks.append(sink)
        return self


def _beside(config: Any, base: Path) -> Any:
    """The sink with its relative path in the program's folder: the position lies in the target, so it must not move."""
    path = getattr(config, "path", None)
    if not isinstance(path, str) or Path(path).is_absolute():
        return config
    return msgspec.structs.replace(config, path=str(base / path))
