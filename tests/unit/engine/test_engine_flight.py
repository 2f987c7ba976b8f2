"""Steps that find no room are sent again, in their order; nothing is worked on twice."""

from __future__ import annotations

import asyncio
from typing import Any

from penstock.channel.api import Channel, Committed, FencedOff, Intake, Step, Subscription, Unknown
from penstock.engine.group import Group
from penstock.errors import LogFull
from tests.unit.engine.engine_kit import Bill, Kit, Order


class Full:
    """A channel whose log has no room for the first `times` steps that are sent, nor for any behind one of those."""

    def __init__(self, inner: Channel, times: int) -> None:
        self.inner = inner
        self.left = times
        self.joins = 0
        self.lowest = -1  # where the step begins that found no room

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def join(self, subscription: Subscription) -> Intake:
        self.joins += 1
        intake = await self.inner.join(subscription)
        commit = intake.commit

        async def full(step: Step) -> Committed | FencedOff | Unknown:
            begins = step.settle.floor_before
            if self.left or begins > self.lowest >= 0:
                self.left = max(0, self.left - 1)
                self.lowest = begins if self.lowest < 0 else min(begins, self.lowest)
                raise LogFull("the disk is full: nothing was stored")
            self.lowest = -1
            return await commit(step)

        intake.commit = full  # type: ignore[method-assign]
        return intake


async def billed(kit: Kit, channel: Full, *, ended: bool = True) -> tuple[Group, list[int]]:
    source = await kit.topic("orders", Order, partitions=1)
    into = await kit.topic("bills", Bill, partitions=1)
    await kit.publish(source, [Order(n, "c", n) for n in range(200)])
    calls: list[int] = []

    def bill(order: Order) -> Bill:
        calls.append(order.id)
        kit.clock._now_s += 0.02  # a step ends after half a second
        return Bill(order.id, order.customer, 1.0)

    group = await kit.handler(bill, source, into, ended=(lambda: True) if ended else None)
    group._channel = channel  # type: ignore[assignment]
    return group, calls


async def test_sent_again_until_there_is_room(kit: Kit) -> None:
    channel = Full(kit.channel, 9)
    group, calls = await billed(kit, channel)
    await group.run()
    assert calls == list(range(200))
    assert [bill.id for bill in await kit.events(kit.topics["bills"])] == list(range(200))
    assert (channel.joins, channel.left, group.state.events) == (1, 0, 200)
    assert group.state.steps > 2


async def test_stopped_while_there_is_no_room(kit: Kit) -> None:
    channel = Full(kit.channel, 10**9)
    group, _ = await billed(kit, channel, ended=False)
    running = asyncio.ensure_future(group.run())
    while group.state.state != "waiting":
        await asyncio.sleep(0)
    assert "the disk is full" in group.state.reason
    group.stop()
    await running
    channel.left = 0
    group, _ = await billed_again(kit)
    await group.run()
    assert [bill.id for bill in await kit.events(kit.topics["bills"])] == list(range(200))


async def billed_again(kit: Kit) -> tuple[Group, list[int]]:
    def bill(order: Order) -> Bill:
        return Bill(order.id, order.customer, 1.0)

    return await kit.handler(bill, kit.topics["orders"], kit.topics["bills"]), []
