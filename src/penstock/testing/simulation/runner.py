"""The command: runs ranges of seeds, with the code as it is or with a planted bug, and writes build/sim.json.

``python -m penstock.testing.simulation --seeds 0:2000 --scenario tests/sim/toy.py:RIGHT [--bug PATCH] [--tape TAPE]``
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from penstock.errors import ConfigError
from penstock.system.ports import RealClock
from penstock.testing.simulation import scenarios, tape
from penstock.testing.simulation.bugs import run_patched
from penstock.testing.simulation.runs import Run, Runner, replay_line

RANGE_SEEDS = 2000
REPORT = Path("build/sim.json")


class Alarm(msgspec.Struct):
    """One seed with anomalies."""

    seed: int
    anomalies: list[str]
    replay: str


class Ran(msgspec.Struct):
    """A scenario's seeds, run on the code as it is: every alarm is a false one, or a bug of ours.

    `faults` counts the faults that struck, by operation and kind.
    """

    scenario: str
    seeds: int
    seeds_per_s: float
    false_alarms: int
    alarms: list[Alarm] = []
    faults: dict[str, int] = {}


class Searched(msgspec.Struct):
    """A planted bug's ranges: how many there were, in how many it was found, and each one's first alarm.

    `guard` says in words what the patch takes out; `first_seed` and `replay` are those of the first alarm of all.
    """

    bug: str
    scenario: str
    ranges: int
    range_seeds: int
    found: int
    first: list[Alarm | None] = []
    guard: str = ""
    first_seed: int | None = None
    replay: str = ""

    def __post_init__(self) -> None:
        """Name the first alarm of all."""
        alarm = next((alarm for alarm in self.first if alarm is not None), None)
        if alarm is not None:
            self.first_seed, self.replay = alarm.seed, alarm.replay


class Report(msgspec.Struct):
    """build/sim.json."""

    seeds: int = 0
    seeds_per_s: float = 0.0
    false_alarms: int = 0
    scenarios: list[Ran] = []
    bugs: list[Searched] = []

    def add(self, result: Ran | Searched) -> None:
        """Put a result in, in the place of the one about the same."""
        if isinstance(result, Searched):
            same = (result.bug, result.scenario, result.ranges)
            others = [b for b in self.bugs if (b.bug, b.scenario, b.ranges) != same]
            self.bugs = [*others, result]
        else:
            self.scenarios = [*(s for s in self.scenarios if s.scenario != result.scenario), result]
        self.seeds = sum(s.seeds for s in self.scenarios)
        self.false_alarms = sum(s.false_alarms for s in self.scenarios)
        seconds = sum(s.seeds / s.seeds_per_s for s in self.scenarios if s.seeds_per_s)
        self.seeds_per_s = round(self.seeds / seconds, 1) if seconds else 0.0


def run_range(name: str, seeds: range, *, first_only: bool = False) -> Ran:
    """Run the seeds of a scenario; with `first_only` up to the first alarm."""
    runner = Runner(scenarios.load(name))
    clock = RealClock()
    started = clock.monotonic_s()
    alarms: list[Alarm] = []
    count = 0
    faults: Counter[str] = Counter()
    for seed in seeds:
        count += 1
        run = runner.run(seed)
        faults.update(f"{fault.operation} {fault.kind}" for fault in run.outcome.struck)
        if run.anomalies:
            alarms.append(Alarm(seed, list(map(str, run.anomalies[:5])), replay_line(run, where=name)))
            if first_only:
                break
    rate = count / max(clock.monotonic_s() - started, 1e-9)
    return Ran(name, count, round(rate, 1), len(alarms), alarms, dict(sorted(faults.items())))


def search(name: str, seeds: range, patch: Path, *, range_seeds: int = RANGE_SEEDS) -> Searched:
    """Look for a planted bug in each range of `range_seeds` seeds."""
    starts = range(seeds.start, seeds.stop, range_seeds)
    spans = [f"{start}:{min(start + range_seeds, seeds.stop)}" for start in starts]
    arguments = ["--scenario", name, "--first-only", "--json", *(word for span in spans for word in ("--seeds", span))]
    results = msgspec.json.decode(run_patched(patch, arguments), type=list[Ran])
    first: list[Alarm | None] = []
    for ran in results:
        alarm = ran.alarms[0] if ran.alarms else None
        if alarm is not None:
            alarm.replay = f"{alarm.replay} --bug {patch}"
        first.append(alarm)
    return Searched(str(patch), name, len(first), range_seeds, sum(a is not None for a in first), first)


def save(result: Ran | Searched, path: Path = REPORT) -> None:
    """Put the result into the report file."""
    report = Report()
    if path.exists():
        try:
            report = msgspec.json.decode(path.read_bytes(), type=Report)
        except msgspec.DecodeError:
            report = Report()  # written by another version: begun anew
    report.add(result)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. 0: nothing found (or, with --bug, found in 19 of 20 ranges); 1: the other way; 2: misuse."""
    given = _parser().parse_args(arguments)
    try:
        spans = [_span(text) for text in given.seeds or ["0:500"]]
        if given.tape is not None:
            return _replay(given, spans[0])
        if given.bug is not None:
            return _search(given, range(spans[0].start, spans[-1].stop))
        results = [run_range(given.scenario, span, first_only=given.first_only) for span in spans]
    except ConfigError as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    if given.json:
        sys.stdout.buffer.write(msgspec.json.encode(results))
    else:
        for ran in results:
            save(ran)
            _tell(ran)
    return 1 if any(ran.alarms for ran in results) else 0


