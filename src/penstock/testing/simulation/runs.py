"""Runs of seeds: one seed from draw to anomalies, its replay line, and the shrinking of its tape."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256

import msgspec

from penstock.system.chance import seeded
from penstock.telemetry import emit
from penstock.testing.simulation import tape as tapes
from penstock.testing.simulation.oracles import check, recorded_inputs
from penstock.testing.simulation.outcome import Anomaly, Event, Outcome
from penstock.testing.simulation.scenario import Scenario
from penstock.testing.simulation.tape import Tape
from penstock.testing.simulation.world import draw_loads, run_world

TWINS_MAX = 4096


class Run(msgspec.Struct):
    """What one seed did."""

    scenario: str
    seed: int
    tape: Tape
    outcome: Outcome
    anomalies: list[Anomaly]

    def trace_hash(self) -> str:
        """Equal for equal runs, whatever the hash seed, the addresses and the machine."""
        return sha256("\n".join(self.outcome.lines()).encode()).hexdigest()[:16]


class Runner:
    """Runs seeds of one scenario; remembers fault-free twins by their inputs."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self._fault_free = replace(scenario, backend="memory", members=1, producers=1)
        self._twins: dict[tuple[tuple[Event, ...], ...], Outcome] = {}

    def run(self, seed: int, tape: Tape | None = None) -> Run:
        """One seed, with the tape it draws or another one."""
        scenario = self.scenario
        loads = draw_loads(scenario, seed)
        calls = 4 + sum(map(len, loads))
        used = (
            tapes.draw(seeded(seed, "tape"), calls=calls, operations=scenario.operations, kinds_of=scenario.kinds)
            if tape is None
            else tape
        )
        with _silence():
            outcome = run_world(scenario, seed, used, loads=loads)
            twin = self._twin(outcome) if outcome.topics and not outcome.stuck else None
        return Run(scenario.name, seed, used, outcome, check(scenario, outcome, twin))

    def _twin(self, outcome: Outcome) -> Outcome:
        recorded = recorded_inputs(self.scenario, outcome)
        inputs = tuple(tuple(events) for _, events in sorted(recorded.items()))
        twin = self._twins.get(inputs)
        if twin is None:
            load: Sequence[Sequence[Event]] = [[event for events in inputs for event in events]]
            twin = run_world(self._fault_free, 0, (), loads=[load])
            twin.disk = {}  # what was to be seen of it is in the topics; it may hold files
            if len(self._twins) >= TWINS_MAX:
                self._twins.clear()
            self._twins[inputs] = twin
        return twin

    def shrink(self, run: Run) -> Run:
        """The same seed with as few faults as still give an anomaly of the same kind."""
        wanted = run.anomalies[0].kind
        best = run
        index = 0
        while index < len(best.tape):
            shorter = [*best.tape[:index], *best.tape[index + 1 :]]
            tried = self.run(run.seed, shorter)
            if any(anomaly.kind == wanted for anomaly in tried.anomalies):
                best = tried
            else:
                index += 1
        return best


@contextmanager
def _silence() -> Generator[None, None, None]:
    """What the product logs about simulated faults is no news; counters are left to add up."""
    before, emit.logger.disabled = emit.logger.disabled, True
    try:
        yield
    finally:
        emit.logger.disabled = before


def replay_line(run: Run, *, where: str = "", bug: str = "") -> str:
    """The one command that shows this run again."""
    words = ["python -m penstock.testing.simulation", f"--seeds {run.seed}:{run.seed + 1}"]
    words.append(f"--scenario {where or run.scenario}")
    if bug:
        words.append(f"--bug {bug}")
    words.append(f"--tape '{tapes.text(run.tape)}'")
    return " ".join(words)
