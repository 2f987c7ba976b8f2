"""The planted bugs: which patch takes which guard out of the product, and which scenario's seeds must find it.

``python -m tests.sim.planted [WORD …]`` looks in 20 ranges of 2,000 seeds for each and writes build/sim.json.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from penstock.testing.simulation.runner import RANGE_SEEDS, save, search

CONTROLS = Path("tests/controls")
RANGES = 20
SHIPPED = "penstock.testing.simulation.scenarios_"


class Planted(msgspec.Struct, frozen=True):
    """One planted bug, for one of the shipped scenarios.

    `kinds` are the anomalies that may tell of it; `guard` says in words what the patch takes out.
    """

    patch: str
    scenario: str
    kinds: tuple[str, ...]
    guard: str

    @property
    def where(self) -> str:
        """The scenario, as the runner takes it."""
        return SHIPPED + self.scenario

    @property
    def path(self) -> Path:
        """The patch file."""
        return CONTROLS / f"{self.patch}.patch"


PLANTED = [
    Planted(
        "sim_fence",
        "handlers:handlers",
        ("fenced_output", "moved_back"),
        "a step's epoch is compared with the owner's",
    ),
    Planted("sim_fence", "handlers:handlers@memory", ("fenced_output", "moved_back"), "the same, in memory"),
    Planted("sim_floor", "handlers:handlers", ("moved_back", "duplicated"), "a step begins at the recorded floor"),
    Planted("sim_floor", "handlers:handlers@memory", ("moved_back", "duplicated"), "the same, in memory"),
    Planted("sim_claim_epoch", "handlers:handlers", ("fenced_output",), "a claim raises the epoch"),
    Planted("sim_sequence", "targets:client", ("duplicated",), "a sequence that was stored is answered"),
    Planted("sim_resolve", "targets:client", ("duplicated", "failed"), "an unknown publish is repeated as it was"),
    Planted("sim_source_position", "targets:source", ("duplicated",), "a chunk carries the position behind it"),
    Planted("sim_dead_ids", "targets:source", ("duplicated",), "ids of what a source laid aside differ"),
    Planted("sim_chain", "handlers:handlers", ("turned_away", "lost"), "the next step begins where the last one ended"),
    Planted("sim_answers", "program:program", ("stuck",), "a refused or unknown step is not the end of its partition"),
    Planted("sim_holes_delivered", "holes:holes", ("duplicated",), "events settled before are left out"),
    Planted("sim_holes_forgotten", "holes:holes", ("stuck", "duplicated"), "a step keeps the holes above it"),
    Planted("sim_floor_first", "handlers:handlers", ("lost", "duplicated"), "outputs and floor move in one step"),
    Planted("sim_dead_letter", "handlers:handlers", ("lost",), "dead letters are outputs of the step"),
    Planted("sim_death_not_charged", "handlers:killers", ("stuck",), "a death is recorded as an attempt"),
    Planted("sim_slot_not_cleared", "handlers:killers", ("charged",), "the slot is cleared after each event"),
    Planted("sim_slot_charged_twice", "handlers:killers", ("charged",), "a death is charged once"),
    Planted("sim_attempts_left", "handlers:killers", ("state",), "attempts of a settled event are forgotten"),
    Planted("sim_state_not_restored", "flows:totals", ("state",), "state is restored at assignment"),
    Planted("sim_state_kept", "flows:totals", ("state",), "state of steps that were not committed is dropped"),
    Planted("sim_delta_dropped", "flows:totals", ("twin", "state"), "all changed state is in the step"),
    Planted("sim_sink_position", "targets:sink", ("failed", "stuck"), "the target's position says where to go on"),
    Planted("sim_sink_past", "targets:sink", ("stuck", "failed"), "what an older target lacks is read again"),
    Planted(
        "sim_ended_early",
        "program:program",
        ("stuck", "twin"),
        "a group ends when its topic had ended before it looked",
    ),
    Planted("sim_lake_compare", "lake:lake", ("lost", "duplicated", "failed"), "a manifest is linked once"),
    Planted(
        "sim_claim_early",
        "workers:workers",
        ("claimed", "turned_away", "twin", "moved_back"),
        "a partition is claimed after its owner has left",
    ),
    Planted(
        "sim_slot_of_another",
        "handlers:killers",
        ("stuck", "charged"),
        "a death is charged by the partition's next owner",
    ),
    Planted("sim_sink_kept", "targets:sink", ("failed",), "a sink forgets partitions it has lost"),
    Planted("sim_parked_forgotten", "parking:crowded", ("lost", "stuck"), "what is parked is in the step's ledger"),
    Planted("sim_follower_overtakes", "parking:crowded", ("reordered",), "later events of a parked key wait behind it"),
    Planted("sim_lot_overflow", "parking:crowded", ("overflow",), "a full lot pauses the partition"),
    Planted("sim_breaker_missing", "parking:outage", ("overflow", "lost"), "a target that fails pauses the partition"),
    Planted("sim_redriven_twice", "parking:blocking", ("duplicated",), "a letter is redriven once"),
    Planted(
        "sim_step_number",
        "parking:crowded",
        ("duplicated", "reordered", "lost"),
        "a step that moves no floor is told by its number",
    ),
    Planted("sim_run_cut", "runs:runs", ("failed",), "what fails in a part of a run that is let go is not kept"),
    Planted(
        "sim_floor_gap", "parking:side_by_side", ("lost", "stuck"), "the floor passes no event that is being handled"
    ),
    Planted(
        "sim_retention_hole",
        "parking:trimmed",
        ("failed", "stuck", "lost"),
        "retention stops at what is parked",
    ),
    Planted("sim_lanes", "parking:side_by_side", ("reordered", "twin"), "never two events of a key at once"),
    Planted("sim_once_apart", "once:once", ("duplicated",), "a mark is in the step that has its event's effect"),
    Planted("sim_once_held", "once:once", ("lost",), "an event that fails lets its marks go"),
    Planted("sim_once_forgotten", "once:once", ("duplicated",), "marks are restored at assignment"),
    Planted("sim_sink_fenced", "targets:sink", ("failed",), "a fenced target means to join again"),
]


def measure(planted: Planted, *, ranges: int = RANGES, seed: int = 0) -> int:
    """In how many ranges of seeds it is found; the result goes to build/sim.json."""
    first = seed * RANGES * RANGE_SEEDS
    seeds = range(first, first + ranges * RANGE_SEEDS)
    result = search(planted.where, seeds, planted.path, range_seeds=RANGE_SEEDS)
    result.guard = planted.guard
    save(result)
    kinds = sorted({text.partition(":")[0] for alarm in result.first if alarm is not None for text in alarm.anomalies})
    after = [alarm.seed % RANGE_SEEDS for alarm in result.first if alarm is not None]
    told = f"found in {result.found} of {ranges}, after {sum(after) / max(1, len(after)):.0f} seeds on average"
    sys.stdout.write(f"{planted.patch:<24}{planted.scenario:<30}{told}: {', '.join(kinds)}\n")
    sys.stdout.flush()
    return result.found


def chosen(words: Sequence[str]) -> list[Planted]:
    """Those whose patch or scenario contains one of the words; all without words."""
    return [p for p in PLANTED if not words or any(word in f"{p.patch} {p.scenario}" for word in words)]


def shown(words: Sequence[str]) -> int:
    """Look for the chosen ones in one range each: 0 when all are found, 1 when not, 2 when none was chosen."""
    found = [measure(planted, ranges=1) for planted in chosen(words)]
    if not found:
        return 2
    sys.stdout.write(f"{sum(found)} of {len(found)} planted bugs are found by the simulation\n")
    return 0 if all(found) else 1


def main(words: Sequence[str]) -> int:
    """Measure every bug, or those whose patch or scenario contains a word; 0 when all are found often enough."""
    seed = int(os.environ.get("SEED", "0") or "0")
    found = [measure(planted, seed=seed) for planted in chosen(words)]
    return 0 if all(count * 20 >= RANGES * 19 for count in found) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
