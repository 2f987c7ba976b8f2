"""Several workers: how soon another one takes over, and what four of them do on this machine beside one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from bench.row import Budget, Figure, Figures, Row
from penstock import App
from penstock.system.leases import LEASE_S

ROOT = Path(__file__).resolve().parents[2]
EVENTS, EVENTS_QUICK = 24_000, 400
PROGRAM = """
import hashlib, os, time
from pathlib import Path
import msgspec
from penstock import App
app = App("bench", path=Path(__file__).parent / "log")
class Item(msgspec.Struct):
    key: str
    sent_ns: int
class Done(msgspec.Struct):
    pid: int
    at_ns: int
items = app.topic("items", Item, key="key", partitions=16)
done = app.topic("done", Done, partitions=1)
@app.handle(items, into=done)
def work(item: Item) -> Done:
    if item.sent_ns == 0:
        hashlib.pbkdf2_hmac("sha256", b"x", b"y", 2000)
    return Done(os.getpid(), time.monotonic_ns())
"""


def program(directory: Path) -> tuple[Path, App]:
    """The program in a new directory, and its app."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "program.py"
    path.write_text(PROGRAM)
    from penstock.cli.program import load_app  # noqa: PLC0415

    return path, load_app(path)


def worker(path: Path) -> subprocess.Popen[bytes]:
    """One worker of it; what it says is in a file beside the program."""
    line = [sys.executable, "-m", "penstock.cli", "run", str(path)]
    with (path.parent / f"worker-{time.monotonic_ns()}.txt").open("wb") as out:
        return subprocess.Popen(line, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out)


def state_of(path: Path, workers: Iterable[subprocess.Popen[bytes]]) -> str:
    """How the workers are and what they said, for when they do not do what they are measured at."""
    states = [f"{process.pid}: {process.poll()}" for process in workers]
    texts = [file.read_text()[-2000:] for file in sorted(path.parent.glob("worker-*.txt"))]
    line = [sys.executable, "-m", "penstock.cli", "groups", "--log", str(path.parent / "log")]
    groups = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    return "\n".join([*states, *texts, groups.stdout, groups.stderr])


class TakeOver(Row):
    """Floor: a process of the same kind is killed, and its death is waited for by `waitpid`.

    The time from the signal to the first result, by another process, of an event that was published after it to a
    partition that the victim had.
    """

    name = "take-over"
    workload = "two idle workers share 16 partitions; one is killed (or stopped), events come for all of them"
    figures = (
        Figure("killed", "ms", "lower", Budget(200.0, "value"), floor="wait", label="kill -9"),
        Figure("stopped", "ms", "lower", Budget(LEASE_S * 1000 + 200.0, "value"), floor="wait", label="SIGSTOP"),
    )

    def setup(self, directory: Path, *, quick: bool) -> None:
        """See `Row`."""
        self.directory = directory
        self.runs = 0

    def floor(self) -> Figures:
        """See `Row`."""
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        start = time.perf_counter()
        child.kill()
        child.wait()
        return {"wait": (time.perf_counter() - start) * 1000}

    def measure(self) -> Figures:
        """See `Row`."""
        return {"killed": self._taken_over(signal.SIGKILL), "stopped": self._taken_over(signal.SIGSTOP)}

    def _taken_over(self, number: int) -> float:
        self.runs += 1
        path, app = program(self.directory / f"run-{self.runs}")
        kind = app.topics["items"].schema.type  # type: ignore[union-attr]
        workers = {process.pid: process for process in (worker(path), worker(path))}
        try:
            with app.client() as client:
                keys = [f"k{n}" for n in range(32)]

                def publish() -> bool:
                    for key in keys:
                        client.publish("items", kind(key, time.monotonic_ns()))
                    return False

                try:
                    self._until(lambda: publish() or len(set(self._pids(path))) == 2)
                except TimeoutError as exc:
                    raise TimeoutError(state_of(path, workers.values())) from exc
                time.sleep(0.5)
                before = len(self._results(path))
                victim, heir = workers
                start = time.monotonic_ns()
                os.kill(victim, number)
                publish()
                found: list[dict[str, int]] = []

                def enough() -> bool:
                    nonlocal found
                    found = [r for r in self._results(path)[before:] if r["pid"] == heir and r["at_ns"] > start]
                    return len(found) >= len(keys)

                self._until(enough, every_s=0.2)
                return (max(r["at_ns"] for r in found[: len(keys)]) - start) / 1e6
        finally:
            for process in workers.values():
                process.kill()
                process.wait()

    def _pids(self, path: Path) -> list[int]:
        return [r["pid"] for r in self._results(path)[-64:]]

    def _results(self, path: Path) -> list[dict[str, int]]:
        query = "select pid, at_ns from done order by _offset"
        line = [sys.executable, "-m", "penstock.cli", "query", query, "--json", "--log", str(path.parent / "log")]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
        return [json.loads(text) for text in done.stdout.splitlines()]

    def _until(self, so: Callable[[], bool], *, every_s: float = 0.3) -> None:
        deadline = time.monotonic() + 60
        while not so():
            if time.monotonic() > deadline:
                msg = "it does not come to that within a minute"
                raise TimeoutError(msg)
            time.sleep(every_s)


class FourWorkers(Row):
    """Floor: one worker does the same.

    On two cores; from the start of the processes to the last result, for a handler that only computes.
    """

    name = "four-workers"
    workload = "a CPU-bound handler, 0.6 ms an event; until idle, the starts of the processes included"
    figures = (Figure("events", "events/s", "higher", Budget(1.6)),)

    def setup(self, directory: Path, *, quick: bool) -> None:
        """See `Row`."""
        self.directory = directory
        self.count = EVENTS_QUICK if quick else EVENTS
        self.runs = 0

    def floor(self) -> Figures:
        """See `Row`."""
        return {"events": self._run(1)}

    def measure(self) -> Figures:
        """See `Row`."""
        return {"events": self._run(4)}

    def _run(self, workers: int) -> float:
        self.runs += 1
        path, app = program(self.directory / f"run-{self.runs}")
        kind = app.topics["items"].schema.type  # type: ignore[union-attr]
        with app.client() as client:
            client.publish_many("items", [kind(f"k{n % 1000}", 0) for n in range(self.count)])
        line = [sys.executable, "-m", "penstock.cli", "run", str(path), "--until-idle", "--workers", str(workers)]
        start = time.perf_counter()
        subprocess.run([*line, "--json"], cwd=ROOT, check=True, capture_output=True)
        return self.count / (time.perf_counter() - start)
