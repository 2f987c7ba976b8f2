"""One simulated process: tasks that can be killed or frozen together, its own clock, its own handle on the channel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Any, NoReturn, cast

from penstock.system.ports import System
from penstock.testing.simulation.faults import FaultyOffload, Whole
from penstock.testing.simulation.history import Note
from penstock.testing.simulation.loop import PROCESS, Lives, SimLoop
from penstock.testing.simulation.network import Network
from penstock.testing.simulation.outcome import Event
from penstock.testing.simulation.scenario import Host, Scenario
from penstock.testing.simulation.system import DAY_US, SimClock, sim_system, sleep
from penstock.testing.simulation.tape import Fault

JITTER_S_MAX = 0.02


@dataclass(frozen=True, slots=True)
class Setting:
    """What all processes of a world share."""

    scenario: Scenario
    loop: SimLoop
    network: Network
    seed: int
    disk: dict[str, Any]


class Process(Lives):
    """A life of a named process; a restart is another `Process` of the same name.

    Attributes:
        load: what a producer publishes, publish by publish; empty for members.
        kept: what outlives the process, as files do; shared by the lives of one name.
        disk: what outlives every process; shared by all.
    """

    def __init__(
        self, number: int, name: str, *, setting: Setting, load: Sequence[Sequence[Event]], kept: dict[str, Any]
    ) -> None:
        super().__init__(number, name)
        self.scenario = setting.scenario
        self.load = load
        self.kept = kept
        self.disk = setting.disk
        system = sim_system(setting.loop, seed=setting.seed, name=f"{name}/{number}")
        offload = FaultyOffload(system.offload, self, setting.network)
        self.system = System(clock=system.clock, random=system.random, offload=offload)
        self.handle: Whole | None = None
        self.ended: Callable[[Process], None] | None = None
        self.stopped: Callable[[Process], None] | None = None
        self._loop = setting.loop
        self._network = setting.network
        self.chance = self.system.random
        self._chance = self.system.random.random
        self._stops: list[Callable[[], None]] = []
        self._context = Context()
        self._context.run(PROCESS.set, self)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task of this process."""
        return self._loop.create_task(work, context=self._context)

    async def suffer(self, fault: Fault, *, before: bool) -> None:
        """See `Sufferer`."""
        if fault.nth < 0:
            if before and self._chance() < 0.3:
                await sleep(self._loop, self._chance() * JITTER_S_MAX)
            return
        kind, _, when = fault.kind.partition("_")
        if kind == "clock" and before:
            self._jump(fault)
        if kind == "stop" and before:
            self._ask()
        if when != ("before" if before else "after"):
            return
        if kind == "crash":
            self.crash()
            await self._loop.create_future()  # nobody answers: this life is over
        elif kind == "freeze":
            self.freeze(fault.seconds)
            await sleep(self._loop, 0.0)
        elif kind == "delay":
            await sleep(self._loop, fault.seconds)

    def _jump(self, fault: Fault) -> None:
        clock = cast("SimClock", self.system.clock)
        clock.skew_us += DAY_US if int(fault.seconds * 1000) % 2 == 0 else -DAY_US

    def on_stop(self, stop: Callable[[], None]) -> None:
        """See `Host`."""
        self._stops.append(stop)

    def _ask(self) -> None:
        for stop in self._stops:
            stop()

    async def die(self) -> NoReturn:
        """See `Host`."""
        self.crash()
        await self._loop.create_future()
        raise AssertionError("the dead do not go on")

    def crash(self) -> None:
        """Die at once: no task of this process runs on."""
        if not self.dead:
            self.dead = True
            if self.ended is not None:
                self.ended(self)

    def freeze(self, seconds: float) -> None:
        """Stop for a while; half-way the channel gives the process up, then it goes on as if nothing had been."""
        self.frozen = True
        outside = Context()
        self._loop.call_later(seconds / 2, self._give_up, context=outside)
        self._loop.call_later(seconds, self._thaw, context=outside)

    def _give_up(self) -> None:
        if not self.dead and self.stopped is not None:
            self._note("is given up")
            self.stopped(self)

    def _thaw(self) -> None:
        self._note("goes on")
        self._loop.thaw(self)

    def _note(self, text: str) -> None:
        self._network.note(Note(f"{self.name} {text}"))


def host() -> Host:
    """The simulated process that the calling code runs in; for handlers, sources and targets of a scenario.

    Raises:
        LookupError: it runs in none.
    """
    lives = PROCESS.get()
    if not isinstance(lives, Process):
        msg = "no simulated process here; it is there inside a member or a producer of a scenario"
        raise LookupError(msg)
    return lives
