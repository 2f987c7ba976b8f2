"""Flows on the memory channel: where rows go, state as committed, and the one row that cannot be computed."""

from __future__ import annotations

import asyncio

import msgspec
import polars as pl
import pytest

from penstock.channel.api import GroupSpec, Subscription, TopicSpec
from penstock.channel.typed import TypedTopic
from penstock.delivery.deadletter import dead_letter_topic
from penstock.delivery.redrive import Command, encode, redrive_topic
from penstock.delivery.retry import Retry
from penstock.engine.context import Identity
from penstock.engine.flowing import SAID_BEFORE, FlowTopics, FlowWork
from penstock.engine.group import Group
from penstock.errors import DeclaredDifferently
from penstock.event.batch import NewBatch, Rows
from penstock.flow import Flow, FlowSpec, count, max_, min_, sum_
from penstock.flow.compile import Stage, compile_flow
from penstock.schema import ColumnsSchema
from tests.unit.engine.engine_kit import Kit, Order


async def stages(kit: Kit, flow: Flow, source: TypedTopic, retry: Retry | None = None) -> list[Group]:  # type: ignore[type-arg]
    """One group per stage of the flow, in order, with its topics declared."""
    groups: list[Group] = []
    assert source.schema is not None
    plan = compile_flow(flow.spec, source.schema.arrow, source.spec.key)
    for stage in plan.stages:
        into = await _topic(kit, stage.into or flow.spec.name, stage, source.spec.partitions)
        reads = kit.topics[stage.topic]
        dead = await kit.declare(dead_letter_topic(stage.name, partitions=4), None)
        subscription = Subscription(GroupSpec(stage.name, stage.topic, "flow"), "test")
        commands = await kit.declare(redrive_topic(stage.name, partitions=source.spec.partitions), None)
        topics = FlowTopics(reads, into, dead, commands)
        work = FlowWork(stage, subscription, topics, system=kit.system, read=kit.channel.read, retry=retry)
        groups.append(Group(kit.channel, work, system=kit.system, ended=lambda: True))
    return groups


async def _topic(kit: Kit, name: str, stage: Stage, partitions: int) -> TypedTopic:  # type: ignore[type-arg]
    schema = ColumnsSchema(name, stage.schema)
    key = stage.keys[0] if len(stage.keys) == 1 else None
    arrow = stage.schema.serialize().to_pybytes()
    spec = TopicSpec(name, partitions=partitions, schema=schema.describe(), arrow=arrow, key=key)
    return await kit.declare(spec, schema)


def orders(count_: int) -> list[Order]:
    return [Order(n, f"c{n % 7}", n) for n in range(count_)]


async def frame(kit: Kit, name: str) -> pl.DataFrame:
    topic = kit.topics[name]
    parts = [
        pl.DataFrame(topic.table(batch)).with_columns(partition=pl.lit(batch.partition))
        for partition in range(topic.spec.partitions)
        for batch in await kit.channel.read(name, partition, 0, events_max=100_000)
    ]
    return pl.concat(parts)


async def test_rows_stay_where_their_inputs_lie_and_in_their_order(kit: Kit) -> None:
    source = await kit.topic("orders", Order, key="customer")
    await kit.publish(source, orders(500))
    flow = Flow(FlowSpec("odd", "orders")).filter(pl.col("id") % 2 == 1).select("id", "customer")
    for group in await stages(kit, flow, source):
        await group.run()
    found = await frame(kit, "odd")
    assert sorted(found["id"]) == list(range(1, 500, 2))
    expected = {o.customer: (await _partition(kit, source, o)) for o in orders(7)}
    for row in found.iter_rows(named=True):
        assert row["partition"] == expected[row["customer"]]
    for customer in expected:
        ids = found.filter(pl.col("customer") == customer)["id"]
        assert ids.is_sorted()


async def _partition(kit: Kit, source: TypedTopic, order: Order) -> int:  # type: ignore[type-arg]
    return source.pack([source.encode(order)]).batches[0].partition


async def test_state_goes_on_where_the_last_owner_committed_it(kit: Kit) -> None:
    source = await kit.topic("orders", Order, key="customer")
    flow = Flow(FlowSpec("totals", "orders")).by("customer").agg(orders=count(), amount=sum_("amount"))
    for round_ in range(3):
        await kit.publish(source, orders(100))
        for group in await stages(kit, flow, source):
            await group.run()
        latest = (await frame(kit, "totals")).unique("customer", keep="last").sort("customer")
        assert latest["orders"].sum() == 100 * (round_ + 1)
        assert latest["amount"].sum() == sum(range(100)) * (round_ + 1)


