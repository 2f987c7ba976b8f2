"""Steps that only move a floor wait for one another; nothing that was handled is handled again after an end."""

from __future__ import annotations

from penstock.engine.group import PROGRESS_EVERY_S
from tests.unit.engine.engine_kit import Bill, Kit, Order


def order(number: int) -> Order:
    return Order(number, "c", number)


async def test_steps_without_results_are_committed_together(kit: Kit) -> None:
    source = await kit.topic("orders", Order, partitions=1)
    await kit.publish(source, [order(0)])

    async def note(event: Order) -> None:
        if event.id < 9:
            await kit.publish(source, [order(event.id + 1)])

    group = await kit.handler(note, source)
    await group.run()
    assert (group.state.events, group.state.steps) == (10, 2)
    again = await kit.handler(note, source)
    await again.run()
    assert again.state.events == 0


async def test_a_step_is_not_kept_back_for_longer_than_stated(kit: Kit) -> None:
    source = await kit.topic("orders", Order, partitions=1)
    await kit.publish(source, [order(0)])

    async def note(event: Order) -> None:
        await kit.clock.sleep(PROGRESS_EVERY_S * 1.5)
        if event.id < 4:
            await kit.publish(source, [order(event.id + 1)])

    group = await kit.handler(note, source)
    await group.run()
    assert (group.state.events, group.state.steps) == (5, 5)


async def test_what_has_results_takes_what_was_kept_back_along(kit: Kit) -> None:
    source = await kit.topic("orders", Order, partitions=1)
    into = await kit.topic("bills", Bill, partitions=1)
    await kit.publish(source, [order(0)])

    async def last(event: Order) -> Bill | None:
        if event.id == 5:
            return Bill(event.id, event.customer, 1.0)
        await kit.publish(source, [order(event.id + 1)])
        return None

    group = await kit.handler(last, source, into)
    await group.run()
    assert (group.state.events, group.state.steps) == (6, 2)
    assert [bill.id for bill in await kit.events(into)] == [5]
