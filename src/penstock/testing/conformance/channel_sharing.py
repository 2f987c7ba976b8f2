"""The channel suite's part about several members of one group: who gets which partitions, and how they change hands."""

from __future__ import annotations

from penstock.channel.api import (
    Capabilities,
    Channel,
    Committed,
    FencedOff,
    GroupSpec,
    Idle,
    Owned,
    TopicSpec,
)
from penstock.testing.conformance.harness import ChannelSuite, Member, Site, member, promise, put, rows, stored

P = 4
T = TopicSpec("t", partitions=P)
OUT = TopicSpec("out", partitions=1)


def _exclusive(powers: Capabilities) -> bool:
    return powers.exclusive_partitions


def _fenced(powers: Capabilities) -> bool:
    return powers.exclusive_partitions and powers.fenced


class SharingPromises(ChannelSuite):
    """Promises about members that come, go, and are given up."""

    async def _pair(self, site: Site) -> tuple[Member, Member, Channel]:
        """A member with every partition, one event in each, and a second one that has just joined; its channel."""
        channel = await site.channel(T, OUT)
        await put(channel, 0, *(rows(b"%d" % n, partition=n) for n in range(P)))
        first = await member(channel, self, name="worker-1")
        await first.become_owner(P)
        await first.take(P)
        other = await site.channel()
        return first, await member(other, self, name="worker-2"), other

    async def _shared(self, site: Site) -> tuple[Member, Member, Channel]:
        """Two members with half of the partitions each, and the second one's channel."""
        first, second, other = await self._pair(site)
        await second.next()
        for owned in list(await first.asked_back(P // 2)):
            await first.hand_over(owned)
        await second.become_owner(P // 2)
        return first, second, other

    @promise(
        "a member that joins gets its share, and only that is asked back of the others",
        power="exclusive_partitions",
        needs=_exclusive,
    )
    async def test_join_moves_only_its_share(self, site: Site) -> None:
        first, second, _ = await self._pair(site)
        assert isinstance(await second.next(), Idle)
        asked = list(await first.asked_back(P // 2))
        assert len(asked) == P // 2
        await first.quiet()
        assert isinstance(await second.next(wait_s=self.wait_s), Idle), "a partition was claimed before it was left"
        for owned in asked:
            assert owned in first.intake.asked()
            await first.hand_over(owned)
        await second.become_owner(P // 2)
        assert {a.owned.partition for a in second.assigned.values()} == {owned.partition for owned in asked}
        assert list(first.intake.asked()) == []
        await second.take(P // 2)

    @promise("a partition that is paused is owned and not delivered, the others are; then it goes on where it ended")
    async def test_a_paused_partition(self, site: Site) -> None:
        channel = await site.channel(T)
        await put(channel, 0, *(rows(b"a", b"b", partition=n) for n in range(P)))
        mine = await member(channel, self)
        await mine.become_owner(P)
        await mine.take(2 * P)
        held = mine.assigned[1].owned
        mine.intake.pause(held, on=True)
        mine.intake.pause(Owned(held.topic, 2, mine.assigned[2].owned.epoch + 7), on=True)  # of no assignment
        await put(channel, 1, *(rows(b"c", b"d", partition=n) for n in range(P)))
        await mine.take(2 * P + 2 * (P - 1))
        await mine.quiet()
        assert len(mine.seen[1]) == 2
        assert isinstance(await mine.intake.commit(mine.step_of(1, 2)), Committed), "it is owned all the same"
        mine.intake.pause(held, on=False)
        await mine.take(4 * P)
        assert [body for _, body in mine.seen[1]] == [b"a", b"b", b"c", b"d"]

    @promise(
        "what is in flight of a partition that is asked back is committed before it is left, and not done again",
        power="exclusive_partitions",
        needs=_exclusive,
    )
    async def test_commit_before_leaving(self, site: Site) -> None:
        first, second, other = await self._pair(site)
        await second.next()
        owned, *others = await first.asked_back(P // 2)
        number = owned.partition
        step = first.step_of(number, 1, rows(b"done", topic="out"))
        assert isinstance(await first.intake.commit(step), Committed)
        for left in (owned, *others):
            await first.hand_over(left)
        await second.become_owner(P // 2)
        assert second.assigned[number].floor == 1
        assert second.assigned[number].owned.epoch > owned.epoch
        await second.take(P // 2 - 1)
        assert second.seen[number] == []
        assert await stored(other, "out") == [(0, b"done")]

    @promise(
        "nothing more is delivered of a partition that is asked back, and the others go on",
        power="exclusive_partitions",
        needs=_exclusive,
    )
    async def test_asked_back_is_quiet(self, site: Site) -> None:
        first, second, other = await self._pair(site)
        await second.next()
        asked = {owned.partition for owned in await first.asked_back(P // 2)}
        await put(other, 0, *(rows(b"more", partition=n) for n in range(P)), producer="q")
        await first.take(P + P - len(asked))
        for number, events in first.seen.items():
            assert len(events) == (1 if number in asked else 2)
        kept = next(number for number in first.assigned if number not in asked)
        assert isinstance(await first.intake.commit(first.step_of(kept, 2)), Committed)

    @promise(
        "after a partition was left its steps are refused; those of the others are not", power="fenced", needs=_fenced
    )
    async def test_left_one(self, site: Site) -> None:
        first, second, _ = await self._pair(site)
        await second.next()
        owned = (await first.asked_back(P // 2))[0]
        late = first.step_of(owned.partition, 1)
        kept = next(n for n in first.assigned if n not in {o.partition for o in first.revoking})
        await first.intake.leave(owned)
        await first.intake.leave(owned)
        assert isinstance(await first.intake.commit(late), FencedOff)
        assert isinstance(await first.intake.commit(first.step_of(kept, 1)), Committed)

    @promise(
        "when a member leaves, the others get what it had, and keep what they have",
        power="exclusive_partitions",
        needs=_exclusive,
    )
    async def test_leave_moves_only_its_share(self, site: Site) -> None:
        first, second, _ = await self._shared(site)
        kept = {number: a.owned for number, a in first.assigned.items()}
        await second.intake.leave()
        await first.become_owner(P)
        assert first.revoking == []
        assert {number: a.owned for number, a in first.assigned.items() if number in kept} == kept

    @promise(
        "when a member dies, the others get what it had, at higher epochs, and it is done once",
        power="exclusive_partitions",
        needs=_exclusive,
    )
    async def test_death_of_one(self, site: Site) -> None:
        first, second, other = await self._shared(site)
        await second.take(P // 2)
        number, *rest = second.assigned
        step = second.step_of(number, 1, rows(b"done", topic="out"))
        assert isinstance(await second.intake.commit(step), Committed)
        epochs = {n: second.assigned[n].owned.epoch for n in second.assigned}
        await self.crash(other, second.intake, "g")
        await first.become_owner(P)
        for n in (number, *rest):
            assert first.assigned[n].owned.epoch > epochs[n]
        assert first.assigned[number].floor == 1
        assert {n: first.assigned[n].floor for n in rest} == dict.fromkeys(rest, 0)

    @promise(
        "a member that was given up and goes on is fenced off, told what it lost, and gets a share again",
        power="fenced",
        needs=_fenced,
    )
    async def test_zombie_comes_back(self, site: Site) -> None:
        first, zombie, other = await self._shared(site)
        await zombie.take(P // 2)
        before = {n: a.owned for n, a in zombie.assigned.items()}
        late = [zombie.step_of(n, 1, rows(b"zombie", topic="out")) for n in before]
        thaw = await self.freeze(other, zombie.intake, "g")
        await first.become_owner(P)
        thaw()
        for step in late:
            assert isinstance(await zombie.intake.commit(step), FencedOff)
        for _ in range(self.looks_max):
            if len(zombie.lost) == len(before):
                break
            await zombie.next(wait_s=self.wait_s)
        assert sorted(zombie.lost, key=lambda o: o.partition) == [before[n] for n in sorted(before)]
        for owned in list(await first.asked_back(P // 2)):
            await first.hand_over(owned)
        await zombie.become_owner(P // 2)
        assert await stored(other, "out") == []

    @promise(
        "a group whose partitions belong together has one member that owns them all",
        power="exclusive_partitions",
        needs=_exclusive,
    )
    async def test_together(self, site: Site) -> None:
        channel = await site.channel(T)
        spec = GroupSpec("g", "t", "sink", together=True)
        first = await member(channel, self, spec, name="worker-1")
        await first.become_owner(P)
        second = await member(await site.channel(), self, spec, name="worker-2")
        assert "worker-1" in (await second.quiet()).reason
        await first.quiet()
        await first.intake.leave()
        await second.become_owner(P)

    @promise(
        "who has nothing left to do is told of what other members have not settled",
        power="exclusive_partitions",
        needs=_exclusive,
    )
    async def test_behind(self, site: Site) -> None:
        first, second, _ = await self._shared(site)
        await second.take(P // 2)
        assert "not settled" in (await first.quiet()).behind
        for number in list(second.assigned):
            assert isinstance(await second.intake.commit(second.step_of(number, 1)), Committed)
        assert (await first.quiet()).behind == ""
        assert "not settled" in (await second.quiet()).behind

    @promise(
        "members that come and go at any time share every partition, one owner at a time, none left out",
        power="exclusive_partitions",
        needs=_exclusive,
    )
    async def test_storm(self, site: Site) -> None:
        channels = [await site.channel(T) for _ in range(4)]
        members: list[Member] = []
        for turn in range(12):
            if turn % 3 == 2:
                await members.pop(turn % len(members)).intake.leave()
            else:
                members.append(await member(channels[turn % 4], self, name=f"worker-{turn}"))
            await self._at_rest(members)

    async def _at_rest(self, members: list[Member]) -> None:
        """Everybody does as told until nothing moves; then each partition has one owner, and shares are even."""
        quiet = 0
        for _ in range(self.looks_max * 4):
            moved = False
            for one in members:
                taken = await one.next(wait_s=0.0)
                for owned in list(one.revoking):
                    await one.hand_over(owned)
                moved = moved or not isinstance(taken, Idle)
            owners = [number for one in members for number in one.assigned]
            assert len(owners) == len(set(owners)), "a partition has two owners"
            quiet = 0 if moved else quiet + 1
            if quiet > 2 and len(owners) == P:
                break
        sizes = [len(one.assigned) for one in members]
        assert sum(sizes) == P, sizes
        assert max(sizes) - min(sizes) <= 1, sizes


__all__ = ["SharingPromises"]
