"""From an app's declarations to what is opened and run: topics with their types, flows as stages, sinks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.app.declared import Flowed, Program, SinkSpec, TopicHandle
from penstock.channel.api import TopicSpec
from penstock.delivery.deadletter import SUFFIX as LETTERS
from penstock.delivery.deadletter import dead_letter_topic
from penstock.delivery.redrive import SUFFIX as COMMANDS
from penstock.delivery.redrive import redrive_topic
from penstock.delivery.retry import Retry
from penstock.errors import ConfigError
from penstock.schema import ColumnsSchema, Schema

if TYPE_CHECKING:
    import pyarrow as pa

    from penstock.flow.compile import Stage

AnySchema = Schema[Any] | ColumnsSchema


class StagePlan(msgspec.Struct, frozen=True):
    """One stage of a flow: the compiled stage, and the topic it writes."""

    stage: Stage
    into: str
    retry: Retry | None = None


class SinkPlan(msgspec.Struct, frozen=True):
    """One sink and the topic it reads."""

    sink: SinkSpec
    topic: str


class Plan(msgspec.Struct):
    """What is to be opened (topics by name, with their types) and run."""

    topics: dict[str, TopicSpec] = msgspec.field(default_factory=dict[str, TopicSpec])
    schemas: dict[str, AnySchema | None] = msgspec.field(default_factory=dict[str, Any])
    stages: list[StagePlan] = msgspec.field(default_factory=list[StagePlan])
    sinks: list[SinkPlan] = msgspec.field(default_factory=list[SinkPlan])

    def add(self, spec: TopicSpec, schema: AnySchema | None) -> None:
        """Take a topic on."""
        self.topics[spec.name] = spec
        self.schemas[spec.name] = schema

    def group(self, name: str, source: TopicSpec) -> None:
        """Take the topics of a group that reads `source`: its dead letters and commands, kept as long as their events.

        Raises:
            ConfigError: something else has one of their names.
        """
        for topic in (dead_letter_topic, redrive_topic):  # both have the bytes of its events
            self.own(msgspec.structs.replace(topic(name, partitions=source.partitions), retention=source.retention))

    def own(self, spec: TopicSpec) -> None:
        """Take a topic on that a group, or a source, makes for itself.

        Raises:
            ConfigError: something else has its name.
        """
        _refuse_taken(spec.name, self.topics)
        self.add(spec, None)


def plan_topics(app: Program) -> Plan:
    """The topics a program declares itself: all that a client needs.

    Raises:
        ConfigError: one has the name of what a handler or a flow makes for itself.
    """
    plan = Plan()
    for handle in app.topics.values():
        plan.add(handle.spec, handle.schema)
    for group in (*app.handlers, *app.flows):
        for suffix in (LETTERS, COMMANDS):
            _refuse_taken(group + suffix, plan.topics)
    return plan


def _refuse_taken(name: str, topics: Mapping[str, TopicSpec]) -> None:
    if name in topics:
        group = name.rpartition(".")[0]
        msg = f"{group} keeps its own events in a topic of this name (dead letters, what is redriven); take another"
        raise ConfigError(msg, path=f"topics.{name}")


def plan_app(app: Program) -> Plan:
    """Everything.

    Raises:
        ConfigError: a flow does not fit its topic, flows read each other in a circle, or a topic has the name of what
            a group makes for itself.
    """
    plan = plan_topics(app)
    for handled in app.handlers.values():
        plan.group(handled.handler.name, handled.source.spec)
    for sourced in app.sources.values():
        plan.own(dead_letter_topic(f"source.{sourced.name}", partitions=1))
    for flowed in _in_order(app.flows):
        _plan_flow(plan, flowed, app)
    return plan


def _in_order(flows: dict[str, Flowed]) -> list[Flowed]:
    """Flows after the flows they read."""
    ordered: list[Flowed] = []
    left = dict(flows)
    while left:
        ready = [
            name for name, flowed in left.items() if not (isinstance(flowed.source, str) and flowed.source in left)
        ]
        if not ready:
            msg = f"{', '.join(sorted(left))} read each other in a circle"
            raise ConfigError(msg, path="flows")
        ordered += [left.pop(name) for name in ready]
    return ordered


def _plan_flow(plan: Plan, flowed: Flowed, app: Program) -> None:
    from penstock.flow.compile import compile_flow  # noqa: PLC0415 - loads Polars

    if flowed.grouped:
        columns = ", ".join(map(repr, flowed.grouped))
        msg = f"by({columns}) without agg(…) keeps nothing: say what, such as by({columns}).agg(events=count())"
        raise ConfigError(msg, path=f"flows.{flowed.spec.name}.by")
    source = _results_of(app, flowed.source)
    schema, spec = plan.schemas[source], plan.topics[source]
    if schema is None:
        msg = f"topic {source} has no type, so it has no columns; declare it with a type"
        raise ConfigError(msg, path=f"flows.{flowed.spec.name}")
    compiled = compile_flow(msgspec.structs.replace(flowed.spec, topic=source), schema.arrow, spec.key)
    for stage in compiled.stages:
        into = stage.into or (flowed.spec.name if flowed.into is None else flowed.into.name)
        if into in plan.topics:
            _check_into(flowed.into, stage.schema, path=f"flows.{flowed.spec.name}.to")
        else:
            plan.add(*_results_topic(into, stage, spec, internal=stage.into is not None))
        plan.group(stage.name, plan.topics[stage.topic])
        plan.stages.append(StagePlan(stage, into, flowed.retry))
    results = _results_of(app, flowed.spec.name)
    found = compiled.stages[-1].schema.names
    for sink in flowed.sinks:
        missing = [name for name in sink.config.needs if name not in found]
        if missing:
            msg = f"needs the column {missing[0]}; the flow's results have {', '.join(found)}"
            raise ConfigError(msg, path=f"sinks.{sink.name}")
        plan.sinks.append(SinkPlan(sink, results))


def _results_of(app: Program, source: TopicHandle[Any] | str) -> str:
    """The topic that holds a topic's, or a flow's, events."""
    if isinstance(source, TopicHandle):
        return source.name
    into = app.flows[source].into
    return source if into is None else into.name


def _results_topic(name: str, stage: Stage, source: TopicSpec, *, internal: bool) -> tuple[TopicSpec, ColumnsSchema]:
    import pyarrow as pa  # noqa: PLC0415

    schema = ColumnsSchema(name, stage.schema)
    timed = source.time is not None and source.time in stage.schema.names
    time = source.time if timed and pa.types.is_timestamp(stage.schema.field(source.time).type) else None
    key = stage.keys[0] if len(stage.keys) == 1 and _is_key(stage.schema.field(stage.keys[0]).type) else None
    spec = TopicSpec(
        name,
        partitions=source.partitions,
        schema=schema.describe(),
        arrow=stage.schema.serialize().to_pybytes(),
        key=key,
        time=time,
        event_bytes_max=source.event_bytes_max,
        internal=internal,
    )
    return spec, schema


def _check_into(into: TopicHandle[Any] | None, schema: pa.Schema, *, path: str) -> None:
    from penstock.schema.widening import difference  # noqa: PLC0415

    if into is None:
        msg = "the flow's name is a topic's name already; take another"
        raise ConfigError(msg, path=path)
    expected = None if into.schema is None else into.schema.arrow
    if expected is None or expected.names != schema.names:
        found, wanted = ", ".join(schema.names), "raw bytes" if expected is None else ", ".join(expected.names)
        msg = f"the flow's columns are {found}; topic {into.name} has {wanted}: select(…) those, in that order"
        raise ConfigError(msg, path=path)
    for field in expected:
        found = schema.field(field.name).type
        to_do = difference(found, field.type)
        if to_do:
            msg = f"column {field.name} is {found}, topic {into.name} has {field.type}: {to_do}"
            raise ConfigError(msg, path=path)


def _is_key(kind: pa.DataType) -> bool:
    """Whether values of a column are keys as publishers give them; other groups are laid out by their own encoding."""
    import pyarrow as pa  # noqa: PLC0415

    return pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_integer(kind)
