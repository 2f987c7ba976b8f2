"""Results that their topic cannot take, of events that have failed, or come back from the dead letters, before."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.channel.api import Acked, Publish
from penstock.channel.typed import TypedTopic
from penstock.delivery.lot import GivenUp
from penstock.delivery.redrive import Command, encode
from penstock.delivery.retry import Retry
from penstock.engine.context import Context, Identity
from penstock.event.batch import NewBatch, Rows
from penstock.event.partition import KEY_BYTES_MAX
from tests.unit.engine.engine_kit import Bill, Kit, Order

TOO_LONG = "x" * (KEY_BYTES_MAX + 1)


async def topics(kit: Kit, *customers: str) -> tuple[TypedTopic[Any], TypedTopic[Any]]:
    source = await kit.topic("orders", Order, partitions=1, key="customer")
    into = await kit.topic("bills", Bill, partitions=1, key="customer")
    await kit.publish(source, [Order(number, customer, number) for number, customer in enumerate(customers)])
    return source, into


def refused(order: Order) -> Any:
    return {"a": "not a bill", "b": Bill(order.id, TOO_LONG, 1.0)}[order.customer]


@pytest.mark.parametrize("concurrency", [0, 1, 4])
@pytest.mark.parametrize("given_up", ["continue", "block"])
async def test_the_letter_tells_of_the_attempts_before(kit: Kit, concurrency: int, given_up: GivenUp) -> None:
    source, into = await topics(kit, *"aba")

    def plain(order: Order, ctx: Context) -> Any:
        if ctx.attempt < 3:
            raise ValueError(f"attempt {ctx.attempt}")
        return refused(order) if order.id < 2 else Bill(order.id, order.customer, 1.0)

    async def awaited(order: Order, ctx: Context) -> Any:
        return plain(order, ctx)

    function = awaited if concurrency else plain
    options = {"retry": Retry(5), "given_up": given_up, "concurrency": concurrency or 1}
    await (await kit.handler(function, source, into, **options)).run()
    letters = sorted(await kit.letters(function.__name__), key=lambda letter: letter.offset)
    assert [(letter.offset, letter.attempts) for letter in letters] == [(0, 3), (1, 3)]
    for letter in letters:
        assert [one.error for one in letter.tries[:2]] == ["ValueError", "ValueError"]
        assert (letter.tries[2].error, letter.stack) == ("OutputRefused", "")
    assert [b.id for b in await kit.events(into)] == ([2] if given_up == "continue" else [])


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_a_redriven_event_is_a_letter_of_its_own(kit: Kit, concurrency: int) -> None:
    source, into = await topics(kit, *"ab")
    seen: list[int] = []

    async def wrong(order: Order, ctx: Context) -> Any:
        seen.append(ctx.redriven)
        return refused(order)

    for round_ in range(3):
        await (await kit.handler(wrong, source, into, retry=Retry(1), concurrency=concurrency)).run()
        letters = await kit.letters("wrong")
        assert [(letter.offset, letter.again) for letter in letters] == [
            (n, r) for r in range(round_ + 1) for n in (0, 1)
        ]
        for number, letter in enumerate(letters[-2:], 2 * round_):
            again = Command(
                "redrive", number, letter.offset, letter.body, letter.key, letter.id, again=letter.again + 1
            )
            answer = await kit.channel.publish(
                Publish(f"cli-{number}", 0, 0, [NewBatch("wrong.redrive", 0, 1, Rows.of([encode(again)]))])
            )
            assert isinstance(answer, Acked)
        kit.clock.pass_s(2)
    assert seen == [0, 0, 1, 1, 2, 2]
    ledger = kit.channel.memory.ledger("wrong", 0)
    assert {ledger["letters", number.to_bytes(8)] for number in range(4)} == {b"failed again"}
    found = await kit.channel.read("wrong.dead", 0, 0, events_max=100)
    ids = [Identity(batch, kit.topics["wrong.dead"]).id(index) for batch in found for index in range(batch.count)]
    assert len(set(ids)) == len(ids) == 6


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_under_block_a_result_whose_key_is_too_long_holds_its_event_s_key(kit: Kit, concurrency: int) -> None:
    source, into = await topics(kit, *"bcbcb")
    calls: list[int] = []

    async def wrong(order: Order) -> Any:
        calls.append(order.id)
        return refused(order) if order.id == 0 else Bill(order.id, order.customer, 1.0)

    await (await kit.handler(wrong, source, into, given_up="block", concurrency=concurrency)).run()
    (letter,) = await kit.letters("wrong")
    assert (letter.offset, letter.error, letter.holds) == (0, "OutputRefused", True)
    assert sorted({*calls}) == [0, 1, 3]
    assert [b.id for b in await kit.events(into)] == [1, 3]