@pytest.mark.parametrize("totals_first", [True, False])
async def test_an_aggregate_that_is_taken_off_or_put_on_is_refused(kit: Kit, totals_first: bool) -> None:
    source = await kit.topic("orders", Order, key="customer")
    plain = Flow(FlowSpec("sales", "orders")).select("customer", "amount")
    totals = Flow(FlowSpec("sales", "orders")).by("customer").agg(amount=sum_("amount"))
    first, second = (totals, plain) if totals_first else (plain, totals)
    for _ in range(2):  # as it is it goes on
        await kit.publish(source, orders(100))
        for group in await stages(kit, first, source):
            await group.run()
    before = await frame(kit, "sales")
    await kit.publish(source, orders(100))
    for group in await stages(kit, second, source):
        with pytest.raises(DeclaredDifferently, match="a new name"):
            await group.run()
    assert (await frame(kit, "sales")).equals(before)
    for group in await stages(kit, first, source):
        await group.run()
    found = await frame(kit, "sales")
    latest = found.unique("customer", keep="last") if totals_first else found
    assert latest["amount"].sum() == 3 * sum(range(100))


async def test_another_aggregate_in_two_stages_is_refused_by_both(kit: Kit) -> None:
    """Partial rows of another aggregate would be added to the totals of this one when it is declared again."""
    source = await kit.topic("orders", Order, key="customer")
    good = Flow(FlowSpec("sales", "orders")).with_columns(third=pl.col("id") % 3).by("third").agg(it=sum_("amount"))
    other = Flow(FlowSpec("sales", "orders")).with_columns(third=pl.col("id") % 3).by("third").agg(it=sum_("third"))
    await kit.publish(source, orders(100))
    for group in await stages(kit, good, source):
        await group.run()
    await kit.publish(source, orders(100))
    for group in await stages(kit, other, source):
        with pytest.raises(DeclaredDifferently, match="a new name"):
            await group.run()
    for group in await stages(kit, good, source):
        await group.run()
    latest = (await frame(kit, "sales")).unique("third", keep="last")
    assert latest["it"].sum() == 2 * sum(range(100))


async def test_a_first_stage_of_before_says_which_aggregate_it_is_part_of(kit: Kit) -> None:
    source = await kit.topic("orders", Order, key="customer", partitions=1)
    flow = Flow(FlowSpec("sales", "orders")).with_columns(third=pl.col("id") % 3).by("third").agg(it=sum_("amount"))
    said: list[bytes] = []
    for before in (True, False):
        await kit.publish(source, orders(10))
        (first, _) = await stages(kit, flow, source)
        if before:
            first.work._said = SAID_BEFORE  # type: ignore[attr-defined]
        await first.run()
        said.append(kit.channel.memory.ledger("sales.partials", 0)["plain", b""])
    assert said[0] == SAID_BEFORE != said[1]


async def test_two_stages_where_the_group_is_not_the_key(kit: Kit) -> None:
    source = await kit.topic("orders", Order, key="customer")
    await kit.publish(source, orders(1000))
    flow = (
        Flow(FlowSpec("parity", "orders"))
        .with_columns(odd=pl.col("id") % 2)
        .by("odd")
        .agg(orders=count(), amount=sum_("amount"))
    )
    for group in await stages(kit, flow, source):
        await group.run()
    latest = (await frame(kit, "parity")).unique("odd", keep="last").sort("odd")
    assert latest.select("odd", "orders", "amount").rows() == [
        (0, 500, sum(range(0, 1000, 2))),
        (1, 500, sum(range(1, 1000, 2))),
    ]


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("where", [0, 1, 2])
@pytest.mark.parametrize("amount", [0, 1, -1])
async def test_a_value_that_is_no_number_is_given_up_whatever_lies_beside_it(
    kit: Kit, together: bool, where: int, amount: int
) -> None:
    source = await kit.topic("orders", Order, partitions=1, key="customer")
    flow = (
        Flow(FlowSpec("range", "orders"))
        .with_columns(each=pl.col("amount") / pl.col("id"))
        .by("customer")
        .agg(orders=count(), low=min_("each"), high=max_("each"))
    )
    rows = [Order(1, "c", 5), Order(1, "c", 7)]
    rows.insert(where, Order(0, "c", amount))  # NaN, or an infinity
    for part in [rows] if together else [[row] for row in rows]:
        await kit.publish(source, part)
        for group in await stages(kit, flow, source):
            await group.run()
    assert (await frame(kit, "range")).select("orders", "low", "high").rows()[-1] == (2, 5.0, 7.0)
    (letter,) = await kit.letters("range")
    assert letter.offset == where
    assert "NaN or an infinity" in letter.reason


