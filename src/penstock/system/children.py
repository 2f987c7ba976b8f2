"""Processes that work for this one: what they are asked goes to their standard input, what they say comes by a pipe.

Frames are a length in four bytes and as many bytes. A child whose parent is gone, however that came about, ends; one
that dies is noticed by its end, for what it has started may keep its pipe open.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import threading
from asyncio.subprocess import Process
from collections.abc import Iterator, Sequence
from contextlib import suppress
from queue import SimpleQueue
from types import FrameType
from typing import BinaryIO

HEAD = 4
_END_S = 1.0
"""How long a process that has closed its pipe may take to end by itself."""
_PR_SET_PDEATHSIG = 1


class Died(Exception):
    """The process ended before it answered; the message says how."""


class Child:
    """One process, as its parent has it. Used from one event loop; the owner kills it."""

    def __init__(self, process: Process, reader: asyncio.StreamReader, transport: asyncio.BaseTransport) -> None:
        self._process = process
        self._reader = reader
        self._transport = transport
        self._end = asyncio.ensure_future(process.wait())

    @classmethod
    async def start(cls, command: Sequence[str]) -> Child:
        """Start `command`; the number of the pipe it is to answer by is its last argument."""
        reading, writing = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                str(writing),
                stdin=asyncio.subprocess.PIPE,
                pass_fds=(writing,),
                start_new_session=True,  # Ctrl-C is its parent's business
            )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        reader = asyncio.StreamReader()
        try:
            transport, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb", buffering=0)
            )
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return cls(process, reader, transport)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def lives(self) -> bool:
        """Whether nothing is known of its end."""
        return not self._end.done()

    def ask(self, frame: bytes) -> None:
        """Send it a frame."""
        assert self._process.stdin is not None
        self._process.stdin.write(len(frame).to_bytes(HEAD) + frame)

    async def answer(self) -> bytes:
        """The next frame it sends.

        Raises:
            Died: there will be none.
        """
        reading = asyncio.ensure_future(self._read())
        try:
            await asyncio.wait((reading, self._end), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():  # it may have answered with its last breath
                await asyncio.wait((reading,), timeout=0)
            if reading.done() and not reading.cancelled() and reading.exception() is None:
                return reading.result()
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError, asyncio.IncompleteReadError):
                await reading
        await asyncio.wait((self._end,), timeout=_END_S)
        self.kill()  # it has closed its pipe, and may live
        raise Died(_how(await self._end))

    async def _read(self) -> bytes:
        size = int.from_bytes(await self._reader.readexactly(HEAD))
        return await self._reader.readexactly(size)

    def kill(self) -> None:
        """End it at once, with what it has started, other than in a session of its own; it may have ended already."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)  # `Process.kill` may take its end from who waits for it
        self._transport.close()
        if self._process.stdin is not None:
            self._process.stdin.close()

    async def ended(self) -> None:
        """Wait for its end."""
        await self._end


def _how(code: int) -> str:
    if code >= 0:
        return f"it ended with code {code}"
    try:
        return f"it was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"it was killed by signal {-code}"


class Parent:
    """The other end, in the child. Standard input is empty for whatever else runs here.

    When the child ends is its parent's business: SIGTERM, which may come to all processes of a service at once, does
    nothing to it.
    """

    def __init__(self, pipe: int) -> None:
        _end_with_parent()
        signal.signal(signal.SIGTERM, _not_now)
        os.register_at_fork(after_in_child=_as_usual)
        self._pid = os.getpid()
        os.set_inheritable(pipe, False)
        self._answers: BinaryIO = os.fdopen(pipe, "wb", buffering=0)
        asked = os.dup(sys.stdin.fileno())
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, sys.stdin.fileno())
        os.close(nothing)
        self._asked: BinaryIO = os.fdopen(asked, "rb")
        self._frames: SimpleQueue[bytes] = SimpleQueue()
        threading.Thread(target=self._read, name="penstock-parent", daemon=True).start()

    def _read(self) -> None:
        while len(head := self._asked.read(HEAD)) == HEAD:
            self._frames.put(self._asked.read(int.from_bytes(head)))
        os.kill(os.getpid(), signal.SIGKILL)  # nobody waits for what is being done here any more

    def frames(self) -> Iterator[bytes]:
        """What it is asked, one frame after the other; without end."""
        while True:
            yield self._frames.get()

    def answer(self, frame: bytes) -> None:
        """Send a frame. A forked copy of the child, which was asked nothing, ends here."""
        if os.getpid() != self._pid:
            os._exit(1)
        rest = memoryview(len(frame).to_bytes(HEAD) + frame)
        while rest:
            rest = rest[self._answers.write(rest) :]


def _end_with_parent() -> None:
    """Have the kernel end this process with its parent, where it can: Python's threads may not come to it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _not_now(number: int, frame: FrameType | None) -> None:
    """A signal that is not for the child."""


def _as_usual() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
