"""Several processes of one program under one parent: started, replaced when they die, stopped, and added up.

The workers are processes of their own (never forked), and share the partitions by themselves; the parent only starts
them. Each writes its states to the pipe that it was given as its standard output, one JSON document a line; what its
program prints goes to standard error.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from penstock.cli import exits, output
from penstock.system.orphans import end_with
from penstock.system.ports import RealClock

if TYPE_CHECKING:
    from penstock.app.app import App
    from penstock.app.running import RunOptions, RunReport
    from penstock.engine.group import GroupState

PAUSE_FIRST_S = 0.1
PAUSE_MAX_S = 5.0
LIVED_S = 10.0
"""A worker that lived so long is replaced at once when it dies."""
LOADS_MAX = 5
"""A program that ends its worker so often in a row before it is loaded will do so again."""
LAST_WORDS_S = 0.2
"""How long a dead worker's pipe is read on: what its handlers have forked may hold it open for ever."""

Show = Callable[[Sequence["GroupState"]], None]


def serve(load: Callable[[], App], options: RunOptions) -> int:
    """Run an app as one of several workers: a closed standard input means to end.

    The first it says is that the program is loaded: no states yet. What `load` and the app's own code print must not
    get between them.
    """
    from penstock.app.running import run_app  # noqa: PLC0415

    end_with(sys.stdin.fileno())
    parent = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def tell(states: Sequence[GroupState]) -> None:
        with suppress(BrokenPipeError):  # the parent is gone, and standard input says so too
            parent.write(msgspec.json.encode(states) + b"\n")
            parent.flush()

    try:
        with redirect_stdout(sys.stderr):
            app = load()
            tell(())
            run_app(app, options, tell)
    finally:
        with suppress(BrokenPipeError):
            parent.close()
    return exits.DONE


class Plan(msgspec.Struct, frozen=True):
    """What the workers are to run."""

    program: Path
    app: str
    workers: int
    until_idle: bool = False

    def command(self, name: str) -> list[str]:
        """The command line of one worker."""
        line = [sys.executable, "-m", "penstock.cli", "run", str(self.program), "--app", self.app, "--worker", name]
        return [*line, "--until-idle"] if self.until_idle else line


def run_workers(plan: Plan, show: Show) -> tuple[RunReport, int]:
    """Run them until they are told to stop, or have nothing left to do; what they did together, and the exit code."""
    from penstock.app.running import RunReport  # noqa: PLC0415

    clock = RealClock()
    started = clock.monotonic_s()
    crew = _Crew(plan, show, clock)
    code = asyncio.run(crew.run())
    return RunReport(crew.states(), clock.monotonic_s() - started), code


