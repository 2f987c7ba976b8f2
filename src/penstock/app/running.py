"""Running an app: every source, handler, flow and sink as a part under one supervisor, until it is told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Protocol, TypedDict

import msgspec

from penstock.app.declared import Program
from penstock.app.opened import Opened, open_app
from penstock.app.plan import Plan, plan_app
from penstock.app.processes import ProcessWork
from penstock.channel.api import GroupSpec, Subscription
from penstock.channel.drivers.embedded.upkeep import Upkeep
from penstock.delivery.deadletter import SUFFIX
from penstock.delivery.redrive import SUFFIX as COMMANDS
from penstock.engine.concurrent import ConcurrentWork
from penstock.engine.group import Group, GroupState, Slots
from penstock.engine.handling import HandlerWork
from penstock.engine.results import Topics
from penstock.engine.sinking import SinkWork
from penstock.engine.sourcing import SourceRun, Turn
from penstock.engine.supervisor import Progress, Supervisor
from penstock.engine.watching import LOOK_EVERY_S, Watchdog
from penstock.engine.work import Read, Work
from penstock.errors import ConfigError
from penstock.event.batch import Delivered
from penstock.log.connection import translate
from penstock.observe.keeping import apart_of
from penstock.system.looking import Looker, this_thread
from penstock.system.ports import Clock, System, real_system
from penstock.system.slots import FileRecords, PartitionSlot, Slot

READ_EVENTS_MAX = 50_000
Turns = Callable[[str], Turn | None]
"""Source → whose turn it is to run it."""
DRAIN_S_MAX = 30.0
"""How long a drain may take; a handler that is still busy then is left, and its event is delivered again."""


class RunOptions(msgspec.Struct, frozen=True):
    """How far a run goes; see `App.run`."""

    until_idle: bool = False
    republish: bool = False
    worker: str = ""

    @property
    def label(self) -> str:
        """What people call this process among others."""
        return f"{self.worker} (process {os.getpid()})" if self.worker else f"process {os.getpid()}"


class RunReport(msgspec.Struct, frozen=True):
    """What a run did: one state per source, handler, flow stage and sink, and how long it took."""

    parts: Sequence[GroupState]
    seconds: float

    def part(self, name: str) -> GroupState:
        """The state of one part.

        Raises:
            KeyError: there is none of this name.
        """
        for state in self.parts:
            if state.name == name:
                return state
        raise KeyError(f"no part {name!r}; there are {', '.join(state.name for state in self.parts) or 'none'}")


def run_app(app: Program, options: RunOptions, on_progress: Progress | None) -> RunReport:
    """See `App.run`."""
    if _inside_a_loop():
        msg = "app.run() inside a running loop; use `await app.serve()` there"
        raise ConfigError(msg, path=f"apps.{app.name}")
    return asyncio.run(_until_signal(app, options, on_progress))


def _inside_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _until_signal(app: Program, options: RunOptions, on_progress: Progress | None) -> RunReport:
    """The first SIGTERM or SIGINT drains; a second one finds the default again and ends the process."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def asked() -> None:
        stop.set()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        with suppress(ValueError, RuntimeError):  # not the main thread: signals are somebody else's
            loop.add_signal_handler(number, asked)
    try:
        return await serve_app(app, options, stop=stop, on_progress=on_progress)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def serve_app(
    app: Program, options: RunOptions, *, stop: asyncio.Event | None = None, on_progress: Progress | None = None
) -> RunReport:
    """See `App.serve`."""
    if not app.runs:
        msg = "the program runs its app while it is loaded; put that below: if __name__ == '__main__':"
        raise ConfigError(msg, path=f"apps.{app.name}")
    system = real_system()
    started = system.clock.monotonic_s()
    try:
        plan = plan_app(app)
        opened = await open_app(app, plan, system)
        try:
            supervisor = supervised(
                app, plan, opened, options, slots=_slots(opened), turns=lambda name: _turn(opened, name, options)
            )
            upkeep = asyncio.ensure_future(Upkeep(opened.channel, system, apart_of=apart_of).run())
            looker = _watched(supervisor, system.clock)
            stopper = None if stop is None else asyncio.ensure_future(_stopped(stop, supervisor, system.clock))
            try:
                await supervisor.run(on_progress)
            finally:
                looker.close()
                upkeep.cancel()
                if stopper is not None:
                    stopper.cancel()
            return RunReport(supervisor.states, system.clock.monotonic_s() - started)
        finally:
            await opened.close()
    finally:
        system.offload.close()


def _watched(supervisor: Supervisor, clock: Clock) -> Looker:
    """A watchdog over the handlers, in a thread of its own: one that hangs may hold the event loop."""
    works = [node.work for node in supervisor.nodes if isinstance(node, Group)]
    handlers = [work for work in works if isinstance(work, HandlerWork)]
    looker = Looker(Watchdog(handlers, clock, thread=this_thread()).look, every_s=LOOK_EVERY_S)
    if handlers:
        looker.start()
    return looker


