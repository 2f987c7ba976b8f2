"""The channel suite's third part: random publishes, steps, departures and deaths against a model of six fields."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import hypothesis
import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from penstock.channel.api import Acked, Committed, FencedOff, LedgerWrite, Publish, Refused, TopicSpec
from penstock.testing.conformance import report
from penstock.testing.conformance.harness import ChannelSuite, Member, Site, member, put, rows, stored

R = TypeVar("R")
PROMISE = "no sequence of publishes, repetitions, steps, departures and deaths loses, doubles or reorders anything"


class MachinePromise(ChannelSuite):
    """The promise that holds for every order of events."""

    def test_machine(self, request: pytest.FixtureRequest) -> None:
        """See PROMISE."""
        report.begin(request.node.nodeid, report.Finding(self.channel_name, PROMISE, "always", "kept", passed=False))
        suite = self

        class Machine(_Machine):
            def __init__(self) -> None:
                super().__init__(suite)

        limits = hypothesis.settings(
            max_examples=self.examples_max,
            stateful_step_count=25,
            deadline=None,
            database=None,
            suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.filter_too_much],
        )
        run_state_machine_as_test(hypothesis.seed(self.seed)(Machine), settings=limits)


class _Machine(RuleBasedStateMachine):
    """Topic t (in) and out; group g copies t to out in steps; a second member waits or is the zombie."""

    def __init__(self, suite: ChannelSuite) -> None:
        super().__init__()
        self._directory = tempfile.TemporaryDirectory(prefix="penstock-conformance-")
        self._runner = asyncio.Runner()
        self._suite = suite
        self._site = Site(suite, Path(self._directory.name))
        self._channel = self._do(self._site.channel(TopicSpec("t", partitions=1), TopicSpec("out", partitions=1)))
        # the model
        self._published: list[bytes] = []
        self._calls: list[tuple[int, list[bytes]]] = []
        self._floor = 0
        self._holes: set[int] = set()
        self._copied: list[bytes] = []
        self._remembered: dict[bytes, bytes] = {}
        # who is who
        self._owner: Member | None = None
        self._zombie: Member | None = None

    def _do(self, work: Coroutine[Any, Any, R]) -> R:
        return self._runner.run(work)

    @rule(bodies=st.lists(st.binary(max_size=5), min_size=1, max_size=6))
    def publish(self, bodies: list[bytes]) -> None:
        """The next sequence is stored at the end."""
        answer = self._do(put(self._channel, len(self._calls), rows(*bodies)))
        assert answer == Acked([len(self._published)])
        self._calls.append((len(self._published), bodies))
        self._published.extend(bodies)

    @precondition(lambda self: self._calls)
    @rule(data=st.data())
    def publish_again(self, data: st.DataObject) -> None:
        """A repetition is answered alike; other content under its sequence is refused."""
        sequence = data.draw(st.integers(0, len(self._calls) - 1))
        first, bodies = self._calls[sequence]
        assert self._do(put(self._channel, sequence, rows(*bodies))) == Acked([first], repeated=True)
        changed = Publish("p", 0, sequence, [rows(*bodies, b"!")])
        assert isinstance(self._do(self._channel.publish(changed)), Refused)

    @precondition(lambda self: self._owner is None)
    @rule()
    def join(self) -> None:
        """A new owner gets exactly what was committed."""
        self._owner = self._do(self._joined())
        mine = self._owner.assigned[0]
        assert mine.floor == self._floor
        assert set(mine.holes) == self._holes
        assert {key: value for _, key, value in mine.ledger} == self._remembered

    async def _joined(self) -> Member:
        joined = await member(self._channel, self._suite)
        await joined.become_owner()
        return joined

    @precondition(lambda self: self._owner is not None)
    @rule(events_max=st.integers(1, 7))
    def take(self, events_max: int) -> None:
        """Deliveries are the published events, from the floor on."""
        assert self._owner is not None
        self._do(self._owner.next(events_max=events_max))
        for offset, body in self._owner.seen[0]:
            assert body == self._published[offset]

    @precondition(lambda self: self._owner is not None)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        """A step copies what it settles for the first time, and remembers something."""
        assert self._owner is not None
        self._do(self._owner.next())
        end = max([self._floor, *[offset + 1 for offset, _ in self._owner.seen[0]]])
        after = data.draw(st.integers(self._floor, end))
        above = sorted(h for h in self._holes if h >= after)
        new = data.draw(st.sets(st.integers(after, end - 1), min_size=1, max_size=4)) if end > after else set[int]()
        holes = set(above) | new
        settled = [o for o in range(self._floor, after) if o not in self._holes] + sorted(new - self._holes)
        bodies = [self._published[o] for o in settled]
        key, value = b"%d" % (after % 3), data.draw(st.none() | st.binary(max_size=3))
        step = self._owner.step(
            after,
            before=self._floor,
            holes=sorted(holes),
            outputs=[rows(*bodies, topic="out")] if bodies else [],
            ledger=[LedgerWrite("s", key, value)],
        )
        answer = self._do(self._owner.intake.commit(step))
        assert answer == Committed([len(self._copied)] if bodies else [])
        self._floor, self._holes = after, holes
        self._copied.extend(bodies)
        self._remembered.pop(key, None)
        if value is not None:
            self._remembered[key] = value

    @precondition(lambda self: self._owner is not None)
    @rule()
    def leave(self) -> None:
        """A departure gives up what is in flight."""
        assert self._owner is not None
        self._do(self._owner.intake.leave())
        self._owner = None

    @precondition(lambda self: self._owner is not None)
    @rule()
    def die(self) -> None:
        """A death frees the group; the dead one may be a zombie."""
        assert self._owner is not None
        self._do(self._suite.crash(self._channel, self._owner.intake, "g"))
        self._zombie, self._owner = self._owner, None

    @precondition(lambda self: self._zombie is not None and self._owner is not None)
    @rule()
    def zombie_commits(self) -> None:
        """It is refused, and nothing of it is stored."""
        assert self._zombie is not None
        late = self._zombie.step(self._floor, before=self._floor, outputs=[rows(b"zombie", topic="out")])
        assert isinstance(self._do(self._zombie.intake.commit(late)), FencedOff)

    @rule()
    def look(self) -> None:
        """Both topics hold what the model says, and nothing else."""
        assert [body for _, body in self._do(stored(self._channel))] == self._published
        assert [body for _, body in self._do(stored(self._channel, "out"))] == self._copied

    def teardown(self) -> None:
        """Look once more, then let everything go."""
        try:
            self.look()
        finally:
            self._do(self._site.close())
            self._runner.close()
            self._directory.cleanup()


__all__ = ["PROMISE", "MachinePromise"]
