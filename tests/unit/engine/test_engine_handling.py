"""Handlers on the memory channel: what they return, refuse, raise, and what a death leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest

from penstock.channel.api import Committed, FencedOff, Intake, Publish, Step, Subscription, Unknown
from penstock.delivery.lot import GivenUp, OnFailure
from penstock.delivery.retry import Retry
from penstock.engine.calling import shape_of
from penstock.engine.context import Context, Identity
from penstock.errors import ConfigError, Reject
from penstock.event.batch import NewBatch, Rows
from penstock.event.envelope import NewEvent, RecordedEvent
from penstock.event.partition import partition_of
from penstock.system.slots import MemorySlot
from tests.unit.engine.engine_kit import Bill, Kit, Order


def orders(count: int, start: int = 0) -> list[Order]:
    return [Order(n, f"c{n % 3}", 10 * n) for n in range(start, start + count)]


async def test_results_reach_the_topic_in_the_order_of_each_key(kit: Kit) -> None:
    source = await kit.topic("orders", Order, key="customer")
    into = await kit.topic("bills", Bill, key="customer")
    await kit.publish(source, orders(100))

    def bill(order: Order) -> Bill:
        return Bill(order.id, order.customer, order.amount / 100)

    group = await kit.handler(bill, source, into)
    await group.run()
    found = await kit.events(into)
    for customer in ("c0", "c1", "c2"):
        ids = [b.id for b in found if b.customer == customer]
        assert ids == [o.id for o in orders(100) if o.customer == customer]
    assert (group.state.events, group.state.state) == (100, "done")


@pytest.mark.parametrize("many", [list, tuple, iter])
async def test_one_many_or_none(kit: Kit, many: type) -> None:
    source = await kit.topic("orders", Order, partitions=1)
    into = await kit.topic("bills", Bill, partitions=1)
    await kit.publish(source, orders(4))

    async def split(order: Order) -> object:
        return None if order.id == 0 else many([Bill(order.id, str(n), n) for n in range(order.id)])

    await (await kit.handler(split, source, into)).run()
    assert [(b.id, b.total) for b in await kit.events(into)] == [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]


async def test_results_belong_to_what_their_events_belong_to(kit: Kit) -> None:
    source = await kit.topic("orders", Order, partitions=1)
    into = await kit.topic("bills", Bill, partitions=1)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    bodies = [source.encode(order) for order in orders(3)]
    attributes = {"correlationid": [None, "case-7", None], "traceparent": [trace, None, None]}
    await kit.publish_batches(source.pack(bodies, attributes=attributes).batches)

    def bill(order: Order) -> Bill:
        return Bill(order.id, order.customer, 1.0)

    await (await kit.handler(bill, source, into)).run()
    (batch,) = await kit.channel.read("bills", 0, 0, events_max=10)
    found = [Identity(batch, into).event(index) for index in range(3)]
    assert [event.correlationid for event in found] == [None, "case-7", None]
    assert [event.traceparent for event in found] == [trace, None, None]
    assert [event.causationid for event in found] == ["orders/0/0", "orders/0/1", "orders/0/2"]


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_results_without_a_key_of_their_own_have_that_of_their_event(kit: Kit, concurrency: int) -> None:
    """A key beside the event, as events of bytes have it; those that are tried again keep it, too."""
    source = await kit.topic("texts", None, partitions=4)
    into = await kit.topic("upper", None, partitions=4)
    keys = [None if number % 5 == 0 else f"k{number % 9}" for number in range(60)]
    await kit.publish_batches(source.pack([b"t%d" % number for number in range(60)], keys=keys).batches)
    failed: set[bytes] = set()

    async def upper(text: bytes) -> list[bytes]:
        if text[-1:] == b"7" and text not in failed:
            failed.add(text)
            raise ValueError("once")
        return [text.upper(), text]

    await (await kit.handler(upper, source, into, retry=Retry(3, first_s=1), concurrency=concurrency)).run()
    found: dict[bytes, list[bytes]] = {}
    for partition in range(4):
        for batch in await kit.channel.read("upper", partition, 0, events_max=1_000):
            for index, body in enumerate(into.bodies(batch)):
                key = Identity(batch, into).key(index) or b""
                assert partition == partition_of(key or None, 4)
                found.setdefault(key, []).append(body)
    for key in {*keys} - {None}:
        assert key is not None
        mine = [b"t%d" % number for number, one in enumerate(keys) if one == key]
        assert found[key.encode()] == [form for text in mine for form in (text.upper(), text)], "and their order"
    assert len(found[b""]) == 24


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_a_handler_puts_an_envelope_around_a_result(kit: Kit, concurrency: int) -> None:
    """What it says stands; what it does not say is taken over from the event as before."""
    source = await kit.topic("orders", Order, partitions=1)
    into = await kit.topic("bills", Bill, partitions=4)
    bodies = [source.encode(order) for order in orders(4)]
    await kit.publish_batches(
        source.pack(bodies, attributes={"correlationid": [f"case-{n}" for n in range(4)]}).batches
    )
    when = datetime(2026, 3, 1, 12, tzinfo=UTC)

    async def bill(order: Order) -> object:
        plain = Bill(order.id, order.customer, 1.0)
        match order.id:
            case 0:
                return plain
            case 1:
                return NewEvent(data=plain, key=UUID(int=1), headers={"channel": "web"}, time=when)
            case 2:
                return [plain, NewEvent(data=plain, correlationid="another", subject="bills/2", type="bill")]
            case _:
                return NewEvent(data=plain)

    await (await kit.handler(bill, source, into, concurrency=concurrency)).run()
    found: dict[int, list[RecordedEvent]] = {}
    for partition in range(4):
        for batch in await kit.channel.read("bills", partition, 0, events_max=10):
            for index in range(batch.count):
                event = Identity(batch, into).event(index)
                found.setdefault(event.data.id, []).append(event)
    (zero,), (one,), (plain, two), (three,) = (found[number] for number in range(4))
    assert (one.key, one.headers, one.time, one.correlationid) == (
        str(UUID(int=1)).encode(),
        {"channel": "web"},
        when,
        "case-1",
    )
    assert one.partition == partition_of(one.key, 4)
    assert (two.correlationid, two.subject, two.type) == ("another", "bills/2", "bill")
    for event in (zero, plain, three):
        assert (event.key, event.headers, event.time, event.type) == (None, {}, None, zero.type)
        assert event.correlationid == f"case-{event.data.id}"
    assert len({event.id for events in found.values() for event in events}) == 5
    assert [event.causationid for event in (one, two)] == ["orders/0/1", "orders/0/2"]


@pytest.mark.parametrize("concurrency", [0, 1, 4])
async def test_what_a_handler_changes_after_it_has_returned_it_is_stored_as_it_was(kit: Kit, concurrency: int) -> None:
    """One object for all its results, one dict for all their headers, one list to return them in."""
    source = await kit.topic("orders", Order, partitions=1)
    into = await kit.topic("bills", Bill, partitions=1)
    await kit.publish(source, orders(3_000))
    one, headers, several = Bill(0, "", 0.0), {"n": ""}, list[object]()

    def bill(order: Order) -> object:
        one.id, headers["n"] = order.id, str(order.id)
        if order.id % 3 == 0:
            return one
        several[:] = [one, NewEvent(data=one, headers=headers)]
        return several if order.id % 3 == 1 else several[1]

    async def awaited(order: Order) -> object:
        return bill(order)

    function: Callable[..., object] = awaited if concurrency else bill
    await (await kit.handler(function, source, into, concurrency=concurrency or 1)).run()
    found = [
        (event.data.id, event.headers)
        for batch in await kit.channel.read("bills", 0, 0, events_max=10_000)
        for event in map(Identity(batch, into).event, range(batch.count))
    ]
    enveloped = [(number, {"n": str(number)}) for number in range(3_000) if number % 3]
    assert sorted(found, key=repr) == sorted(enveloped + [(n, {}) for n in range(3_000) if n % 3 < 2], key=repr)


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_what_a_generator_changes_between_two_results_is_stored_as_it_gave_it(kit: Kit, concurrency: int) -> None:
    source = await kit.topic("orders", Order, partitions=1)
    into = await kit.topic("bills", Bill, partitions=1)
    await kit.publish(source, orders(2))

    def instalments(order: Order) -> Iterator[Bill]:
        bill = Bill(order.id, order.customer, 0)
        for number in range(3):
            bill.total = number
            yield bill

    async def later(order: Order) -> Iterator[Bill]:
        return instalments(order)

    function = instalments if concurrency == 1 else later
    await (await kit.handler(function, source, into, concurrency=concurrency)).run()
    assert [(b.id, b.total) for b in await kit.events(into)] == [(n, total) for n in range(2) for total in range(3)]


@pytest.mark.parametrize("given_up", ["continue", "block"])
async def test_an_envelope_that_may_not_be_makes_its_event_a_dead_letter(kit: Kit, given_up: GivenUp) -> None:
    """By itself: what stands beside it is published."""
    source = await kit.topic("orders", Order, key="customer", partitions=1)
    into = await kit.topic("bills", Bill, key="customer", partitions=1)
    await kit.publish(source, [Order(number, f"c{number}", 1) for number in range(8)])
    bad: dict[int, dict[str, Any]] = {
        1: {"id": "mine"},
        2: {"key": "c2"},
        4: {"time": datetime(2026, 3, 1)},  # noqa: DTZ001 - naive, which is the point
        6: {"headers": {"a b": "x"}},
        7: {"traceparent": "00"},
    }

    def bill(order: Order) -> list[object]:
        made = Bill(order.id, order.customer, 1.0)
        return [NewEvent(data=made, **bad.get(order.id, {"subject": f"s{order.id}"}))]

    await (await kit.handler(bill, source, into, on_failure=OnFailure(given_up=given_up))).run()
    (batch,) = await kit.channel.read("bills", 0, 0, events_max=10)
    stored = [Identity(batch, into).event(index) for index in range(batch.count)]
    assert [(event.data.id, event.subject) for event in stored] == [(0, "s0"), (3, "s3"), (5, "s5")]
    letters = {letter.offset: letter.reason for letter in await kit.letters("bill")}
    assert {*letters} == {*bad}
    words = {
        1: "id: 'mine'",
        2: "topic bills takes it from field customer",
        4: "time zone",
        6: "headers",
        7: "traceparent",
    }
    assert all(words[offset] in reason for offset, reason in letters.items()), letters


@pytest.mark.parametrize(
    "bodies",
    [
        [b"", b'{"id":1,"customer":"c","amount":1} {"id":2,"customer":"c","amount":1}'],
        [
            b'{"id":1,"customer":"c","amount":1}\n{"id":2,"customer":"c","amount":1}',
            b" ",
            b'{"id":3,"customer":"c","amount":1}',
        ],
        [b'{"id":1,"customer":"c",', b'"amount":1} {"id":2,"customer":"c","amount":1}'],
    ],
)
async def test_bodies_that_nobody_has_read_before_are_told_apart(kit: Kit, bodies: list[bytes]) -> None:
    """What others have recorded may be as many values as there are bodies, and still not one in each."""
    source = await kit.topic("orders", Order, partitions=1)
    await kit.publish_batches([NewBatch("orders", 0, len(bodies), Rows.of(bodies))])
    seen: list[int] = []

    def see(order: Order) -> None:
        seen.append(order.id)

    await (await kit.handler(see, source)).run()
    good = [number for number, body in enumerate(bodies) if body.startswith(b'{"id":3')]
    assert seen == [3] * len(good)
    letters = {letter.offset: letter.body for letter in await kit.letters("see")}
    assert letters == {number: body for number, body in enumerate(bodies) if number not in good}


async def test_bodies_with_newlines_that_were_read_before_are_handled(kit: Kit) -> None:
    source = await kit.topic("orders", Order, partitions=1)
    pretty = [msgspec.json.format(source.encode(order)) for order in orders(2_500)]
    await kit.publish_batches(source.pack(pretty).batches)
    seen: list[int] = []

    def see(order: Order) -> None:
        seen.append(order.id)

    await (await kit.handler(see, source)).run()
    assert seen == list(range(2_500))


async def test_a_rejected_event_lies_among_the_dead_letters_with_its_bytes_and_the_reason(kit: Kit) -> None:
    source = await kit.topic("orders", Order, key="customer", partitions=1)
    await kit.publish(source, orders(10))
    calls: list[int] = []

    def pay(order: Order) -> None:
        calls.append(order.id)
        if order.id == 7:
            raise Reject("no such account")

    group = await kit.handler(pay, source)
    await group.run()
    (letter,) = await kit.letters("pay")
    assert letter.body == b'{"id":7,"customer":"c1","amount":70}'
    assert (letter.reason, letter.error, letter.attempts, letter.offset) == ("no such account", "Reject", 1, 7)
    assert letter.topic == "orders"
    assert calls == list(range(10))
    assert group.state.dead == 1


async def test_an_exception_is_retried_in_place_with_pauses_and_given_up_with_its_stack(kit: Kit) -> None:
    source = await kit.topic("orders", Order, partitions=1)
    await kit.publish(source, orders(5))
    calls: list[int] = []

    def flaky(order: Order, ctx: Context) -> None:
        calls.append(order.id)
        if order.id == 1 and ctx.attempt < 3:
            raise ConnectionError("not yet")
        if order.id == 3:
            raise ValueError("never")

    await (await kit.handler(flaky, source, retry=Retry(3, first_s=1, factor=2), order="partition")).run()
    assert calls == [0, 1, 1, 1, 2, 3, 3, 3, 4]
    (letter,) = await kit.letters("flaky")
    assert (letter.offset, letter.attempts, letter.error, letter.reason) == (3, 3, "ValueError", "never")
    assert "in flaky" in letter.stack
    assert sum(kit.clock.slept_s) == pytest.approx(2 * (1 + 2), abs=0.5)


async def test_bytes_that_no_longer_decode_are_given_up_alone(kit: Kit) -> None:
    source = await kit.topic("orders", Order, partitions=1)
    bodies = [b'{"id":1,"customer":"a","amount":1}', b'{"id":"x"}', b'{"id":3,"customer":"a","amount":1}']
    await kit.publish_batches([NewBatch("orders", 0, 3, Rows.of(bodies))])
    seen: list[int] = []

    def see(order: Order) -> None:
        seen.append(order.id)

    await (await kit.handler(see, source)).run()
    (letter,) = await kit.letters("see")
    assert (letter.offset, letter.error, letter.body) == (1, "DecodeError", bodies[1])
    assert seen == [1, 3]


async def test_what_cannot_be_published_takes_all_that_its_event_gave_along(kit: Kit) -> None:
    source = await kit.topic("orders", Order, partitions=1)
    into = await kit.topic("bills", Bill, partitions=1)
    await kit.publish(source, orders(3))

    def wrong(order: Order) -> list[Bill]:
        second: object = "not a number" if order.id == 1 else 2.0
        return [Bill(order.id, "a", 1.0), Bill(order.id, "a", second)]  # type: ignore[arg-type]

    await (await kit.handler(wrong, source, into)).run()
    assert [b.id for b in await kit.events(into)] == [0, 0, 2, 2]
    (letter,) = await kit.letters("wrong")
    assert letter.offset == 1
    assert "total" in letter.reason


async def test_a_result_without_a_topic_is_a_dead_letter(kit: Kit) -> None:
    source = await kit.topic("orders", Order, partitions=1)
    await kit.publish(source, orders(2))

    def lost(order: Order) -> Order:
        return order

    await (await kit.handler(lost, source)).run()
    assert [("into=" in letter.reason, letter.offset) for letter in await kit.letters("lost")] == [(True, 0), (True, 1)]


async def test_stopped_in_a_pause_the_event_is_tried_again_before_the_others(kit: Kit) -> None:
    source = await kit.topic("orders", Order, partitions=1)
    await kit.publish(source, orders(5))

    def stuck(order: Order) -> None:
        if order.id == 2:
            group.stop()
            raise ConnectionError("down")

    group = await kit.handler(stuck, source, retry=Retry(1000, first_s=30), ended=None, order="partition")
    await group.run()
    assert group.state.events == 2
    calls: list[int] = []

    def well(order: Order) -> None:
        calls.append(order.id)

    well.__name__ = "stuck"
    await (await kit.handler(well, source, retry=Retry(1000, first_s=30), order="partition")).run()
    assert calls == [2, 3, 4]


async def test_an_event_that_kills_its_process_is_charged_runs_alone_and_is_given_up(kit: Kit) -> None:
    source = await kit.topic("orders", Order, partitions=1)
    await kit.publish(source, orders(6))
    words = bytearray(32)

    seen: list[int] = []

    def killer(order: Order) -> None:
        seen.append(order.id)
        if order.id == 3:
            raise SystemExit  # as sys.exit: the process goes, whatever it was doing

    for _ in range(3):
        group = await kit.handler(killer, source, slots=lambda *_: MemorySlot(words), retry=Retry(3))
        with pytest.raises(SystemExit):
            await group.run()
        kit.channel.seize("killer")
    await (await kit.handler(killer, source, slots=lambda *_: MemorySlot(words), retry=Retry(3))).run()
    (letter,) = await kit.letters("killer")
    assert (letter.offset, letter.error, letter.attempts) == (3, "ProcessDied", 3)
    assert seen[-2:] == [4, 5]
    assert seen.count(3) == 3


async def test_a_step_ends_in_time_and_goes_on_in_the_next(kit: Kit) -> None:
    source = await kit.topic("orders", Order, partitions=1)
    await kit.publish(source, orders(1000))

    def slow(order: Order) -> None:
        kit.clock._now_s += 0.01

    group = await kit.handler(slow, source)
    await group.run()
    assert group.state.events == 1000
    assert 15 <= group.state.steps <= 40  # ten seconds of work, half a second each


async def test_a_second_member_waits_and_takes_over(kit: Kit) -> None:
    source = await kit.topic("orders", Order, partitions=1)
    seen: list[str] = []

    def both(order: Order) -> None:
        seen.append(order.customer)

    first = await kit.handler(both, source, ended=None)
    second = await kit.handler(both, source, ended=None)
    running = asyncio.ensure_future(first.run())
    while first.state.state != "idle":
        await asyncio.sleep(0)
    waiting = asyncio.ensure_future(second.run())
    while second.state.state != "waiting":
        await asyncio.sleep(0)
    assert "test" in second.state.reason
    first.stop()
    await running
    await kit.publish(source, orders(3))
    while second.state.events < 3:
        await asyncio.sleep(0)
    second.stop()
    await waiting
    assert seen == ["c0", "c1", "c2"]


async def test_ids_of_results_do_not_depend_on_where_steps_end(kit: Kit) -> None:
    source = await kit.topic("orders", Order, key="customer")
    into = await kit.topic("bills", Bill, key="customer")
    await kit.publish(source, orders(20))

    def twice(order: Order) -> list[Bill]:
        return [Bill(order.id, order.customer, 1.0), Bill(order.id, order.customer, 2.0)]

    await (await kit.handler(twice, source, into)).run()

    def ids(batches: object) -> Iterator[tuple[int, str]]:
        for batch in batches:  # type: ignore[attr-defined]
            identity = Identity(batch, into)
            for index in range(batch.count):
                yield into.events(batch)[index].id, identity.id(index)

    found = [p for n in range(4) for p in ids(await kit.channel.read("bills", n, 0, events_max=1000))]
    assert len({identity for _, identity in found}) == 40
    tips = await kit.channel.tips("bills")
    single = [
        pair
        for partition, tip in enumerate(tips)
        for offset in range(tip)
        for pair in ids(await kit.channel.read("bills", partition, offset, events_max=1))
    ]
    assert set(single) == set(found)


def test_a_handler_of_the_wrong_shape_is_refused_before_the_start() -> None:
    with pytest.raises(ConfigError, match=r"handlers\.three.*expected \(event\) or \(event, ctx\)"):
        shape_of(lambda a, b, c: None, name="three")


async def test_publishes_of_one_sequence_are_one(kit: Kit) -> None:
    source = await kit.topic("orders", Order, partitions=1)
    batches = source.pack([source.encode(order) for order in orders(2)]).batches
    first = await kit.channel.publish(Publish("p", 0, 0, batches))
    again = await kit.channel.publish(Publish("p", 0, 0, batches))
    assert (first.first, again.first, again.repeated) == ([0], [0], True)  # type: ignore[union-attr]


class Panic(BaseException):
    """What some extension modules raise: no Exception."""


def generator(order: Order) -> Iterator[Bill]:
    yield Bill(order.id, "first", 1.0)
    if order.id == 2:
        raise Reject("half way")
    yield Bill(order.id, "second", 2.0)


def panics(order: Order) -> Bill:
    if order.id == 2:
        raise Panic("no exception")
    return Bill(order.id, "c", 1.0)


async def cancels(order: Order) -> Bill:
    if order.id == 2:
        inner = asyncio.ensure_future(asyncio.sleep(3600))
        inner.cancel()
        await inner
    return Bill(order.id, "c", 1.0)


def odd_text(order: Order) -> Bill:
    if order.id == 2:
        raise Reject("a file named \udcff")
    return Bill(order.id, "c", 1.0)


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("not even this")


def mute(order: Order) -> Bill:
    if order.id == 2:
        raise Mute
    return Bill(order.id, "c", 1.0)


@pytest.mark.parametrize(
    ("function", "error", "reason"),
    [
        (generator, "Reject", "half way"),
        (panics, "Panic", "no exception"),
        (cancels, "CancelledError", "CancelledError"),
        (odd_text, "Reject", "a file named \\udcff"),
        (mute, "Mute", "Mute"),
    ],
)
async def test_whatever_a_handler_raises_is_an_outcome_of_its_event(
    kit: Kit, function: Callable[[Order], object], error: str, reason: str
) -> None:
    source = await kit.topic("orders", Order, partitions=1)
    into = await kit.topic("bills", Bill, partitions=1)
    await kit.publish(source, orders(5))
    group = await kit.handler(function, source, into, retry=Retry(1))
    await group.run()
    (letter,) = await kit.letters(function.__name__)
    assert (letter.offset, letter.error, letter.reason) == (2, error, reason)
    assert sorted({bill.id for bill in await kit.events(into)}) == [0, 1, 3, 4]
    assert group.state.state == "done"


async def test_others_get_their_turn_while_a_slow_handler_works(kit: Kit) -> None:
    source = await kit.topic("orders", Order, partitions=1)
    await kit.publish(source, orders(1000))
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def slow(order: Order) -> None:
        kit.clock._now_s += 0.01
        seen.append(turns)

    seen: list[int] = []
    beside = asyncio.ensure_future(other())
    await (await kit.handler(slow, source)).run()
    beside.cancel()
    assert len(set(seen)) > 100  # a slice of such a handler is a few events


async def test_a_step_is_bounded_in_bytes(kit: Kit) -> None:
    source = await kit.topic("orders", Order, partitions=1)
    into = await kit.topic("bills", Bill, partitions=1)
    await kit.publish(source, orders(300))

    def large(order: Order) -> Bill:
        return Bill(order.id, "x" * 100_000, 1.0)

    group = await kit.handler(large, source, into)
    await group.run()
    assert (group.state.events, group.state.dead) == (300, 0)
    assert group.state.steps > 3  # thirty megabytes


def test_what_cannot_be_called_as_a_handler_is_refused_at_once() -> None:
    async def yields(order: Order):  # type: ignore[no-untyped-def]  # noqa: ANN202
        yield order

    def keyword(order: Order, *, db: object) -> None: ...

    for function, said in ((yields, "async generator"), (keyword, "needs db by keyword")):
        with pytest.raises(ConfigError, match=said):
            shape_of(function, name="h")

    class Later:
        async def __call__(self, order: Order) -> None: ...

    assert shape_of(Later(), name="h").is_async


async def test_a_death_is_charged_though_the_next_owner_dies_before_it_has_said_so(kit: Kit) -> None:
    source = await kit.topic("orders", Order, partitions=1)
    await kit.publish(source, orders(3))
    words = bytearray(32)
    slot = MemorySlot(words)
    slot.words[1], slot.words[0] = 1, 1  # the last owner died on offset 1

    def counted(order: Order, ctx: Context) -> None:
        attempts.append((order.id, ctx.attempt))

    attempts: list[tuple[int, int]] = []
    group = await kit.handler(counted, source, slots=lambda *_: MemorySlot(words))
    refuse = True
    join = kit.channel.join

    async def joined(subscription: Subscription) -> Intake:
        intake = await join(subscription)
        commit = intake.commit

        async def commits(step: Step) -> Committed | FencedOff | Unknown:
            if refuse:
                raise Panic
            return await commit(step)

        intake.commit = commits  # type: ignore[method-assign]
        return intake

    kit.channel.join = joined  # type: ignore[method-assign, assignment]
    with pytest.raises(Panic):
        await group.run()
    kit.channel.seize("counted")
    refuse = False
    await (await kit.handler(counted, source, slots=lambda *_: MemorySlot(words))).run()
    assert attempts == [(0, 1), (1, 2), (2, 1)]


async def test_an_empty_list_is_no_result(kit: Kit) -> None:
    source = await kit.topic("orders", Order, partitions=1)
    into = await kit.topic("bills", Bill, partitions=1)
    await kit.publish(source, orders(3))

    def nothing(_: Order) -> list[Bill]:
        return []

    group = await kit.handler(nothing, source, into)
    await group.run()
    assert (group.state.events, group.state.dead) == (3, 0)
    assert await kit.events(into) == []
