"""The README's figures beside those of others, from build/bench.json.

python -m tests.docs.figures      writes them, from the last `make bench`
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from tests.docs.guarantees import README, put

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "build" / "bench.json"
MACHINE = "2 cores, virtual disk"

# What is compared, our rows of make bench with how each is called here, and what others reach on 2 cores with the same
# events of 189 bytes.
COMPARED: list[tuple[str, Mapping[str, str], str]] = [
    (
        "publish durably from Python, one by one, events/s",
        {"publish-one-by-one": "pipelined"},
        "Kafka 4.3 idempotent 680 k (530 k synced per batch, 3 k awaiting each), Postgres COPY 474 k, "
        "Redis AOF-always 94 k, NATS JetStream 18 k, RabbitMQ quorum 11 k",
    ),
    (
        "handle per event in Python, events/s",
        {"handle-rows": "sync, JSON", "handle-columns": "sync, columns", "handle-async": "async"},
        "Bytewax 1.4 M (a file, no offsets), confluent-kafka bare 800 k, Kafka Streams (JVM) 335 k, Pathway 197 k, "
        "Quix 101 k, FastStream 4 to 18 k",
    ),
    (
        "publish to handler in another process, 1,000/s, durable, ms",
        {"latency/p50": "p50", "latency/p99": "p99"},
        "Redis AOF-always 0.27 / 0.99, Kafka 0.44 / 4.9 (p50 / p99)",
    ),
]


class Figure(msgspec.Struct):
    """One row of build/bench.json, as far as it is shown."""

    name: str
    value: float | None
    unit: str
    quick: bool = False


def figures(rows: Mapping[str, Figure]) -> str:
    """The table; a row that was not measured is left out."""
    lines = ["| what | Penstock | others |", "| --- | --- | --- |"]
    for what, ours, others in COMPARED:
        shown = [f"{_value(rows[name])} ({label})" for name, label in ours.items() if name in rows]
        if shown:
            lines.append(f"| {what} | {', '.join(shown)} | {others} |")
    return "\n".join(lines)


def _value(row: Figure) -> str:
    value = row.value or 0.0
    if row.unit == "ms":
        return f"{value:.2f}"
    return f"{value / 1e6:.2g} M" if value >= 1e6 else f"{value / 1e3:.0f} k"


def write() -> None:
    """Write the section.

    Raises:
        SystemExit: the figures are of a quick run, which is no measurement.
    """
    rows = {row.name: row for row in msgspec.json.decode(BENCH.read_bytes(), type=list[Figure]) if row.value}
    if any(row.quick for row in rows.values()):
        raise SystemExit(f"{BENCH} is of a quick run: make bench")
    text = (
        f"Measured by `make bench` on {MACHINE}; others on 2 cores with the same events of 189 bytes, each used as its "
        f"client does it best.\n\n{figures(rows)}\n\nWhich budgets are not met, and why: "
        "[decision 11](docs/adr/0011-performance-limits.md)."
    )
    README.write_text(put(README.read_text(), "figures", text))


if __name__ == "__main__":
    write()
