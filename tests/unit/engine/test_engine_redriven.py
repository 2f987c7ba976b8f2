"""What people say about dead letters while the group is busy with others, or with the same."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.delivery.lot import GivenUp, OnFailure
from penstock.delivery.redrive import Command
from penstock.delivery.retry import Retry
from tests.unit.engine.engine_kit import Bill, Kit, Order
from tests.unit.engine.test_engine_parking import bill, command, keyed, ledger, orders, stops_after


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_letters_for_which_there_was_no_room_are_redriven_before_the_group_is_idle(
    kit: Kit, concurrency: int
) -> None:
    source = await keyed(kit, orders(*"abcdefghi"))

    async def strict(order: Order) -> None:
        raise ValueError("broken")

    options: dict[str, Any] = {"on_failure": OnFailure(keys_max=3), "concurrency": concurrency}
    await (await kit.handler(strict, source, retry=Retry(1), **options)).run()
    for number, letter in enumerate(await kit.letters("strict")):
        await command(kit, "strict", Command("redrive", number, letter.offset, letter.body, letter.key, letter.id))
    await (await kit.handler(strict, source, retry=Retry(2, first_s=0.1), **options)).run()
    assert [letter.again for letter in await kit.letters("strict")] == [0] * 9 + [1] * 9


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("error", [ValueError, ConnectionError])
@pytest.mark.parametrize("given_up", ["continue", "block"])
async def test_a_letter_that_fails_again_and_again_can_be_skipped(
    kit: Kit, given_up: GivenUp, error: type[Exception], concurrency: int
) -> None:
    source = await keyed(kit, orders(*"aa"))
    into = await kit.topic("bills", Bill, partitions=1, key="customer")
    calls = 0

    async def strict(order: Order) -> Bill:
        nonlocal calls
        if order.id == 0:
            calls += 1
            raise error("broken")
        return bill(order)

    options: dict[str, Any] = {"given_up": given_up, "concurrency": concurrency}
    await (await kit.handler(strict, source, into, retry=Retry(1), **options)).run()
    (letter,) = await kit.letters("strict")
    calls = 0
    await command(kit, "strict", Command("redrive", 0, 0, letter.body, letter.key, letter.id))
    options |= {"retry": Retry(1_000, first_s=50), "on_failure": OnFailure(breaker=1)}
    group = await kit.handler(strict, source, into, **options)
    kit.clock.sleep = stops_after(group, kit, 10)  # type: ignore[method-assign]
    await group.run()
    assert calls >= 1
    await command(kit, "strict", Command("skip", 0, 0))
    group = await kit.handler(strict, source, into, **options)
    kit.clock.sleep = stops_after(group, kit, 10_000)  # type: ignore[method-assign]
    await group.run()
    assert calls <= 2
    assert ledger(kit, "strict")["letters", bytes(8)] == b"skipped"
    assert [b.id for b in await kit.events(into)] == [1]
