"""The floor of fail-once-kept: a loop in memory that parks the keys of failed events and records nothing.

As fast as we could write it: events are decoded a part at a time, those that wait are kept as bytes (as objects they
cost more), and a part is split only when one of its events waits.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import msgspec

from bench.workload import Bid, decode_bid, encode

PART = 1_000
_decode_part = msgspec.json.Decoder(Bid).decode_lines

Handler = Callable[[Bid, int], None]
"""Takes an event and the number of the attempt at it; raises when it fails."""


class Parking:
    """Keys that wait since an event of theirs failed, each with its events in order."""

    def __init__(self, handler: Handler, pause_s: float) -> None:
        self._handler = handler
        self._pause_s = pause_s
        self._lines: dict[int, list[bytes]] = {}
        self._due: deque[tuple[float, int]] = deque()

    def handle(self, body: bytes) -> None:
        """Handle the events of a part whose keys do not wait."""
        handler, lines = self._handler, self._lines
        bodies: list[bytes] = []
        for index, event in enumerate(_decode_part(body)):
            key = event.auction
            if key in lines:
                bodies = bodies or body.split(b"\n")
                lines[key].append(bodies[index])
                continue
            try:
                handler(event, 1)
            except ValueError:
                bodies = bodies or body.split(b"\n")
                self._park(key, bodies[index : index + 1])

    def retry(self) -> None:
        """Handle what is due, each line up to an event that fails."""
        handler, due, now = self._handler, self._due, time.monotonic()
        while due and due[0][0] <= now:
            _, key = due.popleft()
            line, attempt = self._lines.pop(key), 2
            for index, body in enumerate(line):
                try:
                    handler(decode_bid(body), attempt)
                except ValueError:
                    self._park(key, line[index:])
                    break
                attempt = 1

    def finish(self) -> None:
        """Wait for what waits."""
        while self._due:
            time.sleep(max(0.0, self._due[0][0] - time.monotonic()))
            self.retry()

    def _park(self, key: int, line: list[bytes]) -> None:
        self._lines[key] = line
        self._due.append((time.monotonic() + self._pause_s, key))


def parts_of(events: Sequence[Bid]) -> list[bytes]:
    """The events as the log hands them over, `PART` at a time."""
    return [b"\n".join(map(encode, events[start : start + PART])) for start in range(0, len(events), PART)]


def handle_all(parts: Iterable[bytes], handler: Handler, *, pause_s: float) -> float:
    """Handle every event of these parts; returns the seconds it took."""
    parking, start = Parking(handler, pause_s), time.perf_counter()
    for body in parts:
        parking.retry()
        parking.handle(body)
    parking.finish()
    return time.perf_counter() - start
