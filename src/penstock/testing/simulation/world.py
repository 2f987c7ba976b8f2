"""One simulated world: starts the processes of a scenario, restarts what dies, and looks when all is quiet."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextvars import Context
from typing import Any

from penstock.channel.api import Assigned, Channel, GroupSpec, Subscription, Topic
from penstock.channel.typed import TypedTopic
from penstock.engine.context import Identity
from penstock.errors import PenstockError
from penstock.event.batch import Rows
from penstock.system.chance import seeded
from penstock.testing.simulation.backends import Backend, backend
from penstock.testing.simulation.faults import FaultyChannel
from penstock.testing.simulation.history import Left, Note, Place, Sent
from penstock.testing.simulation.loop import SimLoop, Stuck
from penstock.testing.simulation.network import Network
from penstock.testing.simulation.outcome import Event, Kept, Outcome
from penstock.testing.simulation.process import Process, Setting
from penstock.testing.simulation.scenario import Scenario, bodies
from penstock.testing.simulation.system import sim_system, sleep
from penstock.testing.simulation.tape import Fault, Tape

QUIET_WITHIN_S = 120.0
AFTERMATH_S = 0.5
LOOK_S = 0.1
RESTART_S_MAX = 0.5
FAILURES_MAX = 20


Load = Sequence[Sequence[Event]]


def draw_loads(scenario: Scenario, seed: int) -> list[list[list[Event]]]:
    """What each producer publishes: its own keys' events, numbered, in publishes of a few events."""
    chance = seeded(seed, "load")
    keys = [f"k{number}" for number in range(chance.randrange(scenario.keys) + 1)]
    count = chance.randrange(scenario.events) + 1
    loads: list[list[list[Event]]] = [[] for _ in range(min(scenario.producers, len(keys)))]
    numbers = dict.fromkeys(keys, 0)
    while count > 0:
        owner = chance.randrange(len(loads))
        mine = keys[owner :: len(loads)]
        publish: list[Event] = []
        for _ in range(min(count, 1 + chance.randrange(4))):
            key = mine[chance.randrange(len(mine))]
            publish.append(Event(key, numbers[key]))
            numbers[key] += 1
        count -= len(publish)
        loads[owner].append(publish)
    return loads