@pytest.mark.parametrize("size", [1, 7, 64])
async def test_the_row_that_cannot_be_computed_is_found_and_given_up_alone(kit: Kit, size: int) -> None:
    source = await kit.topic("orders", Order, partitions=1)
    await kit.publish(source, orders(size))
    bad = size // 2

    def divide(rows: pl.DataFrame) -> pl.DataFrame:
        if bad in rows["id"].to_list():
            raise ZeroDivisionError("no such order")
        return rows.select("id")

    flow = Flow(FlowSpec("divided", "orders")).map(divide)
    (group,) = await stages(kit, flow, source, retry=Retry(2, first_s=1))
    await group.run()
    if size > 1:
        assert (await frame(kit, "divided"))["id"].to_list() == [n for n in range(size) if n != bad]
    (letter,) = await kit.letters("divided")
    assert (letter.offset, letter.error, letter.reason) == (bad, "ZeroDivisionError", "no such order")
    assert letter.body == b'{"id":%d,"customer":"c%d","amount":%d}' % (bad, bad % 7, bad)
    assert group.state.dead == 1


async def test_a_passing_failure_is_tried_again(kit: Kit) -> None:
    source = await kit.topic("orders", Order, partitions=1)
    await kit.publish(source, orders(10))
    failures = [ConnectionError("not yet"), ConnectionError("not yet")]

    def flaky(rows: pl.DataFrame) -> pl.DataFrame:
        if rows.height and failures:
            raise failures.pop()
        return rows

    (group,) = await stages(kit, Flow(FlowSpec("flaky", "orders")).map(flaky), source, retry=Retry(3, first_s=1))
    await group.run()
    assert (group.state.events, group.state.dead, failures) == (10, 0, [])


async def test_what_passes_while_a_row_is_looked_for_costs_no_other_row(kit: Kit) -> None:
    source = await kit.topic("orders", Order, partitions=1)
    await kit.publish(source, orders(16))
    down_until_s = float("inf")

    def poisoned(rows: pl.DataFrame) -> pl.DataFrame:
        nonlocal down_until_s
        if rows.height == 8 and down_until_s == float("inf"):  # the first half
            down_until_s = kit.clock.monotonic_s() + 2
        if rows.height and rows.height < 16 and kit.clock.monotonic_s() < down_until_s:
            raise ConnectionError("down")
        if 5 in rows["id"].to_list():
            raise ValueError("never")
        return rows

    (group,) = await stages(kit, Flow(FlowSpec("some", "orders")).map(poisoned), source, retry=Retry(3, first_s=1))
    await group.run()
    assert [letter.offset for letter in await kit.letters("some")] == [5]
    assert sorted((await frame(kit, "some"))["id"]) == [n for n in range(16) if n != 5]


@pytest.mark.parametrize("stops", [False, True])
async def test_a_row_that_is_computed_again_is_tried_again_over_what_passes(kit: Kit, stops: bool) -> None:
    source = await kit.topic("orders", Order, partitions=1)
    await kit.publish(source, orders(1))
    down, ending = 2, False

    def shaky(rows: pl.DataFrame) -> pl.DataFrame:
        nonlocal down, ending
        if rows.height and down:
            down -= 1
            if ending:
                ending = False
                group.stop()
            raise ConnectionError("down")
        return rows

    flow = Flow(FlowSpec("some", "orders")).map(shaky)
    (group,) = await stages(kit, flow, source, retry=Retry(1))
    await group.run()
    (letter,) = await kit.letters("some")
    down, ending = 1, stops
    command = Command("redrive", 0, 0, letter.body, letter.key, letter.id)
    await kit.publish_batches([NewBatch("some.redrive", 0, 1, Rows.of([encode(command)]))])
    for _ in range(2 if stops else 1):
        kit.clock.pass_s(2)
        (group,) = await stages(kit, flow, source, retry=Retry(2, first_s=1))
        await group.run()
    assert len(await kit.letters("some")) == 1
    assert (await frame(kit, "some"))["id"].to_list() == [0]


