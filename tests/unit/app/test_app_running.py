"""Running an app, in one process and again and again."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from tests.faults import appwork


def held(place: Path, threads: int) -> tuple[int, int, int]:
    """Open files, threads, and records of attempts in the log; a thread that was told to end may take a moment."""
    until_s = time.monotonic() + 10
    while threading.active_count() > threads and time.monotonic() < until_s:
        time.sleep(0.01)
    return len(os.listdir("/dev/fd")), threading.active_count(), sum(1 for one in place.glob("log/slots/*/*"))


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="the system does not tell what a process has open")
def test_run_again_and_again_it_keeps_nothing_open(tmp_path: Path) -> None:
    """As a schedule does, or a notebook: with a handler, flows, an aggregate and sinks."""
    app = appwork.made(tmp_path)
    seen: list[tuple[int, int, int]] = []
    threads = threading.active_count()
    for round_ in range(6):
        with app.client() as client:
            client.publish_many("orders", [appwork.order(round_ * 50 + number) for number in range(50)])
        app.run(until_idle=True)
        seen.append(held(tmp_path, threads))
    first, last = (list(map(max, zip(*half, strict=True))) for half in (seen[:3], seen[3:]))
    assert all(now <= then for now, then in zip(last, first, strict=True)), seen
