"""The anomaly checker: what a run left behind, held against what was promised. Pure functions of outcomes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

from penstock.testing.simulation.history import Stored, Took, TurnedAway
from penstock.testing.simulation.outcome import Anomaly, Event, Kept, Outcome
from penstock.testing.simulation.scenario import Scenario


def check(scenario: Scenario, outcome: Outcome, twin: Outcome | None = None) -> list[Anomaly]:
    """Every anomaly of a run. `twin` is the fault-free run over the same recorded inputs."""
    found: list[Anomaly] = []
    if outcome.stuck:
        found.append(Anomaly("stuck", outcome.stuck))
    found += [Anomaly("failed", text) for text in outcome.failures]
    found += fenced(outcome)
    found += turned_away(outcome)
    found += moved_back(outcome)
    if outcome.stuck or not outcome.topics:
        return found
    found += inputs(scenario, outcome)
    found += effects(scenario, outcome)
    found += order(scenario, outcome)
    found += aborted(scenario, outcome)
    found += states(scenario, outcome)
    found += twice_named(outcome)
    if twin is not None:
        found += unlike(scenario, outcome, twin)
    for judge in scenario.judges:
        found += judge(outcome, twin)
    return found


def recorded_inputs(scenario: Scenario, outcome: Outcome) -> dict[int, list[Event]]:
    """Partition → the inputs that the channel has, in order; unidentified ones left out."""
    name = scenario.input.name
    return {
        partition: [kept.event for kept in contents if kept.event is not None]
        for (topic, partition), contents in outcome.topics.items()
        if topic == name
    }


def _effects(scenario: Scenario, outcome: Outcome) -> Iterator[tuple[str, int, Kept]]:
    for (topic, partition), contents in outcome.topics.items():
        if topic in scenario.outputs:
            for kept in contents:
                yield topic, partition, kept


def inputs(scenario: Scenario, outcome: Outcome) -> list[Anomaly]:
    """An acked event must be where the ack said; no event is stored twice."""
    found: list[Anomaly] = []
    for sent in outcome.history.told:
        for batch, first in zip(sent.batches, sent.first, strict=True):
            there = outcome.topics[batch.topic, batch.partition][first : first + batch.count]
            wanted = [scenario.identify(batch.topic, body) for body in _rows(batch.payload)]
            if [kept.event for kept in there] != wanted:
                where = f"{batch.topic}/{batch.partition}@{first}"
                found.append(Anomaly("lost", f"{sent.process} was acked {wanted} at {where}; found {there}"))
    for partition, events in recorded_inputs(scenario, outcome).items():
        twice = [event for event, count in Counter(events).items() if count > 1]
        if twice:
            found.append(Anomaly("duplicated", f"inputs of partition {partition} stored more than once: {twice}"))
    return found


def _rows(payload: object) -> list[bytes]:
    take = getattr(payload, "bodies", None)
    return [] if take is None else take()


def effects(scenario: Scenario, outcome: Outcome) -> list[Anomaly]:
    """Each stored input has exactly one effect, and each effect a stored input."""
    if not scenario.outputs:
        return []
    wanted = Counter(event for events in recorded_inputs(scenario, outcome).values() for event in events)
    there = Counter(kept.event for _, _, kept in _effects(scenario, outcome) if kept.event is not None)
    found: list[Anomaly] = []
    missing = wanted - there
    if missing:
        found.append(Anomaly("lost", f"inputs without effect: {sorted(missing)}"))
    extra = there - wanted
    doubled = sorted(event for event in extra if event in wanted)
    if doubled:
        found.append(Anomaly("duplicated", f"inputs with more than one effect: {doubled}"))
    phantom = sorted(event for event in extra if event not in wanted)
    if phantom:
        found.append(Anomaly("aborted_read", f"effects of inputs that were never stored: {phantom}"))
    return found


def order(scenario: Scenario, outcome: Outcome) -> list[Anomaly]:
    """Inputs and effects of one key stand in the order of their numbers."""
    found: list[Anomaly] = []
    for (topic, partition), contents in outcome.topics.items():
        if topic != scenario.input.name and topic not in scenario.outputs:
            continue
        last: dict[str, Event] = {}
        for kept in contents:
            event = kept.event
            if event is None:
                continue
            before = last.get(event.key)
            if before is not None and event.number < before.number:
                where = f"{topic}/{partition}@{kept.offset}"
                found.append(Anomaly("reordered", f"key {event.key}: {event.number} after {before.number} at {where}"))
            last[event.key] = event
    return found


def aborted(scenario: Scenario, outcome: Outcome) -> list[Anomaly]:
    """Every effect in a topic was written by a step that committed."""
    covered: dict[tuple[str, int], set[int]] = {}
    for _, entry in outcome.history.entries:
        if isinstance(entry, Stored):
            for batch, first in zip(entry.step.outputs, entry.first, strict=True):
                covered.setdefault((batch.topic, batch.partition), set()).update(range(first, first + batch.count))
    found: list[Anomaly] = []
    topics = {spec.name for spec in scenario.topics}
    for topic, partition, kept in _effects(scenario, outcome):
        if topic in topics and kept.offset not in covered.get((topic, partition), ()):
            details = f"{topic}/{partition}@{kept.offset} {kept.body!r} belongs to no step that committed"
            found.append(Anomaly("aborted_read", details))
    return found


def _steps(outcome: Outcome) -> dict[tuple[str, str, int], list[Stored]]:
    out: dict[tuple[str, str, int], list[Stored]] = {}
    for _, entry in outcome.history.entries:
        if isinstance(entry, Stored):
            owned = entry.step.owned
            out.setdefault((entry.step.group, owned.topic, owned.partition), []).append(entry)
    return out


def moved_back(outcome: Outcome) -> list[Anomaly]:
    """Floors only rise, step by step, and an assignment starts where the steps of earlier epochs ended."""
    found: list[Anomaly] = []
    steps = _steps(outcome)
    for place, stored in steps.items():
        for one, two in pairwise(stored):
            ended, began = one.step.settle.floor_after, two.step.settle.floor_before
            if ended != began:
                details = f"{place}: a step to {ended}, then one from {began}"
                found.append(Anomaly("moved_back", details))
    assigned = [(entry.group, entry.assigned) for _, entry in outcome.history.entries if isinstance(entry, Took)]
    assigned += [(group, taken) for (group, _), taken in outcome.assigned.items()]
    for group, taken in assigned:
        owned = taken.owned
        earlier = [s for s in steps.get((group, owned.topic, owned.partition), ()) if s.step.owned.epoch < owned.epoch]
        reached = max((s.step.settle.floor_after for s in earlier), default=0)
        if taken.floor < reached:
            where = f"{owned.topic}/{owned.partition}"
            details = f"{where} was settled to {reached}; epoch {owned.epoch} starts at {taken.floor}"
            found.append(Anomaly("moved_back", details))
    return found


def fenced(outcome: Outcome) -> list[Anomaly]:
    """No epoch is given out twice, and no step of an older one is stored once a newer one is known."""
    newest: dict[tuple[str, str, int], int] = {}
    given: set[tuple[tuple[str, str, int], int]] = set()
    found: list[Anomaly] = []
    for at_s, entry in outcome.history.entries:
        if isinstance(entry, Took):
            owned = entry.assigned.owned
            place = (entry.group, owned.topic, owned.partition)
            if (place, owned.epoch) in given:  # a zombie may be told late, but of an epoch of its own
                details = f"{entry.process} is given {place} at epoch {owned.epoch}, which was given out before"
                found.append(Anomaly("fenced_output", details))
            given.add((place, owned.epoch))
        elif isinstance(entry, Stored):
            owned = entry.step.owned
            place = (entry.step.group, owned.topic, owned.partition)
            if owned.epoch < newest.get(place, 0):
                late = f"a step of {place} epoch {owned.epoch} at {at_s:.3f} s, after epoch {newest[place]}"
                details = f"{entry.process} stored {late}"
                found.append(Anomaly("fenced_output", details))
        else:
            continue
        newest[place] = max(newest.get(place, 0), owned.epoch)
    return found


def turned_away(outcome: Outcome) -> list[Anomaly]:
    """Where no fault strikes no step is refused: nobody else is there, and steps follow one another."""
    if outcome.struck:
        return []
    return [
        Anomaly("turned_away", f"{entry.process}, without any fault: {entry.reason}")
        for _, entry in outcome.history.entries
        if isinstance(entry, TurnedAway)
    ]


def states(scenario: Scenario, outcome: Outcome) -> list[Anomaly]:
    """Everything stored is settled in every group, and the first group's ledger is the fold of the inputs."""
    found: list[Anomaly] = []
    for group in scenario.groups:
        for (topic, partition), contents in outcome.topics.items():
            if topic != group.topic:
                continue
            taken = outcome.assigned.get((group.name, partition))
            if taken is None:
                found.append(
                    Anomaly("stuck", f"partition {partition} of {group.name} was never assigned to the witness")
                )
            elif taken.floor + len(taken.holes) < len(contents):
                details = f"{group.name}, partition {partition}: settled to {taken.floor} of {len(contents)} only"
                found.append(Anomaly("lost", details))
    if scenario.fold is None:
        return found
    for partition, events in recorded_inputs(scenario, outcome).items():
        taken = outcome.assigned.get((scenario.groups[0].name, partition))
        wanted = dict(scenario.fold(events))
        there = {(space, key): value for space, key, value in _state(scenario, taken)}
        if wanted != there:
            found.append(Anomaly("state", f"partition {partition}: expected {wanted}, found {there}"))
    return found


