"""Sends at a steady rate and gathers what a reader in another process measured; shared by floor and product."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from bench.row import Figures
from bench.stats import percentile

RATE_HZ = 1000
READER_DEADLINE_S = 60
_ROOT = Path(__file__).resolve().parent.parent


def paced(send: Callable[[], None], count: int, rate_hz: float = RATE_HZ) -> float:
    """Call `send` `count` times, each when it is due; returns the rate that was reached, per second.

    A call that takes longer than its slot is followed by the next at once, until the schedule is met again.
    """
    start = time.perf_counter()
    for index in range(count):
        while (wait := start + index / rate_hz - time.perf_counter()) > 0:
            time.sleep(wait)
        send()
    return count / (time.perf_counter() - start)


async def paced_async(send: Callable[[], Awaitable[None]], count: int, rate_hz: float = RATE_HZ) -> float:
    """`paced` for a loop: `send` is awaited."""
    start = time.perf_counter()
    for index in range(count):
        await asyncio.sleep(max(0.0, start + index / rate_hz - time.perf_counter()))
        await send()
    return count / (time.perf_counter() - start)


def spawn(module: str, *arguments: object) -> subprocess.Popen[str]:
    """Start `python -m module arguments…` in the project, with pipes on both ends; the caller waits for it."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT)


def said(process: subprocess.Popen[str], word: str) -> None:
    """Wait until the process has said `word`.

    Raises:
        RuntimeError: it said something else, or ended.
    """
    assert process.stdout is not None
    line = process.stdout.readline()
    if line != f"{word}\n":
        msg = f"{process.args!r} said {line!r}, expected {word!r}; its standard error says why"
        raise RuntimeError(msg)


def fifo_to(reader: subprocess.Popen[str], fifo: Path) -> int:
    """The FIFO opened for writing as soon as the reader has it open; the caller closes it.

    Raises:
        RuntimeError: the reader ended first.
        TimeoutError: it did neither within the deadline.
    """
    deadline = time.perf_counter() + READER_DEADLINE_S
    while time.perf_counter() < deadline:
        try:
            fd = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as exc:
            if exc.errno != errno.ENXIO:  # ENXIO: nobody reads yet
                raise
            if reader.poll() is not None:
                msg = f"the reader {reader.args!r} ended with {reader.returncode} before it opened {fifo}"
                raise RuntimeError(msg) from exc
            time.sleep(0.005)
        else:
            os.set_blocking(fd, True)
            return fd
    reader.kill()
    reader.communicate()
    msg = f"the reader {reader.args!r} did not open {fifo} within {READER_DEADLINE_S} s"
    raise TimeoutError(msg)


def latencies_of(reader: subprocess.Popen[str]) -> list[int]:
    """Wait for a reader that prints its latencies (nanoseconds, a JSON list) and ends.

    Raises:
        RuntimeError: it failed; what it said is on the standard error.
    """
    try:
        out, _ = reader.communicate(timeout=READER_DEADLINE_S)
    except subprocess.TimeoutExpired:
        reader.kill()
        reader.communicate()
        raise
    if reader.returncode:
        msg = f"the reader {reader.args!r} ended with {reader.returncode}; its standard error says why"
        raise RuntimeError(msg)
    return json.loads(out)


def figures_of(latencies_ns: Sequence[int], warmup: int) -> Figures:
    """Median and 99th percentile in milliseconds, without the first `warmup` events."""
    kept = latencies_ns[warmup:]
    return {"p50": percentile(kept, 50) / 1e6, "p99": percentile(kept, 99) / 1e6}
