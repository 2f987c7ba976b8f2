"""Plain handlers side by side, in processes of their own: a crash, or a call that takes too long, ends one of those."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from penstock.app.declared import Handled, Program
from penstock.channel.api import Assigned, LedgerWrite, Subscription
from penstock.engine import remote
from penstock.engine.calling import NotCalled, Shape
from penstock.engine.concurrent import ConcurrentWork
from penstock.engine.context import Context
from penstock.engine.handler import limited
from penstock.engine.results import Topics
from penstock.engine.work import Read, Stopping
from penstock.errors import ConfigError, TransientError
from penstock.system.children import Child, Died
from penstock.system.ports import System
from penstock.system.slots import Slot

MODULE = "penstock.cli.handling"
"""What the processes run."""


class ProcessDied(TransientError):
    """The process that handled the event died."""


class Processes:
    """Calls a handler in processes, each with one event at a time. Started when they are needed, kept until `close`."""

    def __init__(self, program: Program, handled: Handled, topics: Topics) -> None:
        name = handled.handler.name
        if program.file is None:
            msg = (
                "a plain function side by side runs in processes that load the program from its file, and this one "
                "has none: put it into a file, make the handler async, or leave this out"
            )
            raise ConfigError(msg, path=f"handlers.{name}.concurrency")
        self._name = name
        self._command = [sys.executable, "-m", MODULE, str(program.file), program.name, name]
        self._topics = topics
        self._module = handled.handler.function.__module__
        self._named: dict[str, str] = {}
        limit_s = handled.handler.retries.timeout_s
        self._asked = self._said if limit_s is None else limited(self._said, limit_s)
        self._idle: list[Child] = []
        self._all: set[Child] = set()

    async def ready(self) -> None:
        """Start one, to see that the program can be loaded.

        Raises:
            ConfigError: it cannot, and why.
            NotCalled: it died over that.
        """
        if not self._all:
            self._idle.append(await self._start())

    async def _start(self) -> Child:
        child = await Child.start(self._command)
        self._all.add(child)
        with self._ended_with(
            child, lambda how: NotCalled(f"a process for handler {self._name} did not come up: {how}")
        ):
            said = remote.decode_said(await child.answer())
        if isinstance(said, remote.Ready):
            self._named[said.module] = self._module
            return child
        self._end(child)
        reason = said.reason if isinstance(said, remote.Unable) else repr(said)
        raise ConfigError(f"a process for it cannot run it: {reason}", path=f"handlers.{self._name}.concurrency")

    async def call(self, event: Any, context: Context) -> Any:
        """Handle the event in one of the processes. When this is cancelled, that process is ended.

        Raises:
            ProcessDied: the handler ended its process.
            TimeoutError: it took too long; the time until the process has loaded the program does not count.
            NotCalled: there is no process for it, and none can be started.
            Exception: what the handler raised.
        """
        child = await self._free()
        with self._ended_with(child, lambda how: ProcessDied(f"the process that handled it died: {how}")):
            said = await self._asked((child, event, context))
        self._idle.append(child)
        if isinstance(said, remote.Raised):
            raise said.error(self._named)
        return said.results()

    async def _free(self) -> Child:
        """One that has nothing to do; one that died meanwhile did so over no event."""
        while self._idle:
            child = self._idle.pop()
            if child.lives:
                return child
            self._end(child)
        try:
            return await self._start()
        except ConfigError as exc:  # it could be loaded before; the next `ready` tells why it cannot any more
            while self._idle:
                self._end(self._idle.pop())
            raise NotCalled(str(exc)) from exc

    async def _said(self, call: tuple[Child, Any, Context]) -> remote.Given | remote.Raised:
        child, event, context = call
        source = self._topics.source
        child.ask(remote.encode_call(remote.Call.of(source.encode(event), context.delivered, context)))
        while True:
            match remote.decode_said(await child.answer()):
                case remote.Given() | remote.Raised() as said:
                    return said
                case remote.Asks(token=token):
                    try:
                        child.ask(b"\1" if context.once(token) else b"\0")
                    except (TypeError, ValueError) as exc:
                        child.ask(str(exc).encode())
                case said:
                    raise Died(f"it said {said!r}")

    @contextmanager
    def _ended_with(self, child: Child, died: Callable[[str], Exception]) -> Generator[None, None, None]:
        """Who does not wait for its answer to the end ends the process: nobody knows what it would say next."""
        try:
            yield
        except BaseException as exc:
            self._end(child)
            if isinstance(exc, Died):
                raise died(str(exc)) from exc
            raise

    def _end(self, child: Child) -> None:
        child.kill()
        self._all.discard(child)

    async def close(self) -> None:
        """End all of them; what they were doing is not finished."""
        ended = list(self._all)
        for child in ended:
            self._end(child)
        self._idle.clear()
        await asyncio.gather(*(child.ended() for child in ended))


class ProcessWork(ConcurrentWork):
    """See `ConcurrentWork`: a plain function, called in processes, which this owns."""

    def __init__(
        self,
        program: Program,
        handled: Handled,
        subscription: Subscription,
        topics: Topics,
        *,
        system: System,
        read: Read,
    ) -> None:
        self._processes = Processes(program, handled, topics)
        spec = msgspec.structs.replace(handled.handler, function=self._processes.call, shape=Shape(True, True))
        super().__init__(spec, subscription, topics, system=system, read=read)

    def _in_time(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """The processes see to it."""
        return function

    async def assigned(self, assigned: Assigned, slot: Slot | None, stopping: Stopping) -> Sequence[LedgerWrite]:
        """See `Work`."""
        await self._processes.ready()
        return await super().assigned(assigned, slot, stopping)

    async def close(self) -> None:
        """See `Work`."""
        await super().close()
        await self._processes.close()