def _tell(ran: Ran) -> None:
    sys.stdout.write(f"{ran.scenario}: {ran.seeds} seeds, {ran.seeds_per_s} seeds/s, {ran.false_alarms} alarms\n")
    for alarm in ran.alarms[:5]:
        sys.stdout.write(f"  {alarm.replay}\n" + "".join(f"    {text}\n" for text in alarm.anomalies))


def _search(given: argparse.Namespace, seeds: range) -> int:
    result = search(given.scenario, seeds, given.bug, range_seeds=given.range_seeds)
    save(result)
    sys.stdout.write(f"{result.bug}: found in {result.found} of {result.ranges} ranges of {result.range_seeds} seeds\n")
    for alarm in result.first[:3]:
        if alarm is not None:
            sys.stdout.write(f"  {alarm.replay}\n    {alarm.anomalies[0]}\n")
    return 0 if result.found * 20 >= result.ranges * 19 else 1


def _replay(given: argparse.Namespace, seeds: range) -> int:
    """Show one run in full, then its tape shrunk."""
    if given.bug is not None:
        arguments = ["--scenario", given.scenario, "--seeds", f"{seeds.start}:{seeds.stop}", "--tape", given.tape]
        sys.stdout.write(run_patched(given.bug, arguments))
        return 0
    runner = Runner(scenarios.load(given.scenario))
    run = runner.run(seeds.start, tape.parse(given.tape) if given.tape else None)
    _show(run)
    if run.anomalies:
        shorter = runner.shrink(run)
        sys.stdout.write(f"shrunk: --tape '{tape.text(shorter.tape)}'\n{shorter.anomalies[0]}\n")
    return 1 if run.anomalies else 0


def _show(run: Run) -> None:
    lines = [f"seed {run.seed}, tape {tape.text(run.tape) or 'empty'}", *run.outcome.lines()]
    lines += [*map(str, run.anomalies), f"trace {run.trace_hash()}"]
    sys.stdout.write("\n".join(lines) + "\n")


def _span(text: str) -> range:
    first, colon, last = text.partition(":")
    if not (first.isdigit() and (last.isdigit() or not colon)):
        raise ConfigError(f"{text!r}; expected FIRST:END such as 0:2000 (END is not run)", path="seeds")
    return range(int(first), int(last) if colon else int(first) + 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m penstock.testing.simulation", description="Run seeds of a scenario.")
    parser.add_argument("--seeds", action="append", help="FIRST:END; may be given several times")
    parser.add_argument("--scenario", required=True, help="MODULE:NAME or FILE.py:NAME")
    parser.add_argument("--bug", type=Path, help="a patch of src/penstock: look for it in ranges of seeds")
    parser.add_argument("--range-seeds", type=int, default=RANGE_SEEDS, help="seeds per range, with --bug")
    parser.add_argument("--tape", help="replay one seed with this tape ('' for its own) and show the trace")
    parser.add_argument("--first-only", action="store_true", help="stop each range at its first alarm")
    parser.add_argument("--json", action="store_true", help="write the results to standard output, and no file")
    return parser