async def _stopped(stop: asyncio.Event, supervisor: Supervisor, clock: Clock) -> None:
    """Drain, and after a while give up what does not end: a handler that hangs."""
    await stop.wait()
    supervisor.stop()
    await clock.sleep(DRAIN_S_MAX)
    supervisor.abandon()


def supervised(
    app: Program, plan: Plan, opened: Opened, options: RunOptions, *, slots: Slots, turns: Turns = lambda _: None
) -> Supervisor:
    """Every part of the app over an open channel, real or simulated, ready to run."""
    supervisor = Supervisor(opened.system.clock)

    def add(work: Work, *, writes: frozenset[str]) -> None:
        topic = work.subscription.group.topic
        ended = supervisor.ended(topic) if options.until_idle else None
        mine = slots if isinstance(work, HandlerWork) else None  # the others call nobody's function event by event
        supervisor.add(Group(opened.channel, work, system=opened.system, slots=mine, ended=ended), writes=writes)

    for sourced in app.sources.values():
        source = sourced.spec.open_source(app.base, sourced.name, event_bytes_max=sourced.into.spec.event_bytes_max)
        dead = opened.topic(f"source.{sourced.name}{SUFFIX}")
        run = SourceRun(
            opened.channel,
            source,
            opened.topic(sourced.into.name),
            dead=dead,
            system=opened.system,
            republish=options.republish,
            turn=turns(sourced.name),
        )
        supervisor.add(run, writes=frozenset((sourced.into.name, dead.name)))
    for handled in app.handlers.values():
        name = handled.handler.name
        into = None if handled.into is None else opened.topic(handled.into.name)
        commands = opened.topic(name + COMMANDS)
        topics = Topics(opened.topic(handled.source.name), into, opened.topic(name + SUFFIX), commands)
        subscription = Subscription(GroupSpec(name, handled.source.name), options.label)
        ports: _Ports = {"system": opened.system, "read": opened.channel.read}
        work: HandlerWork
        if handled.handler.concurrency == 1:
            work = HandlerWork(handled.handler, subscription, topics, **ports)
        elif handled.handler.shape.is_async:
            work = ConcurrentWork(handled.handler, subscription, topics, **ports)
        else:
            work = ProcessWork(app, handled, subscription, topics, **ports)
        add(work, writes=frozenset(t.name for t in (into, topics.dead) if t is not None))
    _add_flows(plan, opened, options, add)
    circle = supervisor.circle() if options.until_idle else []
    if circle:
        msg = f"{' → '.join(circle)}: what feeds itself never becomes idle; run it without until_idle"
        raise ConfigError(msg, path=f"apps.{app.name}")
    return supervisor


class _Ports(TypedDict):
    system: System
    read: Read


class _Add(Protocol):
    def __call__(self, work: Work, *, writes: frozenset[str]) -> None: ...


def _add_flows(plan: Plan, opened: Opened, options: RunOptions, add: _Add) -> None:
    from penstock.engine.flowing import FlowTopics, FlowWork  # noqa: PLC0415

    for planned in plan.stages:
        stage = planned.stage
        topics = FlowTopics(*map(opened.topic, (stage.topic, planned.into, stage.name + SUFFIX, stage.name + COMMANDS)))
        subscription = Subscription(GroupSpec(stage.name, stage.topic, "flow"), options.label)
        ports: _Ports = {"system": opened.system, "read": opened.channel.read}
        work = FlowWork(stage, subscription, topics, **ports, retry=planned.retry)
        add(work, writes=frozenset((planned.into, topics.dead.name)))
    for planned in plan.sinks:
        topic = opened.topic(planned.topic)
        sink = planned.sink.config.open()
        spec = GroupSpec(planned.sink.name, planned.topic, "sink", together=sink.together)
        past = _Past(opened, planned.topic)
        work = SinkWork(sink, Subscription(spec, options.label), topic, past=past, system=opened.system)
        add(work, writes=frozenset())


class _Past:
    """See `penstock.engine.sinking.Past`."""

    def __init__(self, opened: Opened, topic: str) -> None:
        self._channel = opened.channel
        self._topic = topic

    async def tip(self, partition: int) -> int:
        return (await self._channel.tips(self._topic))[partition]

    async def read(self, partition: int, offset: int) -> Sequence[Delivered]:
        return await self._channel.read(self._topic, partition, offset, events_max=READ_EVENTS_MAX)

    async def passed(self, partition: int, offset: int) -> int:
        return await self._channel.passed(self._topic, partition, offset)


def _turn(opened: Opened, source: str, options: RunOptions) -> Turn:
    return opened.channel.turn(f"source.{source}", options.label)


def _slots(opened: Opened) -> Slots:
    """This worker's record of each group, in the log's directory; a name is never a path. Who gets one closes it."""
    assert opened.channel.directory is not None
    directory = opened.channel.directory / "slots"
    records: dict[str, FileRecords] = {}

    def slot(group: str, partition: int) -> Slot:
        if group not in records:
            try:
                records[group] = FileRecords(directory / sha256(group.encode()).hexdigest()[:32])
            except OSError as exc:
                raise translate(exc, directory) from exc
        return PartitionSlot(records[group], partition)

    return slot