class World:
    """One run. Use `run_world`."""

    def __init__(self, scenario: Scenario, seed: int, tape: Tape, *, loads: Sequence[Load], store: Backend) -> None:
        self._scenario = scenario
        self._seed = seed
        self._store = store
        self.loop = SimLoop(seeded(seed, "loop"))
        self._chance = seeded(seed, "world")
        self._news = asyncio.Event()
        self._network = Network(self.loop, self._chance, tape, changed=self._news.set)
        self._outside = Context()
        self._disk: dict[str, Any] = {}
        self._setting = Setting(scenario, self.loop, self._network, seed, self._disk)
        self._reading = {t.name: [g for g in scenario.groups if g.topic == t.name] for t in scenario.topics}
        self._loads = {f"producer-{number}": load for number, load in enumerate(loads)}
        self._expected = sum(len(publish) for load in loads for publish in load)
        self._unfinished = set(self._loads)
        self._lives: dict[str, Process] = {}
        self._all: list[Process] = []
        self._kept: dict[str, dict[str, Any]] = {}
        self._failures: list[str] = []

    # -- processes -------------------------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """Start a process, or its next life."""
        if len(self._failures) > FAILURES_MAX:
            return
        process = Process(
            len(self._all),
            name,
            setting=self._setting,
            load=self._loads.get(name, ()),
            kept=self._kept.setdefault(name, {}),
        )
        process.ended = self._died
        process.stopped = self._give_up
        self._lives[name] = process
        self._all.append(process)
        task = process.spawn(self._live(process))
        task.add_done_callback(lambda done: self._finished(process, done), context=self._outside.copy())

    async def _live(self, process: Process) -> None:
        inner = self._store.channel(process.system)
        process.handle = inner
        channel = FaultyChannel(inner, process, self._network)
        await channel.open(self._scenario.topics)
        work = self._scenario.produce if process.name in self._loads else self._scenario.member
        await work(process, channel, process.system)

    def _died(self, process: Process) -> None:
        self._give_up(process)
        pause = self._chance.random() * RESTART_S_MAX
        self.loop.call_later(pause, self.start, process.name, context=self._outside.copy())

    def _give_up(self, process: Process) -> None:
        if process.handle is not None:
            self._network.note(Left(process.name, lives=not process.dead))
            self._store.gone(process.handle)

    def _finished(self, process: Process, task: asyncio.Task[None]) -> None:
        """The process came to its end by itself: a producer has published all, or it failed and is started again."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._failures.append(f"{process.name}: {type(error).__name__}: {error}")
            self._network.note(Note(f"{process.name} failed: {error!r}"))
        elif process.name in self._loads:
            self._unfinished.discard(process.name)
            self._news.set()
            return
        process.crash()
        self._news.set()

    # -- the course of things --------------------------------------------------------------------------------------

    async def run(self) -> Outcome:
        """Until everything published is settled, then a while longer for zombies; then look."""
        for name in self._loads:
            self.start(name)
        for number in range(1 + self._chance.randrange(self._scenario.members)):
            self.start(f"member-{number}")
        stuck = ""
        try:
            async with asyncio.timeout(QUIET_WITHIN_S):
                await self._quiet()
                await sleep(self.loop, AFTERMATH_S)  # zombies and things begun aside come out,
                await self._quiet()  # and may meet faults of their own
        except TimeoutError:
            stuck = f"not all is settled after {QUIET_WITHIN_S:g} virtual seconds; {self._position()}"
        for process in self._all:
            process.ended = None
            process.dead = True
            self._give_up(process)
        outcome = await self._look()
        outcome.stuck = stuck
        outcome.failures = [*self._failures, *self.loop.failures]
        return outcome

    async def _quiet(self) -> None:
        while True:
            frozen = any(process.frozen and not process.dead for process in self._all)
            settled = not self._unfinished and self._settled()
            if len(self._failures) > FAILURES_MAX or (settled and not frozen and not self._network.late):
                return
            self._news.clear()
            await self._something()

    async def _something(self) -> None:
        """Something new at the channel; a target gives no sign, so it is looked at now and then."""
        if self._scenario.at_rest is None or not self._settled_here():
            await self._news.wait()
        else:
            await sleep(self.loop, LOOK_S)

    def _settled(self) -> bool:
        rest = self._scenario.at_rest
        return self._settled_here() and (rest is None or rest(self._disk, self._network.history.tips))

    def _settled_here(self) -> bool:
        """Everything is published, and every group has worked on all of its topic."""
        history = self._network.history
        published = sum(tip for (topic, _), tip in history.tips.items() if topic == self._scenario.input.name)
        if history.waiting:
            return False
        return published >= self._expected and all(
            history.settled.get((group.name, topic, partition), 0) >= tip
            for (topic, partition), tip in history.tips.items()
            for group in self._reading[topic]
        )

    def _position(self) -> str:
        history = self._network.history
        settled = {f"{g}:{t}/{p}": count for (g, t, p), count in sorted(history.settled.items())}
        tips = {f"{t}/{p}": tip for (t, p), tip in sorted(history.tips.items())}
        unfinished = f"published by all but {sorted(self._unfinished)}" if self._unfinished else "all published"
        waiting = f", waiting {history.waiting}" if history.waiting else ""
        return f"{unfinished}, settled {settled}{waiting}, ends {tips}, {self._expected} events expected"

    def struck(self) -> list[Fault]:
        """The faults of the tape whose call came."""
        return self._network.struck

    def close(self) -> None:
        """Drop everything; the store may be used for another world."""
        self.loop.dispose()
        self._network.close()
        self._store.close()

    def stopped(self, why: str) -> Outcome:
        """The outcome of a world that the loop gave up on."""
        failures = [*self._failures, *self.loop.failures]
        return Outcome(self._network.history, failures=failures, stuck=f"{why}; {self._position()}")

    async def _look(self) -> Outcome:
        system = sim_system(self.loop, seed=self._seed, name="witness")
        channel = self._store.channel(system)
        topics = await channel.open(self._scenario.topics)
        outcome = Outcome(self._network.history, disk=self._disk)
        for spec in self._scenario.topics:
            for partition in range(spec.partitions):
                outcome.topics[spec.name, partition] = await self._contents(channel, topics[spec.name], partition)
        if self._scenario.targets is not None:
            outcome.topics.update(self._beside(self._scenario.targets(self._disk)))
        for group in self._scenario.groups:
            try:
                await self._assigned(channel, group, outcome)
            except PenstockError as exc:
                outcome.failures.append(f"nobody can own partitions of group {group.name} any more: {exc}")
        return outcome

    async def _assigned(self, channel: Channel, group: GroupSpec, outcome: Outcome) -> None:
        """What the next owner of each of the group's partitions would get."""
        partitions = next(spec.partitions for spec in self._scenario.topics if spec.name == group.topic)
        intake = await channel.join(Subscription(group, "witness"))
        left = set(range(partitions))
        for _ in range(partitions * 3):
            taken = await intake.next(events_max=1, bytes_max=1 << 20, wait_s=0.0)
            if isinstance(taken, Assigned):
                outcome.assigned[group.name, taken.owned.partition] = taken
                left.discard(taken.owned.partition)
            if not left:
                return

    def _beside(self, targets: Mapping[Place, Sequence[bytes]]) -> dict[Place, list[Kept]]:
        identify = self._scenario.identify
        return {
            (name, partition): [Kept(row, identify(name, body), body) for row, body in enumerate(found)]
            for (name, partition), found in targets.items()
        }

    async def _trimmed(self, channel: Channel, topic: str, partition: int) -> list[Kept]:
        """What retention has removed, as it was when the channel answered with its offsets; empty where it was not."""
        begins = getattr(channel, "begins", None)
        begin = 0 if begins is None else (await begins(topic))[partition]
        there: dict[int, bytes] = {}
        for _, entry in self._network.history.entries if begin else ():
            if isinstance(entry, Sent):
                for batch, first in zip(entry.batches, entry.first, strict=True):
                    if (batch.topic, batch.partition) == (topic, partition) and isinstance(batch.payload, Rows):
                        there.update(enumerate(batch.payload.bodies(), first))
        found = [there.get(offset, b"") for offset in range(begin)]
        identify = self._scenario.identify
        return [
            Kept(offset, identify(topic, body), body, f"{topic}/{partition}/{offset}")
            for offset, body in enumerate(found)
        ]

    async def _contents(self, channel: Channel, opened: Topic, partition: int) -> list[Kept]:
        topic = opened.spec.name
        identify = self._scenario.identify
        out = await self._trimmed(channel, topic, partition)
        offset = len(out)
        while batches := await channel.read(topic, partition, offset, events_max=1000):
            for batch in batches:
                found = Identity(batch, TypedTopic(opened, None))
                headers = batch.payload.attributes.get("headers")
                for index, body in enumerate(bodies(batch)):
                    told = {} if headers is None else headers[index] or {}
                    out.append(Kept(batch.first + index, identify(topic, body), body, found.id(index), headers=told))
                offset = batch.end
        return out


def run_world(
    scenario: Scenario, seed: int, tape: Tape, *, loads: Sequence[Load], store: Backend | None = None
) -> Outcome:
    """Run one world to its end; never hangs and never raises for what the simulated code does."""
    world = World(scenario, seed, tape, loads=loads, store=store or backend(scenario.backend))
    try:
        outcome = world.loop.run_until_complete(world.run())
    except Stuck as exc:
        outcome = world.stopped(str(exc))
    outcome.steps = world.loop.steps
    outcome.virtual_s = world.loop.time()
    outcome.struck = world.struck()
    world.close()
    return outcome
