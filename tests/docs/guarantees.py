"""The tables of docs/guarantees.md and the README that are made from build/faults.json and build/conformance.json.

python -m tests.docs.guarantees      writes them, from what the last runs showed
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from penstock.testing.conformance.report import REPORT as CONFORMANCE
from penstock.testing.conformance.report import Finding
from penstock.testing.simulation.runner import REPORT as SIMULATION
from penstock.testing.simulation.runner import Report, Searched
from tests.controls.manifest import controls
from tests.faults.report import REPORT as FAULTS
from tests.faults.report import Row, read

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "guarantees.md"
README = ROOT / "README.md"
MANIFEST = ROOT / "tests" / "controls" / "controls.toml"

# What each edge promises: (edge, processing, durability, order, by which mechanism).
EDGES: list[tuple[str, str, str, str, str]] = [
    (
        "client → topic",
        "effectively-once",
        "D2",
        "per key",
        "one transaction per publish, acked after COMMIT; (producer, epoch, sequence) is stored once, within the last "
        "100,000 publishes of a producer seen in the last 30 days",
    ),
    (
        "files → topic",
        "effectively-once",
        "D2",
        "per key",
        "the position read is committed with the events, under the source's own sequence",
    ),
    (
        "topic → handler → topic, dead letters",
        "atomic",
        "D2",
        "per key",
        "fence, progress, results, dead letters and attempts change in one transaction",
    ),
    (
        "what a handler does elsewhere",
        "at-least-once",
        "none",
        "per key",
        "a step that was not committed is handled again",
    ),
    (
        "topic → flow → topic",
        "atomic",
        "D2",
        "per key",
        "fence, progress, results and keyed state change in one transaction",
    ),
    (
        "topic → Parquet directory",
        "effectively-once",
        "D2",
        "per key",
        "a manifest per partition is the commit, created by a hard link; the offset lives in it",
    ),
    (
        "topic → DuckDB table",
        "effectively-once",
        "D2",
        "per key",
        "the offset is a row of the same file, changed in the transaction that writes the data",
    ),
]

# Faults by number, and what is required of us, in words.
WORDS: dict[str, str] = {
    "A1": "kill -9 at any write: acked events are in the log, offsets have no gap, results, state and progress agree",
    "A2": "power loss (unsynced writes dropped, reordered, torn): `full` loses nothing acked, none contradicts itself",
    "A3": "power loss or kill while a log is made: it opens empty or complete",
    "A4": "a bit flips in the write-ahead log: `LogTruncated`, never fewer events in silence",
    "A5": "a bit flips in a block: topic, partition and offsets are named, other blocks stay readable",
    "A6": "a bit flips in progress, state, ids or declarations: never silently used",
    "A7": "the write-ahead log is gone, or another copy's: refused and explained",
    "A8": "the log is an older copy than a group or a target knows: stop, never skip",
    "A9": "the disk answers with an I/O error: the log object closes, the outcome is unknown, the process lives",
    "A10": "the disk is full: nothing is acked, readers go on, publishing works again afterwards",
    "A11": "the disk is full and something must be removed: the ballast gives the room",
    "A12": "a reader that does not end: the write-ahead log has a bound, publishing stops before the disk is full",
    "A13": "kill -9 or power loss during a checkpoint: old or new form, never both or neither",
    "A14": "a network file system: refused, unless the user says so",
    "A15": "a file for a directory, links, another owner, nothing there: a clear error, nothing half made",
    "A16": "an SQLite version that can lose commits: refused at open",
    "A17": "a slow disk: backpressure, no duplicates",
    "A18": "offsets near their end: what fits is stored, the limit is named, nothing wraps around",
    "A19": "the witness is damaged or gone: told apart from a truncated log",
    "A20": "something in the process opens, copies and closes the database: no acked event lost",
    "B1": "a worker is stopped beyond its lease, another takes over: its next commit is refused, nothing is doubled",
    "B2": "a process is stopped inside a transaction: others are refused within a bound, it is named, readers go on",
    "B3": "a second open of the files in one process: no lost commit",
    "B4": "fork with an open log: the child refuses to write with it, and does not keep the lock",
    "B5": "several programs on one directory: they share it; different declarations are refused, with the difference",
    "B6": "workers that join and leave in a storm: one owner per partition and epoch, no gap",
    "B7": "a worker dies while partitions move: offsets never move without their outputs",
    "B8": "SIGTERM with work in hand: finished, committed, exit 0",
    "B9": "a worker is killed: as A1, and its attempt is counted",
    "B10": "a handler exits, crashes, hangs or allocates without end: attempts counted, event named, others go on",
    "B11": "a publisher asks again after an unknown outcome: one event in the log",
    "B12": "a wall clock that jumps: no lease ends early, none is stolen",
    "C6": "retention has passed a group's position: an error, never another event in its place",
    "C12": "events that come again, ten times over: the same results in the same order, by ids and bytes",
    "C13": "a consumer that cannot keep up: it holds some events at a time, the rest waits in the log",
    "D1": "text that is no UTF-8, half surrogate pairs, byte order marks: refused at the door",
    "D2": "NaN and Infinity: refused or typed, never turned into something else",
    "D3": "integers beyond 64 bits: refused, never rounded",
    "D4": "nesting without end: refused before it is parsed",
    "D5": "a key twice in one object: refused in what comes from outside",
    "D6": "a zero byte in text, keys and bytes: kept everywhere, or refused",
    "D7": "empty, null, huge and foreign keys: a stable partition, or refused",
    "D8": "too large an event, one bad among a thousand: the limit is named, good ones are stored once",
    "D9": "a type that changed: what could not be read any more is refused",
    "D10": "an event that fails each time: attempts outlive the process, then a dead letter with all of them",
    "D11": "headers with line breaks, too many, too long, not ASCII: refused",
    "D12": "times beyond bounds, without a zone, far away: refused, or stored as they are",
    "D16": "one event id, two contents: the second is refused and named, neither wins in silence",
    "D17": "all events have one key: no step gets slower the more of them wait, and `penstock topics` shows the skew",
    "E1": "the wall clock jumps a day either way: nothing ages, expires or is taken over early",
    "E6": "event ids age in offsets and event time, never by the wall clock",
    "E9": "a replay from the start gives the same results, byte by byte, ids included",
    "E10": "what was due while nobody ran happens at once, and once",
    "G1": "a crash between a target's commit and the log's: the result is there once, in either order",
    "G7": "two pipelines write one target: each has its own position",
    "H9": "names that could be paths: refused",
    "H10": "nothing turns bytes into code",
    "H13": "payloads and secrets are in no log line, counter or error that is not about them",
    "H14": "dead letters are copies of events: they are kept no longer; what a type calls personal is in no reason, "
    "stack, log line or report, and is shown when asked for",
    "H19": "control characters of others cannot forge log lines or steer the terminal",
}


def edges(*, mechanism: bool) -> str:
    """The guarantee table; without its mechanisms for the README."""
    head = ("edge", "processing", "durability", "order", *(("by",) if mechanism else ()))
    return _table(head, [edge if mechanism else edge[:4] for edge in EDGES])


def faults(rows: Iterable[Row]) -> str:
    """Which test shows each fault survived, and which control shows that the test would notice."""
    planted = controls() if b"[[control]]" in MANIFEST.read_bytes() else []
    guards = {(fault, c.test.partition("[")[0]): c.patch for c in planted for fault in c.faults}
    kept = [row for row in rows if row.fault in WORDS and row.passed and exists(row.test)]
    lines = [
        (row.fault, f"`{_short(row.test)}`", str(row.points), _control(row, guards.get((row.fault, row.test))))
        for row in kept
    ]
    missing = [(fault, "not shown yet", "", "") for fault in WORDS if fault not in {row.fault for row in kept}]
    return _table(("fault", "test", "points", "control"), [*lines, *missing])


def _control(row: Row, patch: str | None) -> str:
    """The control that watches the test, and what it showed when it was tried last."""
    name = patch or row.control
    if not name:
        return ""
    return f"`{name}`{ {True: '', False: ' (stays green)', None: ' (not tried yet)'}[row.control_failed] }"


def words() -> str:
    """What each number means."""
    return _table(("fault", "what is required"), list(WORDS.items()))


def channels(findings: Iterable[Finding]) -> str:
    """Every promise of the channel contract, and what each driver showed."""
    return _shown([f for f in findings if not f.channel.startswith("sink")])


def sinks(findings: Iterable[Finding]) -> str:
    """Every promise of the sink contract, and what each sink showed."""
    return _shown([f for f in findings if f.channel.startswith("sink")])


def simulation(report: Report) -> str:
    """Each planted bug of the simulation, and in how many ranges of seeds it was found."""
    best: dict[str, Searched] = {}
    for searched in report.bugs:
        if (ROOT / searched.bug).exists() and searched.ranges >= getattr(best.get(searched.bug), "ranges", 0):
            best[searched.bug] = searched
    rows = [
        (
            f"`{Path(bug).name}`",
            f"{s.scenario.rpartition(':')[2]}",
            f"{s.found} of {s.ranges} ranges of {s.range_seeds:,}",
        )
        for bug, s in sorted(best.items())
    ]
    return _table(("planted bug", "scenario", "found in"), rows)


def _shown(findings: Sequence[Finding]) -> str:
    names = sorted({f.channel for f in findings})
    found = {(f.promise, f.channel): f for f in findings}
    rows = [
        (promise, *(_verdict(found.get((promise, name))) for name in names))
        for promise in sorted({f.promise for f in findings}, key=str.lower)
    ]
    return _table(("promise", *(name.removeprefix("sink/") for name in names)), rows)


def _verdict(finding: Finding | None) -> str:
    if finding is None:
        return ""
    if finding.skipped_because:
        return f"not run: {finding.skipped_because}"
    return finding.observed if finding.passed else f"**{finding.observed}**"


def exists(test: str) -> bool:
    """Whether a test that was recorded is still there."""
    file, _, name = test.partition("::")
    path = ROOT / file
    return path.is_file() and (
        not file.endswith(".py") or not name.isidentifier() or f"def {name}(" in path.read_text()
    )


def _short(test: str) -> str:
    return test.removeprefix("tests/").replace("::", ": ")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


# -- sections ------------------------------------------------------------------------------------------------------


def conformance_findings() -> list[Finding]:
    """What the conformance suites showed last; empty when they were not run."""
    path = ROOT / CONFORMANCE
    return msgspec.json.decode(path.read_bytes(), type=list[Finding]) if path.exists() else []


def fault_rows() -> list[Row]:
    """What the fault tests showed last; empty when they were not run."""
    return read(ROOT / FAULTS)


def simulated() -> Report | None:
    """What the simulation showed last; None when it was not run."""
    path = ROOT / SIMULATION
    return msgspec.json.decode(path.read_bytes(), type=Report) if path.exists() else None


def section(text: str, name: str) -> str:
    """What a page says between its marks of this name."""
    found = re.search(_marks(name), text, re.DOTALL)
    assert found is not None, f"no section {name}: expected <!-- {name} --> and <!-- /{name} -->"
    return found[2].strip()


def put(text: str, name: str, content: str) -> str:
    """The page with this section's content replaced."""
    section(text, name)
    return re.sub(_marks(name), lambda found: f"{found[1]}\n{content}\n{found[3]}", text, flags=re.DOTALL)


def _marks(name: str) -> str:
    return rf"(<!-- {name} -->)(.*?)(<!-- /{name} -->)"


def write() -> None:
    """Write every section."""
    text = put(PAGE.read_text(), "edges", edges(mechanism=True))
    text = put(text, "words", words())
    text = put(text, "faults", faults(fault_rows()))
    text = put(text, "channels", channels(conformance_findings()))
    text = put(text, "sinks", sinks(conformance_findings()))
    report = simulated()
    PAGE.write_text(text if report is None else put(text, "simulation", simulation(report)))
    README.write_text(put(README.read_text(), "edges", edges(mechanism=False)))


if __name__ == "__main__":
    write()
