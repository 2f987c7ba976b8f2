"""What an app refuses before it starts, and where it puts things."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast

import duckdb
import msgspec
import polars as pl
import pytest

from penstock import App, Csv, Reject, Retry, Roll, count, duckdb_table, files, parquet
from penstock.app import running
from penstock.engine.context import Identity
from penstock.errors import ConfigError, DeclaredDifferently, SchemaIncompatible
from penstock.schema import scale


class Order(msgspec.Struct):
    id: int
    customer: str
    amount: float


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App("shop", path=tmp_path / "log")


BAD: dict[str, tuple[Callable[[App], object], str]] = {
    "key": (lambda a: a.topic("t", Order, key="nope"), r"topics\.t\.key: 'nope' is no field of Order; expected one of"),
    "key kind": (lambda a: a.topic("t", Order, key="amount"), r"topics\.t\.key: field 'amount' of Order is float"),
    "time kind": (lambda a: a.topic("t", Order, time="id"), r"topics\.t\.time.*expected datetime"),
    "key of raw": (lambda a: a.topic("t", key="id"), r"topics\.t\.key.*has no type"),
    "disorder": (lambda a: a.topic("t", Order, disorder="soon"), r"topics\.t\.disorder.*'60s'"),
    "partitions": (lambda a: a.topic("t", Order, partitions=0), r"topics\.t\.partitions: 0; expected 1 to"),
    "no name": (lambda a: a.topic(cast("Any", 5), Order), "the topic name 5; expected"),
    "path": (lambda _: App("x", cast("Any", 5)), r"apps\.x\.path: 5; expected a directory"),
    "concurrency": (
        lambda a: a.handle(a.topic("t", Order), name="h", concurrency=cast("Any", "2"))(repr),
        r"handlers\.h\.concurrency: '2'",
    ),
    "on_failure": (
        lambda a: a.handle(a.topic("t", Order), on_failure=cast("Any", "block")),
        r"handlers\.on_failure: 'block'; expected OnFailure",
    ),
    "csv": (lambda _: files("x.csv", csv=cast("Any", {"delimiter": ";"})), r"files\.csv: .*; expected Csv\("),
    "gzip": (lambda _: files("x.csv", gzip=cast("Any", 5)), r"files\.gzip: 5; expected Gzip\("),
    "delimiter": (
        lambda _: files("x.csv", csv=Csv(delimiter=cast("Any", 5))),
        r"files\.csv\.delimiter: 5; expected",
    ),
    "pattern": (lambda _: files(cast("Any", 5)), r"files\.pattern: 5; expected a path"),
    "name": (lambda a: a.topic("../t", Order), "topic name"),
    "twice": (lambda a: [a.topic("t", Order), a.topic("t", Order)], "is the name of a topic already"),
    "case": (lambda a: [a.topic("t", Order), a.topic("T", Order)], "differ only in case"),
    "source": (lambda a: a.read(object(), into=a.topic("t", Order)), r"sources\.t: found object; expected files"),
    "no into": (lambda a: a.read(object()), "needs into="),  # pyright: ignore[reportArgumentType, reportCallIssue]
    "shape": (lambda a: a.handle(a.topic("t", Order), name="h")(lambda: None), r"handlers\.h.*expected \(event\)"),
    "sink": (
        lambda a: a.flow("f", a.topic("t", Order)).to(cast("Any", "lake")),
        r"flows\.f\.to: found str; expected parquet",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_refused_at_once_with_the_way_out(app: App, name: str) -> None:
    declare, message = BAD[name]
    with pytest.raises((ConfigError, DeclaredDifferently), match=message):
        declare(app)


@pytest.mark.parametrize("suffix", ["dead", "redrive"])
@pytest.mark.parametrize("kind", ["handler", "flow"])
def test_a_topic_does_not_take_the_name_of_what_a_group_makes_for_itself(app: App, kind: str, suffix: str) -> None:
    """Also not for a client, which would make the topic for good."""
    orders, _ = app.topic("orders", Order), app.topic(f"h.{suffix}")
    if kind == "handler":
        app.handle(orders, name="h")(lambda order: None)
    else:
        app.flow("h", orders)
    for use in (lambda: app.run(until_idle=True), app.client().open):
        with pytest.raises(ConfigError, match=rf"topics\.h\.{suffix}: h keeps its own events.*take another"):
            use()
    assert not app.directory.exists()


def test_a_handler_does_not_take_the_name_of_a_source(app: App, tmp_path: Path) -> None:
    (tmp_path / "orders.ndjson").write_text("")
    orders = app.topic("orders", Order)
    app.handle(orders, name="source.s")(lambda order: None)
    app.read(files(str(tmp_path / "*.ndjson")), into=orders, name="s")
    with pytest.raises(ConfigError, match=r"topics\.source\.s\.dead: source\.s keeps its own"):
        app.run(until_idle=True)


def test_a_flow_does_not_branch_in_silence(app: App) -> None:
    flow = app.flow("f", app.topic("t", Order))
    flow.filter(pl.col("amount") > 1)
    with pytest.raises(ConfigError, match="second branch"):
        flow.filter(pl.col("amount") < 1)


def test_a_flow_is_finished_by_its_first_target(app: App, tmp_path: Path) -> None:
    flow = app.flow("f", app.topic("t", Order)).to(parquet(tmp_path / "lake"))
    with pytest.raises(ConfigError, match="an operator after to"):
        flow.filter(pl.col("amount") > 1)
    with pytest.raises(ConfigError, match=r"two sinks f\.parquet"):
        flow.to(parquet(tmp_path / "other"))
    flow.to(parquet(tmp_path / "other"), name="second")
    assert [sink.name for sink in app.flows["f"].sinks] == ["f.parquet", "second"]


def test_relative_targets_lie_beside_the_program(app: App) -> None:
    app.flow("f", app.topic("t", Order)).to(duckdb_table("x.duckdb", table="t"))
    assert app.flows["f"].sinks[0].config.path == str(Path(__file__).parent / "x.duckdb")


def test_the_log_lies_beside_the_program_whatever_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert App("shop").directory == Path(__file__).parent / ".penstock" / "shop"


def test_without_a_file_the_project_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    names: dict[str, object] = {"App": App}
    exec("app = App('shop')", names)
    assert names["app"].directory == tmp_path / ".penstock" / "shop"  # type: ignore[attr-defined]


def test_a_changed_type_is_refused_at_the_start_with_what_changed(tmp_path: Path) -> None:
    class Old(msgspec.Struct):
        id: int

    class New(msgspec.Struct):
        id: int
        customer: str

    first = App("shop", path=tmp_path / "log")
    topic = first.topic("orders", Old)
    with first.client() as client:
        client.publish(topic, Old(1))
    second = App("shop", path=tmp_path / "log")
    second.topic("orders", New)
    with pytest.raises(SchemaIncompatible, match="customer"), second.client():
        pass
    assert first.read("orders").to_dicts() == [{"id": 1}]


def test_what_an_older_type_wrote_is_read_with_the_newer_one(tmp_path: Path) -> None:
    class Old(msgspec.Struct):
        id: int

    class New(msgspec.Struct):
        id: int
        customer: str = "nobody"

    first = App("shop", path=tmp_path / "log")
    topic = first.topic("orders", Old)
    with first.client() as client:
        client.publish(topic, Old(1))
        client.publish_frame(topic, pl.DataFrame({"id": [2]}))
    second = App("shop", path=tmp_path / "log")
    orders = second.topic("orders", New)
    seen: list[New] = []

    @second.handle(orders)
    def see(order: New) -> None:
        seen.append(order)

    second.flow("copy", orders).filter(pl.col("id") > 0)
    with second.client() as client:
        client.publish(orders, New(3, "c"))
        client.publish_frame(orders, pl.DataFrame({"id": [4], "customer": ["d"]}))
    report = second.run(until_idle=True)
    expected = [(1, "nobody"), (2, "nobody"), (3, "c"), (4, "d")]
    assert sorted((order.id, order.customer) for order in seen) == expected
    assert sorted(second.read("copy").rows()) == expected
    assert sorted(second.read("orders").rows()) == expected
    assert report.part("see").dead == report.part("copy").dead == 0


def test_two_programs_that_differ_are_told_apart(tmp_path: Path) -> None:
    first, second = App("shop", path=tmp_path / "log"), App("shop", path=tmp_path / "log")
    first.topic("orders", Order, key="customer")
    second.topic("orders", Order, key="id")
    with first.client(), pytest.raises(DeclaredDifferently, match="key"), second.client():
        pass


def test_flows_through_topics_flows_and_sinks(app: App, tmp_path: Path) -> None:
    orders = app.topic("orders", Order, key="customer")
    checked = app.topic("checked", Order, key="customer")

    @app.handle(orders, into=checked)
    def check(order: Order) -> Order:
        if order.amount < 0:
            raise Reject(f"amount {order.amount}")
        return order

    big = app.flow("big", checked).filter(pl.col("amount") >= 10)
    app.flow("per_customer", big).by("customer").agg(orders=count()).to(
        duckdb_table(tmp_path / "r.duckdb", table="per_customer", key="customer")
    )
    with app.client() as client:
        client.publish_many(orders, [Order(n, f"c{n % 3}", n - 1.0) for n in range(31)])
    report = app.run(until_idle=True)
    assert report.part("check").dead == 1
    assert app.read("big").height == 20
    with duckdb.connect(str(tmp_path / "r.duckdb"), read_only=True) as connection:
        rows = connection.sql("select * from per_customer order by customer").fetchall()
    assert rows == [("c0", 7), ("c1", 6), ("c2", 7)]


def test_targets_that_were_removed_are_filled_again_from_the_log(app: App, tmp_path: Path) -> None:
    orders = app.topic("orders", Order, key="customer")
    app.flow("copy", orders).to(parquet(tmp_path / "lake")).to(duckdb_table(tmp_path / "c.duckdb", table="copy"))
    with app.client() as client:
        client.publish_many(orders, [Order(n, f"c{n % 3}", 1.0) for n in range(100)])
    app.run(until_idle=True)
    shutil.rmtree(tmp_path / "lake")
    (tmp_path / "c.duckdb").unlink()
    report = app.run(until_idle=True)
    assert [report.part(f"copy.{kind}").events for kind in ("parquet", "duckdb")] == [100, 100]
    assert sorted(pl.read_parquet(tmp_path / "lake/**/*.parquet")["id"]) == list(range(100))
    with duckdb.connect(str(tmp_path / "c.duckdb"), read_only=True) as connection:
        assert connection.sql("select id from copy order by id").fetchall() == [(n,) for n in range(100)]


def test_a_batch_handler_takes_frames_and_gives_frames(app: App) -> None:
    class Doubled(msgspec.Struct):
        id: int
        amount: float

    orders = app.topic("orders", Order, key="customer")
    doubled = app.topic("doubled", Doubled)

    @app.handle_batch(orders, into=doubled)
    def twice(rows: pl.DataFrame) -> pl.DataFrame:
        return rows.select("id", pl.col("amount") * 2)

    @app.handle_batch(orders)
    def ids(rows: pl.DataFrame) -> pl.DataFrame:
        return rows.select("id")

    with app.client() as client:
        client.publish_many(orders, [Order(n, f"c{n % 3}", float(n)) for n in range(30)])
    app.run(until_idle=True)
    assert sorted(app.read(doubled)["amount"]) == [2.0 * n for n in range(30)]
    assert sorted(app.read("ids")["id"]) == list(range(30))


def test_a_flow_that_does_not_fit_its_topic_is_refused_and_a_row_that_does_not_is_given_up(app: App) -> None:
    class Wanted(msgspec.Struct):
        id: int
        customer: str

    orders = app.topic("orders", Order, key="customer")
    wanted = app.topic("wanted", Wanted)
    app.flow("nulls", orders).select(pl.col("id"), pl.when(pl.col("id") != 3).then("customer").alias("customer")).to(
        wanted
    )
    with app.client() as client:
        client.publish_many(orders, [Order(n, f"c{n}", 1.0) for n in range(5)])
    report = app.run(until_idle=True)
    assert report.part("nulls").dead == 1
    assert sorted(app.read(wanted)["id"]) == [0, 1, 2, 4]
    app.flow("texts", orders).select(pl.col("customer").alias("id"), "customer").to(wanted)
    with pytest.raises(ConfigError, match=r"flows\.texts\.to: column id is string, topic wanted has int64: cast it"):
        app.run(until_idle=True)


def test_rows_of_a_batch_handler_go_to_the_partition_of_their_own_key(app: App, tmp_path: Path) -> None:
    class Amount(msgspec.Struct):
        bucket: str
        amount: float

    orders = app.topic("orders", Order, key="customer")
    amounts = app.topic("amounts", Amount, key="bucket")

    @app.handle_batch(orders, into=amounts)
    def bucketed(rows: pl.DataFrame) -> pl.DataFrame:
        return rows.select(("b" + (pl.col("id") % 3).cast(pl.String)).alias("bucket"), "amount")

    app.flow("per_bucket", amounts).by("bucket").agg(orders=count())
    with app.client() as client:
        client.publish_many(orders, [Order(n, f"c{n}", 1.0) for n in range(300)])
    app.run(until_idle=True)
    latest = app.read("per_bucket").group_by("bucket").agg(pl.col("orders").max(), pl.len()).sort("bucket")
    assert latest["orders"].to_list() == [100, 100, 100]


@pytest.mark.parametrize("kind", ["ok", "day", "at", "price"])
def test_groups_of_any_type(app: App, kind: str) -> None:
    class Sale(msgspec.Struct):
        id: int
        ok: bool
        day: date
        at: datetime
        price: Annotated[Decimal, scale(2)]

    sales = app.topic("sales", Sale)
    app.flow("grouped", sales).by(kind).agg(sales=count())
    noon = datetime(2026, 1, 1, tzinfo=UTC)
    with app.client() as client:
        client.publish_many(
            sales,
            [
                Sale(n, n % 2 == 0, date(2026, 1, 1 + n % 2), noon.replace(hour=n % 2), Decimal(n % 2))
                for n in range(40)
            ],
        )
    app.run(until_idle=True)
    latest = app.read("grouped").group_by(kind).agg(pl.col("sales").max())
    assert latest["sales"].to_list() == [20, 20]


def test_what_feeds_itself_never_becomes_idle_and_is_refused(app: App) -> None:
    orders = app.topic("orders", Order)

    @app.handle(orders, into=orders)
    def again(order: Order) -> None: ...

    with pytest.raises(ConfigError, match="orders → orders: what feeds itself never becomes idle"):
        app.run(until_idle=True)


async def test_cancelling_a_run_leaves_nothing_behind_that_lies(app: App, tmp_path: Path) -> None:
    orders = app.topic("orders", Order, key="customer")
    app.flow("copy", orders).to(parquet(tmp_path / "lake", roll=Roll(events_max=200)))
    async with app.client() as client:
        await client.publish_many(orders, [Order(n, f"c{n}", 1.0) for n in range(2000)])
    for pause_s in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5):
        running = asyncio.ensure_future(app.serve())
        await asyncio.sleep(pause_s)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    await app.serve(until_idle=True)
    assert sorted(pl.read_parquet(tmp_path / "lake/**/*.parquet")["id"]) == list(range(2000))


MISUSED: dict[str, tuple[Callable[[App], object], str]] = {
    "lease": (lambda a: App("x", lease="10ms"), r"apps\.x\.lease: '10ms'; expected 0\.5 seconds or more"),
    "durability": (lambda a: App("x", durability=cast("Any", "Full")), r"apps\.x\.durability: 'Full'; expected 'full'"),
    "partitions": (lambda a: a.topic("t", Order, partitions=cast("Any", "4")), r"topics\.t\.partitions: '4'; expected"),
    "no parentheses": (lambda a: a.handle(cast("Any", lambda order: None)), r"expected what app\.topic\(…\) returned"),
    "topic by name": (lambda a: a.handle(cast("Any", "t")), r"found 't'; expected what app\.topic"),
    "flow of a name": (lambda a: a.flow("f", cast("Any", "t")), r"flows\.f: found 't'"),
    "retry": (lambda a: a.handle(a.topic("t", Order), retry=cast("Any", 5)), r"handlers\.retry: 5; expected Retry"),
    "retry of text": (lambda a: Retry(cast("Any", "3")), r"retry\.attempts: '3'; expected a whole number"),
    "another app": (lambda a: a.handle(App("other").topic("t", Order)), "belongs to another App"),
    "no name": (lambda a: a.handle(a.topic("t", Order))(partial(print)), "give it one with name="),
}


@pytest.mark.parametrize("name", MISUSED)
def test_misuse_is_told_at_once(app: App, name: str) -> None:
    declare, message = MISUSED[name]
    with pytest.raises(ConfigError, match=message):
        declare(app)


def test_results_that_are_no_numbers_are_given_up_and_the_others_go_on(app: App) -> None:
    orders = app.topic("orders", Order, partitions=1)
    app.flow("divided", orders).with_columns(share=pl.col("amount") / pl.col("id"))
    with app.client() as client:
        client.publish_many(orders, [Order(n, "c", float(n)) for n in range(10)])
    report = app.run(until_idle=True)
    assert report.part("divided").dead == 1
    assert sorted(app.read("divided")["id"]) == list(range(1, 10))


async def test_ids_differ_between_topics_of_one_publish(app: App) -> None:
    first, second = app.topic("first", partitions=1), app.topic("second", partitions=1)
    async with app.client() as client:
        await client.publish_together([(first, b"x"), (second, b"x")])
        opened = client._opened
        assert opened is not None
        found = [
            Identity(batch, opened.topic(name)).id(0)
            for name in ("first", "second")
            for batch in await opened.channel.read(name, 0, 0, events_max=10)
        ]
    assert len(set(found)) == 2


async def test_a_handler_that_hangs_is_left_when_the_drain_has_lasted_long(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = app.topic("orders", Order, partitions=1)
    began, stop = asyncio.Event(), asyncio.Event()
    handled: list[int] = []

    @app.handle(orders)
    async def hang(order: Order) -> None:
        if order.id == 2 and not stop.is_set():
            began.set()
            await asyncio.sleep(3600)
        handled.append(order.id)

    monkeypatch.setattr(running, "DRAIN_S_MAX", 0.05)
    async with app.client() as client:
        await client.publish_many(orders, [Order(n, "c", 1.0) for n in range(4)])
    serving = asyncio.ensure_future(app.serve(stop))
    await began.wait()
    stop.set()
    await serving
    await app.serve(until_idle=True)
    assert handled[-4:] == [0, 1, 2, 3]  # what was in hand is delivered again
