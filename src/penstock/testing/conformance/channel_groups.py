"""The channel suite's second part: groups, ownership, deliveries, steps."""

from __future__ import annotations

import asyncio

import pytest

from penstock.channel.api import (
    HOLES_MAX,
    Capabilities,
    Committed,
    FencedOff,
    GroupSpec,
    Idle,
    LedgerWrite,
    Lost,
    Publish,
    Revoking,
    Settle,
    Step,
    Subscription,
    TopicSpec,
)
from penstock.errors import Closed, ConfigError, DeclaredDifferently, Rejected
from penstock.testing.conformance.harness import (
    BYTES_MAX,
    ChannelSuite,
    Member,
    Site,
    member,
    promise,
    put,
    rows,
    stored,
)

T = TopicSpec("t", partitions=1)
OUT = TopicSpec("out", partitions=1)


def _exclusive(powers: Capabilities) -> bool:
    return powers.exclusive_partitions


def _fenced(powers: Capabilities) -> bool:
    return powers.fenced


class GroupPromises(ChannelSuite):
    """Promises about consumer groups and steps."""

    async def _owner(self, site: Site, *bodies: bytes) -> Member:
        """A member of group g that owns topic t, with these events recorded."""
        channel = await site.channel(T, OUT)
        if bodies:
            await put(channel, 0, rows(*bodies))
        mine = await member(channel, self)
        await mine.become_owner()
        return mine

    @promise("every partition is assigned before it delivers, from the floor on, in order, without gap or repetition")
    async def test_deliver(self, site: Site) -> None:
        channel = await site.channel(TopicSpec("t", partitions=3))
        for sequence in range(6):
            partition = sequence % 3
            await put(channel, sequence, rows(b"%d.0" % sequence, b"%d.1" % sequence, partition=partition))
        mine = await member(channel, self)
        await mine.become_owner(3)
        assert {p: (a.floor, list(a.holes), list(a.ledger)) for p, a in mine.assigned.items()} == dict.fromkeys(
            range(3), (0, [], [])
        )
        await mine.take(12)
        for partition, events in mine.seen.items():
            wanted = [b"%d.%d" % (s, i) for s in (partition, partition + 3) for i in (0, 1)]
            assert events == list(enumerate(wanted))
        await mine.quiet()

    @promise("a delivery never holds more events than asked for, even if the next call asks for fewer")
    async def test_events_max(self, site: Site) -> None:
        mine = await self._owner(site, *[b"%d" % i for i in range(25)])
        for events_max in (10, 3, 7, 1, 100):
            await mine.next(events_max=events_max, wait_s=self.wait_s)  # checked inside: at most, no gap
        assert len(await mine.take(25)) == 25

    @promise("what is published while a member waits is delivered to it")
    async def test_wakes(self, site: Site) -> None:
        mine = await self._owner(site)
        await mine.quiet()
        waiting = asyncio.ensure_future(mine.next(wait_s=30.0))
        await asyncio.sleep(0)
        other = await site.channel()
        await put(other, 0, rows(b"news"))
        await asyncio.wait_for(waiting, 20.0)
        assert await mine.take(1) == [(0, b"news")]

    @promise("a committed step stores outputs, ledger and progress together", power="step")
    async def test_commit(self, site: Site) -> None:
        mine = await self._owner(site, b"a", b"b", b"c")
        await mine.take(3)
        step = mine.step(2, outputs=[rows(b"A", b"B", topic="out")], ledger=[LedgerWrite("s", b"k", b"v")])
        assert await mine.intake.commit(step) == Committed([0])
        step = mine.step(3, before=2, outputs=[rows(b"C", topic="out")])
        assert await mine.intake.commit(step) == Committed([2])
        await mine.intake.leave()
        channel = await site.channel()
        assert [body for _, body in await stored(channel, "out")] == [b"A", b"B", b"C"]
        heir = await member(channel, self)
        await heir.become_owner()
        assert heir.assigned[0].floor == 3
        assert list(heir.assigned[0].ledger) == [("s", b"k", b"v")]
        await heir.quiet()

    @promise("a step from another floor than the channel's is refused whole, and so is what follows it", power="fenced")
    async def test_floor_mismatch(self, site: Site) -> None:
        mine = await self._owner(site, b"a", b"b", b"c")
        outputs, ledger = [rows(b"A", topic="out")], [LedgerWrite("s", b"k", b"v")]
        for step in (mine.step(2, before=1, outputs=outputs, ledger=ledger), mine.step(1, outputs=outputs)):
            assert isinstance(await mine.intake.commit(step), FencedOff)
        await mine.intake.leave()
        channel = await site.channel()
        assert await stored(channel, "out") == []
        heir = await member(channel, self)
        await heir.become_owner()
        assert (heir.assigned[0].floor, list(heir.assigned[0].ledger)) == (0, [])

    @promise("a step that was committed is not applied a second time", power="fenced")
    async def test_commit_twice(self, site: Site) -> None:
        mine = await self._owner(site, b"a")
        step = mine.step(1, outputs=[rows(b"A", topic="out")])
        assert isinstance(await mine.intake.commit(step), Committed)
        assert isinstance(await mine.intake.commit(step), FencedOff)
        assert len(await stored(await site.channel(), "out")) == 1

    @promise("commits called without awaiting each other are applied in the order of the calls")
    async def test_commits_overlap(self, site: Site) -> None:
        mine = await self._owner(site, *[b"%d" % i for i in range(8)])
        steps = [mine.step(i + 1, before=i, outputs=[rows(b"%d" % i, topic="out")]) for i in range(8)]
        answers = await asyncio.gather(*[mine.intake.commit(step) for step in steps])
        assert answers == [Committed([i]) for i in range(8)]
        assert [body for _, body in await stored(await site.channel(), "out")] == [b"%d" % i for i in range(8)]

    @promise("a step that breaks a limit is rejected and stores nothing")
    async def test_step_rejected(self, site: Site) -> None:
        mine = await self._owner(site, b"a", b"b")
        assert isinstance(await mine.intake.commit(mine.step(1)), Committed)
        outputs = [rows(b"X", topic="out")]
        with pytest.raises(Rejected, match="back"):
            await mine.intake.commit(mine.step(0, before=1, outputs=outputs))
        with pytest.raises(Rejected, match="holes"):
            await mine.intake.commit(mine.step(1, before=1, holes=range(HOLES_MAX + 1), outputs=outputs))
        assert await stored(await site.channel(), "out") == []

    @promise("an output larger than its topic's limit is rejected with the step it belongs to")
    async def test_output_oversized(self, site: Site) -> None:
        channel = await site.channel(T, TopicSpec("tiny", partitions=1, event_bytes_max=3))
        await put(channel, 0, rows(b"a"))
        mine = await member(channel, self)
        await mine.become_owner()
        with pytest.raises(Rejected, match="3"):
            await mine.intake.commit(mine.step(1, outputs=[rows(b"long", topic="tiny")]))
        assert await stored(channel, "tiny") == []
        assert isinstance(await mine.intake.commit(mine.step(1)), Committed)

    @promise("work that was not committed is delivered again, to the next owner, at a higher epoch")
    async def test_redelivery(self, site: Site) -> None:
        mine = await self._owner(site, b"a", b"b", b"c")
        await mine.take(3)
        assert isinstance(await mine.intake.commit(mine.step(1)), Committed)
        await mine.intake.leave()
        await mine.intake.leave()
        heir = await member(await site.channel(), self)
        await heir.become_owner()
        assert heir.assigned[0].owned.epoch > mine.assigned[0].owned.epoch
        assert await heir.take(2) == [(1, b"b"), (2, b"c")]

    @promise("a group's floor inside a block delivers the rest of that block and nothing before")
    async def test_tail(self, site: Site) -> None:
        mine = await self._owner(site, *[b"%d" % i for i in range(10)])
        assert isinstance(await mine.intake.commit(mine.step(7)), Committed)
        await mine.intake.leave()
        heir = await member(await site.channel(), self)
        await heir.become_owner()
        assert await heir.take(3, events_max=2) == [(7, b"7"), (8, b"8"), (9, b"9")]
        (first, *_) = heir.deliveries[0].batches
        assert first.base <= 7

    @promise("holes come back with the assignment; what is not settled is delivered")
    async def test_holes(self, site: Site) -> None:
        mine = await self._owner(site, *[b"%d" % i for i in range(6)])
        assert isinstance(await mine.intake.commit(mine.step(1, holes=[2, 4])), Committed)
        assert isinstance(await mine.intake.commit(mine.step(3, before=1, holes=[4])), Committed)
        await mine.intake.leave()
        heir = await member(await site.channel(), self)
        await heir.become_owner()
        assert (heir.assigned[0].floor, list(heir.assigned[0].holes)) == (3, [4])
        got = dict(await heir.take(3))  # the stream has no gap: the member leaves holes out
        assert {o: b for o, b in got.items() if o not in heir.assigned[0].holes} == {3: b"3", 5: b"5"}

    @promise("ledger entries are restored as last committed, changed and removed ones included", power="ledger")
    async def test_ledger(self, site: Site) -> None:
        mine = await self._owner(site, b"a", b"b")
        writes = [LedgerWrite("x", b"1", b"one"), LedgerWrite("x", b"2", b"\x00\xff"), LedgerWrite("y", b"1", b"")]
        assert isinstance(await mine.intake.commit(mine.step(1, ledger=writes)), Committed)
        writes = [LedgerWrite("x", b"1", b"changed"), LedgerWrite("x", b"2", None), LedgerWrite("z", b"gone", None)]
        assert isinstance(await mine.intake.commit(mine.step(2, before=1, ledger=writes)), Committed)
        await mine.intake.leave()
        heir = await member(await site.channel(), self)
        await heir.become_owner()
        assert sorted(heir.assigned[0].ledger) == [("x", b"1", b"changed"), ("y", b"1", b"")]

    @promise("ledgers and floors belong to one group and one partition")
    async def test_separate(self, site: Site) -> None:
        channel = await site.channel(TopicSpec("t", partitions=2))
        await put(channel, 0, rows(b"a"), rows(b"b", partition=1))
        mine = await member(channel, self)
        await mine.become_owner(2)
        assert isinstance(await mine.intake.commit(mine.step(1, ledger=[LedgerWrite("s", b"k", b"v")])), Committed)
        other = await member(channel, self, GroupSpec("h", "t"))
        await other.become_owner(2)
        assert [a.floor for a in other.assigned.values()] == [0, 0]
        assert len(await other.take(2)) == 2
        await mine.intake.leave()
        heir = await member(channel, self)
        await heir.become_owner(2)
        found = {p: (a.floor, list(a.ledger)) for p, a in heir.assigned.items()}
        assert found == {0: (1, [("s", b"k", b"v")]), 1: (0, [])}

    @promise(
        "one member owns a partition; a second one is told which, and takes over when that leaves",
        power="exclusive_partitions",
        needs=_exclusive,
    )
    async def test_second_member(self, site: Site) -> None:
        channel = await site.channel(T)
        first = await member(channel, self, name="worker-1")
        await first.become_owner()
        second = await member(await site.channel(), self, name="worker-2")
        idle = await second.quiet()
        assert "worker-1" in idle.reason
        await put(channel, 0, rows(b"a"))
        assert await first.take(1) == [(0, b"a")]
        assert isinstance(await second.next(), Idle | Revoking)
        await first.intake.leave()
        await second.become_owner()
        assert await second.take(1) == [(0, b"a")]

    @promise("after a crash between work and ack the work is delivered again", power="step")
    async def test_crash(self, site: Site) -> None:
        channel = await site.channel(T, OUT)
        await put(channel, 0, rows(b"a", b"b"))
        victim = await member(channel, self)
        await victim.become_owner()
        await victim.take(2)
        assert isinstance(await victim.intake.commit(victim.step(1, outputs=[rows(b"A", topic="out")])), Committed)
        await self.crash(channel, victim.intake, "g")
        heir = await member(await site.channel(), self)
        await heir.become_owner()
        assert await heir.take(1) == [(1, b"b")]
        assert len(await stored(channel, "out")) == 1

    @promise(
        "a zombie's commit is refused inside the commit, and nothing of it is stored", power="fenced", needs=_fenced
    )
    async def test_zombie(self, site: Site) -> None:
        channel = await site.channel(T, OUT)
        await put(channel, 0, rows(b"a", b"b"))
        zombie = await member(channel, self)
        await zombie.become_owner()
        await zombie.take(2)
        await self.crash(channel, zombie.intake, "g")
        heir = await member(await site.channel(), self)
        await heir.become_owner()
        late = zombie.step(2, outputs=[rows(b"Z", topic="out")], ledger=[LedgerWrite("s", b"k", b"zombie")])
        assert isinstance(await zombie.intake.commit(late), FencedOff)
        assert await stored(channel, "out") == []
        assert isinstance(await heir.intake.commit(heir.step(2, outputs=[rows(b"H", topic="out")])), Committed)
        assert isinstance(await zombie.intake.commit(late), FencedOff)
        assert await stored(channel, "out") == [(0, b"H")]

    @promise("floor, ledger and epoch survive the closing of every handle", power="durability")
    async def test_reopen_group(self, site: Site) -> None:
        if not self.durable:
            pytest.skip("the channel is gone with its process (D0)")
        mine = await self._owner(site, b"a", b"b")
        assert isinstance(await mine.intake.commit(mine.step(1, ledger=[LedgerWrite("s", b"k", b"v")])), Committed)
        before = mine.assigned[0]
        await site.close_handles()
        heir = await member(await site.channel(), self)
        await heir.become_owner()
        after = heir.assigned[0]
        assert (after.floor, list(after.ledger)) == (1, [("s", b"k", b"v")])
        assert after.owned.epoch > before.owned.epoch
        assert (after.log, after.incarnation) == (before.log, before.incarnation)
        assert await heir.take(1) == [(1, b"b")]

    @promise("a group that starts at the latest sees what is published after it was assigned, and only that")
    async def test_latest(self, site: Site) -> None:
        channel = await site.channel(T)
        await put(channel, 0, rows(b"old", b"older"))
        group = GroupSpec("g", "t", start="latest")
        mine = await member(channel, self, group)
        await mine.become_owner()
        assert mine.assigned[0].floor == 2
        await put(channel, 1, rows(b"new"))
        assert await mine.take(1) == [(2, b"new")]
        await mine.intake.leave()  # uncommitted: `latest` is for a new group, not for each assignment
        heir = await member(channel, self, group)
        await heir.become_owner()
        assert await heir.take(1) == [(2, b"new")]

    @promise("a group that starts at the latest sees what is published after it was declared, before it was assigned")
    async def test_latest_between(self, site: Site) -> None:
        channel = await site.channel(T)
        await put(channel, 0, rows(b"old"))
        mine = await member(channel, self, GroupSpec("g", "t", start="latest"))
        await put(channel, 1, rows(b"between"))
        await mine.become_owner()
        assert await mine.take(1) == [(1, b"between")]

    @promise("the ids of a step's outputs can be derived from its origin, which no other step shares")
    async def test_origins(self, site: Site) -> None:
        mine = await self._owner(site, b"a", b"b")
        for floor in range(2):
            step = mine.step(floor + 1, before=floor, outputs=[rows(b"x", topic="out")])
            assert isinstance(await mine.intake.commit(step), Committed)
        channel = await site.channel()
        origins = [batch.origin for batch in await channel.read("out", 0, 0, events_max=10)]
        assert origins == ["g:t:0:0", "g:t:0:1"]

    @promise("steps that move no floor have origins of their own", power="fenced")
    async def test_origins_of_steps_that_move_no_floor(self, site: Site) -> None:
        mine = await self._owner(site, b"a", b"b")
        start = mine.assigned[0].number
        for number, after in enumerate((0, 0, 1), start):
            step = mine.step(after, outputs=[rows(b"x", topic="out")], number=number)
            assert isinstance(await mine.intake.commit(step), Committed)
        channel = await site.channel()
        origins = [batch.origin for batch in await channel.read("out", 0, 0, events_max=10)]
        assert origins == [f"g:t:0:0.{start}", f"g:t:0:0.{start + 1}", "g:t:0:0"]

    @promise("a step that moves no floor is told from its repetition by its number", power="fenced")
    async def test_step_numbers(self, site: Site) -> None:
        mine = await self._owner(site, b"a", b"b")
        start = mine.assigned[0].number
        step = mine.step(0, outputs=[rows(b"x", topic="out")], number=start)
        assert isinstance(await mine.intake.commit(step), Committed)
        second = mine.step(1, outputs=[rows(b"y", topic="out")], number=start + 1)
        assert isinstance(await mine.intake.commit(second), Committed)
        await mine.intake.leave()
        heir = await member(await site.channel(), self)
        await heir.become_owner()
        assert heir.assigned[0].number == start + 2
        late = heir.step(1, outputs=[rows(b"z", topic="out")], number=start + 1)
        assert isinstance(await heir.intake.commit(late), FencedOff)
        assert await stored(await site.channel(), "out") == [(0, b"x"), (1, b"y")]

    @promise("the lowest offset that a ledger refers to comes back with the assignment", power="ledger")
    async def test_oldest(self, site: Site) -> None:
        mine = await self._owner(site, b"a", b"b")
        assert mine.assigned[0].oldest is None
        with pytest.raises(Rejected, match="to be kept"):
            await mine.intake.commit(mine.step(1, oldest=2))
        assert isinstance(await mine.intake.commit(mine.step(2, oldest=1)), Committed)
        await mine.intake.leave()
        heir = await member(await site.channel(), self)
        await heir.become_owner()
        assert heir.assigned[0].oldest == 1
        assert isinstance(await heir.intake.commit(heir.step(2)), Committed)

    @promise("a step past the end of its partition, or with a hole there, is rejected")
    async def test_step_past_the_end(self, site: Site) -> None:
        mine = await self._owner(site, b"a", b"b")
        for step in (mine.step(3), mine.step(0, holes=[2]), mine.step(0, holes=[-1])):
            with pytest.raises(Rejected, match="ends at 2"):
                await mine.intake.commit(step)
        assert isinstance(await mine.intake.commit(mine.step(2)), Committed)

    @promise(
        "a fenced owner is told that the partition is lost, and may own it again at a higher epoch", power="fenced"
    )
    async def test_lost(self, site: Site) -> None:
        mine = await self._owner(site, b"a", b"b")
        first = mine.assigned[0]
        step = Step("g", first.owned, Settle(1, 2))  # not the channel's floor
        assert isinstance(await mine.intake.commit(step), FencedOff)
        while not mine.lost:
            await mine.next(wait_s=self.wait_s)
        await mine.become_owner()
        again = mine.assigned[0]
        assert [first.owned] == mine.lost
        assert (again.floor, again.owned.epoch > first.owned.epoch) == (0, True)
        assert await mine.take(2) == [(0, b"a"), (1, b"b")]
        assert isinstance(await mine.intake.commit(mine.step(2)), Committed)

    @promise("only the ledger spaces that were asked for need to come with the assignment", power="ledger")
    async def test_ledger_spaces(self, site: Site) -> None:
        mine = await self._owner(site, b"a")
        writes = [LedgerWrite("x", b"1", b"one"), LedgerWrite("y", b"1", b"two")]
        assert isinstance(await mine.intake.commit(mine.step(1, ledger=writes)), Committed)
        await mine.intake.leave()
        heir = Member(await (await site.channel()).join(Subscription(GroupSpec("g", "t"), "", ["y"])), self)
        await heir.become_owner()
        assert ("y", b"1", b"two") in heir.assigned[0].ledger

    @promise("a group on another topic, on none, or with an impossible name is refused")
    async def test_group_declared(self, site: Site) -> None:
        channel = await site.channel(T, OUT)
        await channel.join(Subscription(GroupSpec("g", "t")))
        with pytest.raises(DeclaredDifferently, match="out"):
            await channel.join(Subscription(GroupSpec("g", "out")))
        with pytest.raises(ConfigError, match="nowhere"):
            await channel.join(Subscription(GroupSpec("h", "nowhere")))
        with pytest.raises(ConfigError):
            await channel.join(Subscription(GroupSpec("../h", "t")))

    @promise("when there is nothing, next answers Idle after the stated wait")
    async def test_idle(self, site: Site) -> None:
        mine = await self._owner(site)
        assert (await mine.quiet()).reason == ""
        taken = await asyncio.wait_for(mine.next(wait_s=0.01), 20.0)
        assert isinstance(taken, Idle)

    @promise("closing the channel ends what is waiting on it and harms nobody else")
    async def test_close_while_busy(self, site: Site) -> None:
        channel = await site.channel(T)
        other = await site.channel()
        await put(channel, 0, rows(b"a"))
        mine = await member(channel, self)
        await mine.become_owner()
        await mine.take(1)
        waiting = asyncio.ensure_future(mine.next(wait_s=30.0))
        publishing = [
            asyncio.ensure_future(channel.publish(Publish(f"p{i}", 0, 0, [rows(b"%d" % i)]))) for i in range(10)
        ]
        await asyncio.sleep(0)
        await channel.close()
        (taken,) = await asyncio.wait_for(asyncio.gather(waiting, return_exceptions=True), 20.0)
        assert isinstance(taken, Closed | Idle | Lost) or not isinstance(taken, BaseException), taken
        answers = await asyncio.wait_for(asyncio.gather(*publishing, return_exceptions=True), 20.0)
        found = {body for _, body in await stored(other)}
        for i, answer in enumerate(answers):
            if not isinstance(answer, BaseException) and hasattr(answer, "first"):
                assert b"%d" % i in found, "acked and lost"
        heir = await member(other, self)
        await heir.become_owner()
        assert heir.assigned[0].floor == 0

    @promise("a cancelled next loses nothing")
    async def test_cancelled_next(self, site: Site) -> None:
        mine = await self._owner(site)
        waiting = asyncio.ensure_future(mine.intake.next(events_max=10, bytes_max=BYTES_MAX, wait_s=30.0))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await put(await site.channel(), 0, rows(b"a"))
        assert await mine.take(1) == [(0, b"a")]

    @promise("extend is accepted, also where the channel keeps ownership by itself")
    async def test_extend(self, site: Site) -> None:
        mine = await self._owner(site, b"a")
        await mine.take(1)
        await mine.intake.extend(mine.assigned[0].owned, [0], 1.0)
        assert isinstance(await mine.intake.commit(mine.step(1)), Committed)

    @promise("what is asked of a member that has left is refused, not answered")
    async def test_left(self, site: Site) -> None:
        mine = await self._owner(site, b"a")
        await mine.intake.leave()
        with pytest.raises(Closed):
            await mine.next()
        assert isinstance(await mine.intake.commit(mine.step(1)), FencedOff)
