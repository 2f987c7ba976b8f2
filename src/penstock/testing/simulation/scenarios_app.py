"""A scenario of a whole `App`: its own handlers, flows and sinks, wired as a program wires them, in every member."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, cast

import msgspec

from penstock.app.app import App
from penstock.app.declared import TopicHandle
from penstock.app.opened import Opened
from penstock.app.plan import Plan, plan_app
from penstock.app.running import RunOptions, supervised
from penstock.channel.api import GroupSpec
from penstock.channel.typed import TypedTopic
from penstock.engine.supervisor import Supervisor
from penstock.system.ports import System
from penstock.system.slots import MemoryRecords, PartitionSlot, Slot
from penstock.testing.simulation.faults import FaultyChannel
from penstock.testing.simulation.outcome import Event
from penstock.testing.simulation.scenario import Host, Member, Scenario

if TYPE_CHECKING:
    from penstock.channel.drivers.embedded import EmbeddedChannel


class Job(msgspec.Struct):
    """The inputs of the shipped scenarios: one field more than an `Event`, to group by."""

    key: str
    number: int
    bucket: int


def job_of(event: Event) -> Job:
    """An event as an input."""
    return Job(event.key, event.number, event.number % 3)


def to_json(event: Event) -> bytes:
    """An input's bytes."""
    return msgspec.json.encode(job_of(event))


class _Named(msgspec.Struct):
    key: str
    number: int


_named = msgspec.json.Decoder(_Named)


def from_json(topic: str, body: bytes) -> Event | None:
    """The event that JSON with a key and a number speaks of; None for anything else."""
    try:
        found = _named.decode(body)
    except msgspec.DecodeError:
        return None
    return Event(found.key, found.number)


def scenario_of(app: App, inputs: TopicHandle[Any], *, name: str, outputs: Sequence[str]) -> Scenario:
    """The app, with its sources left out, as a scenario on the embedded log; `replace` changes the rest of it.

    Args:
        app: its topics have JSON inputs as `to_json` writes them.
        inputs: the topic that the producers publish to.
        name: of the scenario.
        outputs: topics in which every input has exactly one effect.
    """
    plan = plan_app(app)
    specs = [inputs.spec, *(spec for topic, spec in plan.topics.items() if topic != inputs.name)]
    return Scenario(
        name=name,
        topics=specs,
        groups=groups_of(app, plan),
        member=member_of(app, plan),
        outputs=outputs,
        identify=from_json,
        encode=to_json,
    )


def groups_of(app: App, plan: Plan) -> list[GroupSpec]:
    """The consumer groups of the app, in the order in which events reach them."""
    handlers = [GroupSpec(handled.handler.name, handled.source.name) for handled in app.handlers.values()]
    stages = [GroupSpec(planned.stage.name, planned.stage.topic, "flow") for planned in plan.stages]
    return [*handlers, *stages, *(GroupSpec(planned.sink.name, planned.topic, "sink") for planned in plan.sinks)]


def member_of(app: App, plan: Plan) -> Member:
    """Runs everything of the app but its sources, until it is asked to stop."""
    consuming = copy(app)
    consuming.sources = {}

    async def member(host: Host, channel: FaultyChannel, system: System) -> None:
        supervisor = await parts_of(consuming, plan, RunOptions(), host=host, channel=channel, system=system)
        host.on_stop(supervisor.stop)
        await supervisor.run()

    return member


async def parts_of(
    app: App, plan: Plan, options: RunOptions, *, host: Host, channel: FaultyChannel, system: System
) -> Supervisor:
    """The app's parts over the simulated channel; attempts slots lie on the world's disk, as in the log's directory."""
    opened = await opened_on(plan, channel, system)
    return supervised(app, plan, opened, options, slots=_slots(host))


async def opened_on(plan: Plan, channel: FaultyChannel, system: System) -> Opened:
    """What `open_app` gives, over the simulated channel."""
    found = await channel.open(list(plan.topics.values()))
    topics = {name: TypedTopic[Any](topic, plan.schemas[name]) for name, topic in found.items()}
    return Opened(cast("EmbeddedChannel", channel), topics, system)


def _slots(host: Host) -> Callable[[str, int], Slot]:
    records: dict[str, MemoryRecords] = {}

    def slot(group: str, partition: int) -> Slot:
        if group not in records:
            shared = host.disk.setdefault(f"slots of {group}", {})
            records[group] = MemoryRecords(shared, f"{host.name}/{host.number}", host.number)
        return PartitionSlot(records[group], partition)

    return slot


def effects_in(outcome_topics: Mapping[tuple[str, int], Sequence[Any]], topic: str) -> list[Any]:
    """The contents of all partitions of a topic, partition by partition."""
    return [kept for (name, _), contents in sorted(outcome_topics.items()) if name == topic for kept in contents]
