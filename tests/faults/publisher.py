"""A publisher as a program of its own: ``python -m tests.faults.publisher DIRECTORY NAME FIRST COUNT [WAIT_S]``.

Publishes events one by one to partition 0 of topic `shared` and prints each once it is acked; ends with the name of
the error that stopped it, if one did.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from penstock.errors import PenstockError
from penstock.log.api import Appended
from penstock.log.log import LogConfig
from tests.faults import logwork

TOPIC = "shared"


def start(directory: Path, name: str, count: int, *, first: int = 0, wait_s: float = 60) -> subprocess.Popen[str]:
    """Start one; it prints its acked events, one a line."""
    command = [
        sys.executable,
        "-m",
        "tests.faults.publisher",
        str(directory),
        name,
        str(first),
        str(count),
        str(wait_s),
    ]
    return subprocess.Popen(command, cwd=logwork.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> list[str]:
    """Wait for its end; the lines that it printed."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out.splitlines()


def main(directory: str, name: str, first: str, count: str, wait_s: str) -> None:
    """Publish, print, end."""
    try:
        with logwork.opened(Path(directory), LogConfig(lock_wait_s=float(wait_s))) as log:
            (pid,) = logwork.declare(log, TOPIC, 1)
            for number in range(int(first), int(first) + int(count)):
                body = f"{name}-{number}"
                answer = logwork.publish(log, pid, number, [body.encode()], producer=name)
                assert isinstance(answer, Appended), answer
                print(body, flush=True)
    except PenstockError as exc:
        print(f"{type(exc).__name__}: {exc}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
