"""What the demonstration did: counts from the log, what was rejected and why, and a fingerprint of the results."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.cli.demo.source import Stream, events_of
from penstock.observe.inventory import group_facts, topic_facts
from penstock.observe.letters import causes, dead_letter_groups
from penstock.system.files import sync_directory, write_synced

if TYPE_CHECKING:
    from penstock.app.running import RunReport
    from penstock.channel.drivers.embedded import EmbeddedChannel

STREAMS: tuple[Stream, ...] = ("scheduled", "departed", "arrived")
LAKE, TABLE = "lake/departures", "flights.duckdb"
# Every row of both results, in one order; means are rounded because the order of float additions is not fixed.
_RESULTS = {
    "departures": "SELECT * FROM read_parquet('{out}/lake/departures/**/*.parquet') ORDER BY ALL",
    "carrier_delay": """
        SELECT carrier, airline, flights, round(mean_delay_min, 6), max_delay_min FROM made.carrier_delay ORDER BY ALL
    """,
}


class Result(msgspec.Struct, frozen=True):
    """One result: where it is, how many rows it has, and SHA-256 over all of them in a fixed order."""

    path: str
    rows: int
    sha256: str


class Rejected(msgspec.Struct, frozen=True):
    """Events that a group gave up for one cause."""

    group: str
    reason: str
    count: int


class DemoReport(msgspec.Struct, frozen=True):
    """Everything that `build/demo.json` says. `events` counts what each topic holds, `worked_on` what this run did."""

    log: str
    seconds: float
    events: dict[str, int]
    worked_on: dict[str, int]
    events_per_s: dict[str, float]
    rejected: list[Rejected]
    results: dict[str, Result]
    hash: str


def whole(channel: EmbeddedChannel) -> bool:
    """Whether every event of the data is published, and everything published is worked on."""
    published = {fact.name: fact.events for fact in topic_facts(channel)}
    if any(published.get(f"flight_{stream}") != events_of(stream) for stream in STREAMS):
        return False
    return all(group.lag == 0 for group in group_facts(channel, now_us=0))


async def report(channel: EmbeddedChannel, out: Path, run: RunReport) -> DemoReport:
    """Look at the log and the results after a run."""
    topics = channel.topics()
    given_up = await causes(channel, topics, dead_letter_groups(topics))
    results = results_of(out)
    together = sha256("\n".join(result.sha256 for result in results.values()).encode()).hexdigest()
    events = {f"{part.kind} {part.name}": part.events for part in run.parts}
    return DemoReport(
        log=str(channel.directory),
        seconds=round(run.seconds, 3),
        events={fact.name: fact.events for fact in topic_facts(channel) if not fact.internal},
        worked_on=events,
        events_per_s={name: round(count / run.seconds) for name, count in events.items()},
        rejected=[Rejected(cause.group, cause.reason, cause.count) for cause in given_up],
        results=results,
        hash=together,
    )


def results_of(out: Path) -> dict[str, Result]:
    """Both results as they lie on the disk."""
    import duckdb  # noqa: PLC0415 - only the report needs it

    paths = {"departures": out / LAKE, "carrier_delay": out / TABLE}
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        quoted = str(out).replace("'", "''")
        db.execute(f"ATTACH '{quoted}/{TABLE}' AS made (READ_ONLY)")
        found: dict[str, Result] = {}
        for name, sql in _RESULTS.items():
            rows, digest = _digest(db, sql.format(out=quoted))
            found[name] = Result(str(paths[name]), rows, digest)
    return found


def _digest(db: Any, sql: str) -> tuple[int, str]:
    digest, count = sha256(), 0
    cursor = db.execute(sql)
    while rows := cursor.fetchmany(10_000):
        count += len(rows)
        digest.update(msgspec.json.encode(rows))
    return count, digest.hexdigest()


def save(found: DemoReport, path: Path) -> None:
    """Write the report as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_synced(path, msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    sync_directory(path.parent)
