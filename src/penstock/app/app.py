"""The face: one place where a program says where events come from, what happens to them and where results go."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import msgspec

from penstock.app.declared import AppFlow, Flowed, Handled, Program, Sourced, TopicHandle
from penstock.app.place import FOLDER, caller, program_base
from penstock.channel.api import EVENT_BYTES_MAX_DEFAULT, PARTITIONS_DEFAULT, TopicSpec
from penstock.channel.bounds import Horizon, Retention
from penstock.channel.rules import check_name, check_topic
from penstock.config import duration_s
from penstock.delivery.lot import OnFailure, Order
from penstock.delivery.retry import Retries, Retry
from penstock.engine.calling import returned_by, shape_of
from penstock.engine.handler import HandlerSpec
from penstock.errors import ConfigError
from penstock.flow.spec import FlowSpec
from penstock.schema import schema_of
from penstock.system.leases import LEASE_S, LEASE_S_MIN, LOOK_S

if TYPE_CHECKING:
    import asyncio

    import polars as pl

    from penstock.app.client import Client
    from penstock.app.running import RunReport
    from penstock.engine.supervisor import Progress
    from penstock.schema import Schema

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_KEY_KINDS = ("str", "int", "bytes", "uuid")


class App(Program):
    """One program over one log. Declaring opens nothing; `run`, `client` and `read` do.

    Args:
        name: the log's name; with the program's folder it says where the log is.
        path: the log's directory, when it is to be elsewhere than ``.penstock/<name>`` beside the program. A relative
            path belongs to the program's folder.
        durability: ``full`` syncs every commit (survives a power loss), ``normal`` survives the death of the process.
        lease: how long another worker may stand still before this one takes its partitions over. A worker that dies is
            not waited for.
    """

    def __init__(
        self,
        name: str,
        path: str | Path | None = None,
        *,
        durability: Literal["full", "normal"] = "full",
        lease: str | float = LEASE_S,
    ) -> None:
        check_name(name, what="app")
        if durability not in ("full", "normal"):
            msg = f"{durability!r}; expected 'full' (survives a power loss) or 'normal' (survives the process)"
            raise ConfigError(msg, path=f"apps.{name}.durability")
        if path is not None and not isinstance(path, str | os.PathLike):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(f"{path!r}; expected a directory", path=f"apps.{name}.path")
        frame = caller(1)
        base = program_base(frame)
        directory = (base / (path if path is not None else f"{FOLDER}/{name}")).absolute()
        super().__init__(name, base, directory, durability)
        self.lease_s = duration_s(lease, path=f"apps.{name}.lease")
        if not LEASE_S_MIN <= self.lease_s < float("inf"):
            msg = f"{lease!r}; expected {LEASE_S_MIN:g} seconds or more: members look at each other every {LOOK_S:g}"
            raise ConfigError(msg, path=f"apps.{name}.lease")
        file = frame.f_globals.get("__file__")
        self.file = None if file is None else Path(file).resolve()

    # -- declarations ----------------------------------------------------------------------------------------------

    def topic(  # noqa: PLR0913 - every option by name, one face for users
        self,
        name: str,
        type: type[T] | None = None,
        *,
        key: str | None = None,
        time: str | None = None,
        disorder: str | float | None = None,
        partitions: int = PARTITIONS_DEFAULT,
        event_bytes_max: int = EVENT_BYTES_MAX_DEFAULT,
    ) -> TopicHandle[T]:
        """Declare a topic.

        Args:
            name: its identity in the log.
            type: a msgspec Struct or a dataclass; None for raw bytes.
            key: the field whose value decides the partition; events of one key keep their order.
            time: the field that holds the event time.
            disorder: how late an event may be, as a duration.
            partitions: fixed when the topic is created.
            event_bytes_max: larger events are rejected.

        Raises:
            ConfigError: a name, a field or a number that cannot be meant.
        """
        path = f"topics.{name}"
        for option, value in (("partitions", partitions), ("event_bytes_max", event_bytes_max)):
            if not isinstance(value, int) or isinstance(value, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ConfigError(f"{value!r}; expected a whole number", path=f"{path}.{option}")
        schema = None if type is None else _schema_of(type, path=f"{path}.type")
        for option, field, kinds in (("key", key, _KEY_KINDS), ("time", time, ("datetime",))):
            if field is not None:
                _check_field(schema, field, kinds, path=f"{path}.{option}")
        spec = TopicSpec(
            name,
            partitions=partitions,
            schema=None if schema is None else schema.describe(),
            arrow=None if schema is None else schema.arrow_bytes(),
            key=key,
            time=time,
            disorder_s=None if disorder is None else duration_s(disorder, path=f"{path}.disorder"),
            event_bytes_max=event_bytes_max,
        )
        self._free(name)
        check_topic(spec, self.topics)
        handle: TopicHandle[T] = TopicHandle(spec, schema)
        self.topics[name] = handle
        return handle

    def retain(
        self, topic: TopicHandle[Any], *, age: str | float | None = None, bytes: str | int | None = None
    ) -> None:
        """Declare how much a topic keeps: what is younger *and* fits. It may be changed later.

        Where a program does not call it, what was declared before stands, at first everything.

        Args:
            topic: what `topic` returned.
            age: events that were recorded longer ago go, as in ``"7d"``; None for no limit.
            bytes: the oldest go when all partitions together are larger, as in ``"10GB"``; None for no limit.
        """
        self._mine(topic, path="topics")
        topic.spec = msgspec.structs.replace(topic.spec, retention=Retention(age, bytes))

    def deduplicate(self, topic: TopicHandle[Any], *, events: int = 1_000_000, time: str | float | None = None) -> None:
        """Declare that a topic records each event id once: what is published again under its id is not stored again.

        Its publisher is answered with the place of the first one, and where body or key differ, with a rejection that
        names it. Looked at are ids that publishers give (``NewEvent(…, id=…)``), from now on. An id is forgotten when
        its event lies behind *both* horizons: the wall clock does not matter. It may be declared otherwise later.

        Args:
            topic: what `topic` returned.
            events: of how many events, the newest of each partition, ids are remembered; 0 for none.
            time: how much older than the newest event of its partition it may be in event time (the field that the
                topic names as its `time`), as in ``"1d"``; None to go by `events` alone.
        """
        self._mine(topic, path="topics")
        horizon = Horizon(events, time)
        if time is not None and topic.spec.time is None:
            msg = f"topic {topic.name} has no event time to go by: declare it with time=, or leave this out"
            raise ConfigError(msg, path="deduplicate.time")
        topic.spec = msgspec.structs.replace(topic.spec, dedupe=horizon)

    def handle(
        self,
        source: TopicHandle[Any],
        *,
        into: TopicHandle[Any] | None = None,
        retry: Retry | Mapping[type[BaseException], Retry] | None = None,
        on_failure: OnFailure | None = None,
        concurrency: int = 1,
        name: str | None = None,
    ) -> Callable[[F], F]:
        """Declare a per-event handler, as a decorator; the function itself stays what it is.

        The function takes the event (and a `Context`, if it likes), sync or async, and returns one event for `into`,
        a list of them, or None. It raises `Reject` to lay the event among the dead letters with a reason; after any
        other exception the event is tried again later while other keys go on, and in the end laid there too.

        Args:
            source: the topic it reads.
            into: the topic its results go to.
            retry: how often and with which pauses, or a policy per type of exception; 3 attempts by default.
            on_failure: what waits while an event is retried, and what becomes of its key when it is given up.
            concurrency: how many events of different keys are handled at once: awaited side by side when it is
                async, in as many processes, which load the program's file, when it is a plain function.
            name: the consumer group; the function's name by default.
        """
        self._mine(source, into, path="handlers")
        retries = Retries.of(retry, path="handlers.retry")
        policy = on_failure or OnFailure()
        if not isinstance(policy, OnFailure):  # pyright: ignore[reportUnnecessaryIsInstance]
            msg = f"{policy!r}; expected OnFailure(…), such as OnFailure(given_up='block')"
            raise ConfigError(msg, path="handlers.on_failure")

        def declare(function: F) -> F:
            group = _name_of(function, name, path="handlers")
            check_name(group, what="handler")
            self._free(group)
            shape = shape_of(function, name=group)
            if into is None and (gives := returned_by(function)):
                msg = f"returns {gives} and has no into=; name the topic of its results, or return None"
                raise ConfigError(msg, path=f"handlers.{group}")
            if retries.timeout_s is not None and not shape.is_async and concurrency == 1:
                msg = "a call of a plain function cannot be ended from outside; make it async, or give it concurrency="
                raise ConfigError(msg, path=f"handlers.{group}.retry.timeout_s")
            _check_concurrency(concurrency, policy.order, path=f"handlers.{group}.concurrency")
            spec = HandlerSpec(group, function, shape, retries, policy, concurrency)
            self.handlers[group] = Handled(spec, source, into)
            return function

        return declare

    def handle_batch(
        self, source: TopicHandle[Any] | AppFlow, *, into: TopicHandle[Any] | None = None, name: str | None = None
    ) -> Callable[[F], F]:
        """Declare a batch handler, as a decorator: a function from a Polars frame to a Polars frame.

        It is a flow of one `map`: called with the rows of one partition at a time, and once with none, to learn its
        columns. Without `into` its results go to a topic with its name.

        Args:
            source: the topic, or the flow, whose events it gets.
            into: the topic its results go to.
            name: the consumer group; the function's name by default.
        """

        def declare(function: F) -> F:
            flow = self.flow(_name_of(function, name, path="handlers"), source).map(function)
            if into is not None:
                flow.to(into)
            return function

        return declare

    def flow(self, name: str, source: TopicHandle[Any] | AppFlow, *, retry: Retry | None = None) -> AppFlow:
        """Begin a columnar flow over a topic or over another flow's results.

        Args:
            name: its identity: its consumer group, its state, and the topic of its results.
            source: the topic, or the flow, whose events it gets as columns.
            retry: for batches that fail, as a function in it (`map`, `flat_map`) may; 3 attempts by default.

        Raises:
            ConfigError: a name, a source or a policy that cannot be meant; what its operators are, `run` looks at.
        """
        if not isinstance(source, AppFlow):
            self._mine(source, path=f"flows.{name}")
        check_name(name, what="flow")
        if retry is not None and not isinstance(retry, Retry):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(f"{retry!r}; expected Retry(…), such as Retry(5)", path=f"flows.{name}.retry")
        if retry is not None and retry.timeout_s is not None:
            msg = "a flow's frames cannot be cut short; leave it out, or give its functions a limit of their own"
            raise ConfigError(msg, path=f"flows.{name}.retry.timeout_s")
        self._free(name)
        where = source.name if isinstance(source, AppFlow) else source
        spec = FlowSpec(name, source.name)
        flowed = Flowed(spec, where, self.base, retry=retry)
        self.flows[name] = flowed
        return AppFlow(spec, flowed)

    @overload
    def read(
        self, source: str | TopicHandle[Any], *, columns: Sequence[str] | None = None, limit: int | None = None
    ) -> pl.DataFrame: ...

    @overload
    def read(self, source: Any, *, into: TopicHandle[Any], name: str | None = None) -> None: ...

    def read(
        self,
        source: Any,
        *,
        into: TopicHandle[Any] | None = None,
        name: str | None = None,
        columns: Sequence[str] | None = None,
        limit: int | None = None,
    ) -> pl.DataFrame | None:
        """Declare a source whose events go `into` a topic; or read a topic's events as a frame.

        Args:
            source: `files(…)`, or any `penstock.source.api.SourceSpec`; or a topic, or its name.
            into: the topic that gets the source's events.
            name: the source's identity: its recorded position hangs on it; the topic's name by default.
            columns: only these columns of the topic.
            limit: at most this many events.
        """
        if isinstance(source, str | TopicHandle):
            from penstock.app.reading import read_frame  # noqa: PLC0415 - loads the columnar libraries

            if into is not None or name is not None:
                msg = "into= and name= belong to a source, such as files('in/*.csv'); a handler or a flow reads a topic"
                raise ConfigError(f"found {source!r}; {msg}", path="sources")
            return read_frame(self, str(getattr(source, "name", source)), columns=columns, limit=limit)
        if columns is not None or limit is not None:
            raise ConfigError("columns= and limit= belong to reading a topic; leave them out", path="sources")
        if into is None:
            msg = "a source needs into=: the topic that gets its events"
            raise ConfigError(msg, path="sources")
        self._mine(into, path="sources")
        identity = name or into.name
        check_name(identity, what="source")
        if identity in self.sources:
            msg = f"two sources {identity}; give the second one a name of its own with name="
            raise ConfigError(msg, path=f"sources.{identity}")
        if not callable(getattr(source, "open_source", None)):
            msg = f"found {type(source).__name__}; expected files(…), a topic, or an object with open_source(…)"
            raise ConfigError(msg, path=f"sources.{identity}")
        self.sources[identity] = Sourced(identity, source, into)
        return None

    def _mine(self, source: TopicHandle[Any], into: TopicHandle[Any] | None = None, *, path: str) -> None:
        """That these are topics, and of this app."""
        for handle in (source,) if into is None else (source, into):
            if not isinstance(handle, TopicHandle):  # pyright: ignore[reportUnnecessaryIsInstance]
                msg = f"found {handle!r}; expected what app.topic(…) returned, as in @app.handle(orders)"
                raise ConfigError(msg, path=path)
            if self.topics.get(handle.name) is not handle:
                msg = f"topic {handle.name} belongs to another App; declare it with this one's app.topic(…)"
                raise ConfigError(msg, path=path)

    def _free(self, name: str) -> None:
        """A name is used once: topics, handlers and flows are told apart by it."""
        for kind, names in (("topic", self.topics), ("handler", self.handlers), ("flow", self.flows)):
            if name in names:
                msg = (
                    f"{name} is the name of a {kind} already; names are identities: take another, or make the App anew"
                )
                raise ConfigError(msg, path=f"{kind}s.{name}")

    # -- use -------------------------------------------------------------------------------------------------------

    def run(
        self, *, until_idle: bool = False, republish: bool = False, on_progress: Progress | None = None
    ) -> RunReport:
        """Run everything that is declared, until SIGTERM or SIGINT (what is in hand is finished first).

        Args:
            until_idle: end when every source is read and everything published has been worked on.
            republish: publish every source again from its beginning; the log answers with the original offsets.
            on_progress: called about four times a second with every part's state.

        Raises:
            PenstockError: why it cannot start or go on; nothing acked is lost.
        """
        from penstock.app.running import RunOptions, run_app  # noqa: PLC0415

        return run_app(self, RunOptions(until_idle, republish), on_progress)

    async def serve(
        self,
        stop: asyncio.Event | None = None,
        *,
        until_idle: bool = False,
        republish: bool = False,
        on_progress: Progress | None = None,
    ) -> RunReport:
        """`run` inside a running loop. Signals are left to the caller; cancelled, it drops what is in hand.

        Args:
            stop: ends it when it is set, what is in hand being finished first; None: only `until_idle` or cancelling.
            until_idle: end when every source is read and everything published has been worked on.
            republish: publish every source again from its beginning; the log answers with the original offsets.
            on_progress: called about four times a second with every part's state.

        Raises:
            PenstockError: why it cannot start or go on; nothing acked is lost.
        """
        from penstock.app.running import RunOptions, serve_app  # noqa: PLC0415

        return await serve_app(self, RunOptions(until_idle, republish), stop=stop, on_progress=on_progress)

    def client(self, *, producer: str | None = None) -> Client:
        """A client that publishes to this app's topics, for threads and plain code: use it with ``with``.

        ``async with`` gives its asyncio twin.

        Args:
            producer: a stable name, 1 to 200 printable characters, for a publisher that comes and goes: a newer client
                of the name fences the older one. Without it a client is a new producer each time.
        """
        from penstock.app.client import Client  # noqa: PLC0415

        return Client(self, producer=producer)


def _check_concurrency(concurrency: int, order: Order, *, path: str) -> None:
    if not isinstance(concurrency, int) or concurrency < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(f"{concurrency!r}; expected at least 1", path=path)
    if concurrency > 1 and order == "partition":
        msg = 'events side by side, and on_failure.order="partition"; keep one of the two'
        raise ConfigError(msg, path=path)


def _schema_of(cls: type[T], *, path: str) -> Schema[T]:
    try:
        return schema_of(cls)
    except ConfigError as exc:
        raise ConfigError(str(exc), path=path) from None


def _name_of(function: Callable[..., Any], name: str | None, *, path: str) -> str:
    found = name or getattr(function, "__name__", None)
    if not found:
        msg = f"{function!r} has no name of its own; give it one with name="
        raise ConfigError(msg, path=path)
    return found


def _check_field(schema: Any, field: str, kinds: Sequence[str], *, path: str) -> None:
    if schema is None:
        msg = f"{field!r}, and the topic has no type; give it one, or leave this out"
        raise ConfigError(msg, path=path)
    names = [f.name for f in schema.fields]
    if field not in names:
        msg = f"{field!r} is no field of {schema.name}; expected one of {', '.join(names)}"
        raise ConfigError(msg, path=path)
    found = schema.field(field).kind
    if found not in kinds:
        msg = f"field {field!r} of {schema.name} is {found}; expected {' or '.join(kinds)}"
        raise ConfigError(msg, path=path)
