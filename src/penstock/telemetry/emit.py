"""Counters, spans and structured log lines: emitted here, collected by whoever installs a collector.

Without a collector a counter costs one dictionary update per call, and calls are per batch, never per event.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import ClassVar, Protocol

from penstock.system.pipe import Lock

logger = logging.getLogger("penstock")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

_counting = Lock()  # clients count from their threads
Labels = tuple[tuple[str, str], ...]


class Collector(Protocol):
    """Receives spans as they end."""

    def span(self, name: str, fields: dict[str, object], *, error: str | None) -> None:
        """A unit of work has ended."""
        ...


class _Telemetry:
    counters: ClassVar[dict[tuple[str, Labels], float]] = {}
    collector: ClassVar[Collector | None] = None


def count(name: str, by: float = 1, **labels: str) -> None:
    """Add to a counter (Prometheus naming: snake case, `_total`, base units)."""
    key = (name, tuple(sorted(labels.items())))
    with _counting:
        _Telemetry.counters[key] = _Telemetry.counters.get(key, 0) + by


def counters() -> dict[tuple[str, Labels], float]:
    """All counters of this process so far: (name, labels) → value."""
    return dict(_Telemetry.counters)


def reset() -> None:
    """Forget all counters; for tests."""
    _Telemetry.counters.clear()


def collect(collector: Collector | None) -> None:
    """Install the collector of spans, or remove it."""
    _Telemetry.collector = collector


@contextmanager
def span(name: str, **fields: object) -> Generator[dict[str, object]]:
    """A unit of work; fields may be added to the yielded dictionary until it ends."""
    collector = _Telemetry.collector
    if collector is None:
        yield fields
        return
    error: str | None = None
    try:
        yield fields
    except BaseException as exc:
        error = type(exc).__name__
        raise
    finally:
        collector.span(name, fields, error=error)


def clean(text: str) -> str:
    """Text that cannot forge a log line or move a terminal's cursor: control characters are shown as escapes."""
    return _CONTROL.sub(lambda m: f"\\x{ord(m.group()):02x}", text)


def log(level: int, message: str, **fields: object) -> None:
    """One structured log line: the message, then `name=value` fields, all free of control characters."""
    if logger.isEnabledFor(level):
        text = " ".join([message, *(f"{k}={v}" for k, v in fields.items())])
        logger.log(level, "%s", clean(text), extra={"penstock": fields})