async def test_a_flows_pauses_are_not_longer_in_all_than_said(kit: Kit) -> None:
    source = await kit.topic("orders", Order, partitions=1)
    await kit.publish(source, orders(1))
    calls: list[int] = []

    def never(rows: pl.DataFrame) -> pl.DataFrame:
        if rows.height:
            calls.append(rows.height)
            raise ConnectionError("down")
        return rows

    policy = Retry(100, first_s=1, factor=1, total_s=5)
    (group,) = await stages(kit, Flow(FlowSpec("some", "orders")).map(never), source, retry=policy)
    await group.run()
    assert len(calls) == 1 + 5


async def test_many_small_blocks_are_computed_as_one_frame(kit: Kit) -> None:
    source = await kit.topic("orders", Order, partitions=1)
    for order in orders(200):
        await kit.publish(source, [order])
    frames: list[int] = []

    def seen(rows: pl.DataFrame) -> pl.DataFrame:
        frames.append(rows.height)
        return rows

    (group,) = await stages(kit, Flow(FlowSpec("seen", "orders")).map(seen), source)
    await group.run()
    assert (await frame(kit, "seen"))["id"].to_list() == list(range(200))
    assert [height for height in frames if height] == [200]


@pytest.mark.parametrize("at_once", [100, 1])
async def test_a_row_that_was_given_up_is_computed_again_once(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """Rows before and behind it are settled; what comes of it is in the results and in the state, and of others not."""
    monkeypatch.setattr("penstock.engine.commands.AT_ONCE", at_once)
    source = await kit.topic("orders", Order, partitions=1)
    await kit.publish(source, orders(20))
    mended = False

    def divide(rows: pl.DataFrame) -> pl.DataFrame:
        if not mended and not set(rows["id"]).isdisjoint((5, 6, 7)):
            raise ZeroDivisionError("no such order")
        if 7 in rows["id"].to_list():
            raise ZeroDivisionError("never")
        return rows.select("id", pl.lit("all").alias("what"), "amount")

    flow = Flow(FlowSpec("summed", "orders")).map(divide).by("what").agg(rows=count(), amount=sum_("amount"))
    groups = await stages(kit, flow, source, retry=Retry(1))
    for group in groups:
        await group.run()
    first = groups[0].state.name
    letters = {letter.offset: number for number, letter in enumerate(await kit.letters(first))}
    assert sorted(letters) == [5, 6, 7]
    mended = True
    bodies = {order.id: msgspec.json.encode(order) for order in orders(20)}
    said = [Command("redrive", letters[n], n, bodies[n], None, "", 1) for n in (5, 7, 5)]
    edited = msgspec.json.encode(Order(6, "c6", 1_006))
    said += [Command("redrive", letters[6], 6, edited, None, "", 1), Command("skip", letters[7], 7)]
    topic = f"{first}.redrive"
    await kit.publish_batches([NewBatch(topic, 0, len(said) + 1, Rows.of([b"{", *map(encode, said)]))])
    for _ in range(2):
        kit.clock.pass_s(2)
        for group in await stages(kit, flow, source, retry=Retry(1)):
            await group.run()
    latest = (await frame(kit, "summed")).tail(1)
    kept = [n for n in range(20) if n not in (6, 7)]
    assert latest.select("rows", "amount").rows() == [(len(kept) + 1, sum(kept) + 1_006)]
    assert [(letter.offset, letter.again) for letter in await kit.letters(first)] == [(5, 0), (6, 0), (7, 0), (7, 1)]


async def test_what_comes_of_a_row_that_is_computed_again_has_an_id_of_its_own(kit: Kit) -> None:
    """The step that has it moves no floor, so the next one begins where it began."""
    source = await kit.topic("orders", Order, partitions=1)
    await kit.publish(source, orders(4))
    mended = False

    def divide(rows: pl.DataFrame) -> pl.DataFrame:
        if not mended and not set(rows["id"]).isdisjoint((1, 2)):
            raise ZeroDivisionError("no such order")
        return rows

    flow = Flow(FlowSpec("passed", "orders")).map(divide)
    (group,) = await stages(kit, flow, source, retry=Retry(1))
    await group.run()
    mended = True
    bodies = [msgspec.json.encode(order) for order in orders(4)]
    for letter, offset in enumerate((1, 2)):
        said = encode(Command("redrive", letter, offset, bodies[offset], None, "", 1))
        await kit.publish_batches([NewBatch("passed.redrive", 0, 1, Rows.of([said]))])
        kit.clock.pass_s(2)
        (group,) = await stages(kit, flow, source, retry=Retry(1))
        await group.run()
    await kit.publish(source, orders(3))
    (group,) = await stages(kit, flow, source, retry=Retry(1))
    await group.run()
    passed = kit.topics["passed"]
    batches = await kit.channel.read("passed", 0, 0, events_max=100)
    ids = [Identity(batch, passed).id(index) for batch in batches for index in range(batch.count)]
    assert len(ids) == len(set(ids)) == 2 + 2 + 3


@pytest.mark.parametrize(
    "said",
    [
        b'{"action":"redrive","letter":0,"offset":3}',
        b'{"action":"redrive","letter":-1,"offset":-3,"body":"e30="}',
        b'{"action":"redrive","letter":0,"offset":3,"body":"e30=","again":99999999999999999999}',
    ],
)
async def test_a_command_that_says_no_letter_or_nothing_to_handle_is_passed_over(kit: Kit, said: bytes) -> None:
    source = await kit.topic("orders", Order, partitions=1)
    await kit.publish(source, orders(20))

    def refuse(rows: pl.DataFrame) -> pl.DataFrame:
        assert 3 not in rows["id"].to_list()
        return rows.select("id")

    flow = Flow(FlowSpec("picked", "orders")).map(refuse)
    for group in await stages(kit, flow, source, retry=Retry(1)):
        await group.run()
    await kit.publish_batches([NewBatch("picked.redrive", 0, 1, Rows.of([said]))])
    kit.clock.pass_s(2)
    for group in await stages(kit, flow, source, retry=Retry(1)):
        await group.run()
    assert [letter.offset for letter in await kit.letters("picked")] == [3]


@pytest.mark.parametrize("bad", [(7, 9), (9,)])  # one long row alone: the rows are small on average
async def test_rows_that_a_partition_cannot_be_found_for_or_that_are_too_large_are_given_up_alone(
    kit: Kit, bad: tuple[int, ...]
) -> None:
    source = await kit.topic("orders", Order, partitions=4)
    await kit.publish(source, orders(20))

    def keyed(rows: pl.DataFrame) -> pl.DataFrame:
        long = pl.when((pl.col("id") == 7) & (7 in bad)).then(pl.lit("k" * 70_000)).otherwise(pl.lit("k"))
        wide = pl.when(pl.col("id") == 9).then(pl.lit("w" * 2_000_000)).otherwise(pl.lit("w"))
        return rows.select("id", long.alias("key"), wide.alias("text"))

    class Keyed(msgspec.Struct):
        id: int
        key: str
        text: str

    into = await kit.topic("keyed_orders", Keyed, key="key")
    assert source.schema is not None
    (stage,) = compile_flow(Flow(FlowSpec("keyed", "orders")).map(keyed).spec, source.schema.arrow, None).stages
    dead = await kit.declare(dead_letter_topic("keyed", partitions=4), None)
    subscription = Subscription(GroupSpec("keyed", "orders", "flow"), "test")
    work = FlowWork(stage, subscription, FlowTopics(source, into, dead), system=kit.system, read=kit.channel.read)
    group = Group(kit.channel, work, system=kit.system, ended=lambda: True)
    await group.run()
    letters = await kit.letters("keyed")
    assert tuple(sorted(letter.offset for letter in letters)) == bad
    assert any("70000" in letter.reason for letter in letters) == (7 in bad)
    assert any("1000000 bytes" in letter.reason for letter in letters)
    assert sorted(event.id for event in await kit.events(into)) == [n for n in range(20) if n not in bad]


async def test_a_step_of_a_flow_is_bounded_in_bytes(kit: Kit) -> None:
    source = await kit.topic("orders", Order, partitions=1)
    for _ in range(10):
        await kit.publish(source, orders(10_000))

    def wide(rows: pl.DataFrame) -> pl.DataFrame:
        return rows.select("id", pl.lit("x" * 200).alias("text"))

    (group,) = await stages(kit, Flow(FlowSpec("wide", "orders")).map(wide), source)
    await group.run()
    assert (group.state.events, group.state.dead) == (100_000, 0)
    assert group.state.steps >= 2


async def test_an_iterator_at_its_end_is_an_outcome_in_a_large_frame_too(kit: Kit) -> None:
    source = await kit.topic("orders", Order, partitions=1)
    await kit.publish(source, orders(3000))

    def first(rows: pl.DataFrame) -> pl.DataFrame:
        if rows.height and 7 in rows["id"].head(8).to_list():
            next(iter(()))
        return rows

    (group,) = await stages(kit, Flow(FlowSpec("first", "orders")).map(first), source, retry=Retry(1))
    async with asyncio.timeout(30):
        await group.run()
    assert group.state.events == 3000
    assert group.state.dead >= 1
