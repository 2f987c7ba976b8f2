"""What lies beside a redriven event: what lay beside it before, as long as the log has it."""

from __future__ import annotations

import weakref
from typing import Any

import pytest

from penstock.channel.api import Acked, Publish
from penstock.delivery.redrive import Command, encode
from penstock.delivery.retry import Retry
from penstock.engine.context import Context, Identity
from penstock.errors import OffsetOutOfRange
from penstock.event.batch import Delivered, NewBatch, Rows
from penstock.event.envelope import RecordedEvent
from tests.unit.engine.engine_kit import Bill, Kit, Order


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("concurrency", [1, 4])
async def test_a_redriven_event_comes_in_its_envelope(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, concurrency: int, gone: bool
) -> None:
    source = await kit.topic("orders", Order, partitions=1, key="customer")
    into = await kit.topic("bills", Bill, partitions=1, key="customer")
    bodies = [source.encode(Order(number, "ann", number)) for number in range(3)]
    attributes = {"correlationid": ["c0", "c1", "c2"], "headers": [{"n": "0"}, {"n": "1"}, None], "time_us": [1, 2, 3]}
    await kit.publish_batches(source.pack(bodies, attributes=attributes).batches)
    seen: list[RecordedEvent] = []

    async def work(order: Order, ctx: Context) -> Bill:
        seen.append(ctx.event())
        if order.id == 1 and not ctx.redriven:
            raise ValueError("not now")
        return Bill(order.id, order.customer, order.amount)

    await (await kit.handler(work, source, into, retry=Retry(1), concurrency=concurrency)).run()
    (letter,) = await kit.letters("work")
    body = letter.body.replace(b'"amount":1', b'"amount":7')
    command = encode(Command("redrive", 0, 1, body, letter.key, letter.id))
    batch = NewBatch("work.redrive", 0, 1, Rows.of([command]))
    assert isinstance(await kit.channel.publish(Publish("cli", 0, 0, [batch])), Acked)
    kit.clock.pass_s(2)
    if gone:
        whole = kit.channel.read

        async def read(topic: str, partition: int, offset: int, *, events_max: int) -> object:
            if topic == "orders":
                raise OffsetOutOfRange("orders/0: offset 1 has gone")
            return await whole(topic, partition, offset, events_max=events_max)

        monkeypatch.setattr(kit.channel, "read", read)
    await (await kit.handler(work, source, into, retry=Retry(1), concurrency=concurrency)).run()
    before, after = seen[1], seen[3]
    assert (after.id, after.offset, after.key, after.data) == (before.id, 1, b"ann", Order(1, "ann", 7))
    if not gone:
        assert (after.headers, after.time, after.correlationid) == ({"n": "1"}, before.time, "c1")
        assert (after.recorded_time, after.source) == (before.recorded_time, before.source)
        monkeypatch.undo()
        *_, (last,) = [
            [Identity(b, into).event(i) for i in range(b.count)]
            for b in await kit.channel.read("bills", 0, 2, events_max=9)
        ]
        assert (last.correlationid, last.headers) == ("c1", {"redriven": "out of order"})


async def test_redriven_neighbours_are_read_together(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading and unpacking for each letter anew took most of the time that redriving many took."""
    count = 60
    source = await kit.topic("orders", Order, partitions=1, key="customer")
    into = await kit.topic("bills", Bill, partitions=1, key="customer")
    for number in range(count):  # a block each, as one-by-one publishers leave them
        attributes = {"correlationid": [f"c{number}"]}
        await kit.publish_batches(source.pack([source.encode(Order(number, "ann", 1))], attributes=attributes).batches)
    seen: list[str | None] = []

    def work(order: Order, ctx: Context) -> Bill:
        if not ctx.redriven:
            raise ValueError("not now")
        seen.append(ctx.event().correlationid)
        return Bill(order.id, order.customer, order.amount)

    await (await kit.handler(work, source, into, retry=Retry(1))).run()
    letters = await kit.letters("work")
    assert len(letters) == count
    commands = [encode(Command("redrive", n, n, one.body, one.key, one.id)) for n, one in enumerate(letters)]
    batch = NewBatch("work.redrive", 0, count, Rows.of(commands))
    assert isinstance(await kit.channel.publish(Publish("cli", 0, 0, [batch])), Acked)
    kit.clock.pass_s(2)
    whole, read_at = kit.channel.read, list[int]()

    async def read(topic: str, partition: int, offset: int, *, events_max: int) -> object:
        if topic == "orders":
            read_at.append(offset)
        return await whole(topic, partition, offset, events_max=events_max)

    monkeypatch.setattr(kit.channel, "read", read)
    await (await kit.handler(work, source, into, retry=Retry(1))).run()
    assert seen == [f"c{number}" for number in range(count)]
    assert read_at == [0]


class Answer(list[Delivered]):
    """A list of which can be said whether somebody has it."""


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_what_was_read_for_redriven_events_is_let_go_though_keys_wait(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, concurrency: int
) -> None:
    """It was kept for as long as any key waited for people: up to 64 MB of each partition."""
    source = await kit.topic("orders", Order, partitions=1, key="customer")
    await kit.publish(source, [Order(number, f"c{number}", 1) for number in range(9)])

    async def work(order: Order, ctx: Context) -> None:
        if not ctx.redriven and order.id < 2:
            raise ValueError("not now")

    await (await kit.handler(work, source, retry=Retry(1), given_up="block")).run()
    letter, *_ = await kit.letters("work")
    command = encode(Command("redrive", 0, letter.offset, letter.body, letter.key, letter.id))
    await kit.publish_batches([NewBatch("work.redrive", 0, 1, Rows.of([command]))])
    kit.clock.pass_s(2)
    whole, answers = kit.channel.read, list[weakref.ref[Answer]]()
    kept: list[int] = []

    async def read(topic: str, partition: int, offset: int, *, events_max: int) -> Answer:
        answer = Answer(await whole(topic, partition, offset, events_max=events_max))
        if topic == "orders":
            answers.append(weakref.ref(answer))
        return answer

    def ended() -> bool:
        kept.append(sum(answer() is not None for answer in answers))
        return len(kept) >= 10

    monkeypatch.setattr(kit.channel, "read", read)
    options: dict[str, Any] = {"retry": Retry(1), "given_up": "block", "concurrency": concurrency, "ended": ended}
    await (await kit.handler(work, source, **options)).run()
    assert (len(answers), kept[-1]) == (1, 0)