def twice_named(outcome: Outcome) -> list[Anomaly]:
    """No two events of a topic have one id."""
    names: dict[str, Counter[str]] = {}
    for (topic, _), contents in outcome.topics.items():
        names.setdefault(topic, Counter()).update(kept.id for kept in contents if kept.id)
    return [
        Anomaly("duplicated", f"topic {topic}: {count} events have the id {name}")
        for topic, counted in names.items()
        for name, count in counted.items()
        if count > 1
    ]


def by_key(scenario: Scenario, outcome: Outcome) -> dict[tuple[str, str], list[bytes]]:
    """(topic, key) → the bytes of the key's effects, in order; what two runs over the same inputs must agree on."""
    out: dict[tuple[str, str], list[bytes]] = {}
    for topic, _, kept in _effects(scenario, outcome):
        if kept.event is not None:
            out.setdefault((topic, kept.event.key), []).append(kept.body)
    return out


def unlike(scenario: Scenario, outcome: Outcome, twin: Outcome) -> list[Anomaly]:
    """The same effects, key by key, and the same state as the fault-free twin."""
    mine, theirs = by_key(scenario, outcome), by_key(scenario, twin)
    found = [
        Anomaly("twin", f"topic {place[0]}, key {place[1]}: {mine.get(place)}; the twin has {theirs.get(place)}")
        for place in sorted(mine.keys() | theirs.keys())
        if mine.get(place) != theirs.get(place)
    ]
    for place in sorted(outcome.assigned.keys() | twin.assigned.keys()):
        here, there = (_state(scenario, run.assigned.get(place)) for run in (outcome, twin))
        if here != there:
            found.append(Anomaly("twin", f"state of {place}: {here}; the twin has {there}"))
    return found


def _state(scenario: Scenario, taken: object) -> Sequence[tuple[str, bytes, bytes]]:
    ledger: Sequence[tuple[str, bytes, bytes]] = getattr(taken, "ledger", ())
    return sorted(entry for entry in ledger if entry[0] in scenario.spaces)