class _Crew:
    def __init__(self, plan: Plan, show: Show, clock: RealClock) -> None:
        self._plan = plan
        self._show = show
        self._clock = clock
        self._stopping = asyncio.Event()
        self._signals = 0
        self._failed = False
        self._running: dict[str, asyncio.SubprocessTransport] = {}
        self._told: dict[str, list[GroupState]] = {}  # by worker: what its newest life said last; none: not loaded yet
        self._over: dict[tuple[str, str], GroupState] = {}  # by part: what lives before that have counted

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked)
        try:
            await asyncio.gather(*(self._keep(f"worker {number + 1}") for number in range(self._plan.workers)))
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
        if self._failed:
            return exits.FAILED
        return exits.INTERRUPTED if self._signals > 1 else exits.DONE

    def states(self) -> list[GroupState]:
        """What all lives of all workers did, part by part."""
        parts = {part: [(False, state)] for part, state in self._over.items()}
        for name, states in self._told.items():
            for state in states:
                parts.setdefault((state.kind, state.name), []).append((name in self._running, state))
        return [_sum(found) for found in parts.values()]

    def _bury(self, name: str) -> None:
        """The worker begins another life: of the one before only what it counted stays, the rest is said again."""
        for state in self._told.pop(name, ()):
            counted = msgspec.structs.replace(state, state="done", reason="", stopped="", gauge=type(state.gauge)())
            part, before = (state.kind, state.name), self._over.get((state.kind, state.name))
            self._over[part] = counted if before is None else _sum([(False, before), (False, counted)])

    def _asked(self) -> None:
        """The first signal drains every worker, a second one ends them at once."""
        self._signals += 1
        if self._signals == 1:
            self._drain()
        else:
            self._send(signal.SIGKILL)

    def _drain(self) -> None:
        """Have every worker come to an end, once: to a worker another signal means to end at once."""
        if not self._stopping.is_set():
            self._stopping.set()
            self._send(signal.SIGTERM)

    def _send(self, number: int) -> None:
        for process in self._running.values():
            with suppress(ProcessLookupError):
                process.send_signal(number)

    async def _keep(self, name: str) -> None:
        """One worker, life after life, until it comes to an end by itself."""
        pause_s, unloaded = PAUSE_FIRST_S, 0
        while not self._stopping.is_set():
            began = self._clock.monotonic_s()
            self._bury(name)
            code = await self._live(name)
            loaded = name in self._told
            if self._stopping.is_set() or (code == exits.DONE and loaded):
                return
            if code in (exits.FAILED, exits.USAGE):  # it has said why: another one would fail alike
                self._fail()
                return
            how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            unloaded = 0 if loaded else unloaded + 1
            if not loaded:
                how += f" before {self._plan.program.name} was loaded"
            if unloaded == LOADS_MAX:
                output.note(
                    f"error: {name} {how}, {unloaded} times in a row; see what the program does as it is loaded"
                )
                self._fail()
                return
            lived = self._clock.monotonic_s() - began > LIVED_S
            pause_s = PAUSE_FIRST_S if lived else min(PAUSE_MAX_S, pause_s * 2)
            output.note(f"{name} {how}; the next one starts in {pause_s:.1f} s")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)

    def _fail(self) -> None:
        """No worker goes on where one cannot."""
        self._failed = True
        self._drain()

    async def _live(self, name: str) -> int:
        def said(line: bytes) -> None:
            self._told[name] = _states(line)
            if self._told[name]:
                self._show(self.states())

        process, listener = await asyncio.get_running_loop().subprocess_exec(
            lambda: _Listener(said),
            *self._plan.command(name),
            stderr=None,
            start_new_session=True,  # Ctrl-C reaches the parent, which tells the workers once
        )
        self._running[name] = process
        if self._stopping.is_set():
            process.terminate()
        await listener.ended.wait()
        with suppress(TimeoutError):
            await asyncio.wait_for(listener.silent.wait(), LAST_WORDS_S)
        del self._running[name]
        code = process.get_returncode()
        process.close()
        assert code is not None
        return code


class _Listener(asyncio.SubprocessProtocol):
    """Hears what one worker says, line by line, and when it ends."""

    def __init__(self, said: Callable[[bytes], None]) -> None:
        self.ended = asyncio.Event()
        self.silent = asyncio.Event()
        self._said = said
        self._rest = b""

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._said(line)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 1:
            self.silent.set()

    def process_exited(self) -> None:
        self.ended.set()


def _states(line: bytes) -> list[GroupState]:
    from penstock.engine.group import GroupState  # noqa: PLC0415 - loads the engine

    return msgspec.json.decode(line, type=list[GroupState])


def _sum(found: Sequence[tuple[bool, GroupState]]) -> GroupState:
    """One part over all workers: counts added up, and what most concerns people of what is said now."""
    _, first = found[0]
    now = [state for lives, state in found if lives] or [state for _, state in found]
    order = ("failed", "running", "starting", "idle", "waiting", "done")
    telling = min(now, key=lambda state: order.index(state.state))
    return msgspec.structs.replace(
        first,
        state=telling.state,
        reason=telling.reason,
        stopped=next((state.stopped for state in now if state.stopped), ""),
        events=sum(state.events for _, state in found),
        dead=sum(state.dead for _, state in found),
        steps=sum(state.steps for _, state in found),
        repeated=sum(state.repeated for _, state in found),
        gauge=type(first.gauge)(
            sum(state.gauge.keys for state in now),
            sum(state.gauge.events for state in now),
            next((state.gauge.paused for state in now if state.gauge.paused), ""),
        ),
    )
