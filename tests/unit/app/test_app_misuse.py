"""What somebody new gets wrong: each is told at once, by the name of what is wrong, and with the way out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import polars as pl
import pytest

from penstock import Acked, App, Csv, Gzip, OnFailure, Retry, Roll, count, duckdb_table, files, parquet
from penstock.app.plan import plan_app
from penstock.errors import ConfigError


class Order(msgspec.Struct):
    id: int
    customer: str


wrong: Any = cast("Any", None)
"""A value that type checkers would refuse."""


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App("shop", path=tmp_path / "log")


def _flow(app: App) -> Any:
    return app.flow("f", app.topic("t", Order))


def _gives_and_has_no_topic(order: Order) -> Order:
    return order


def _read(app: App, **options: Any) -> object:
    app.topic("t", Order)
    return cast("Any", app).read("t", **options)


MISUSED: dict[str, tuple[Callable[[App], object], str]] = {
    "lease": (lambda _: App("x", lease=wrong), r"apps\.x\.lease: None is not a duration; expected seconds, or text"),
    "roll": (lambda _: parquet("x", roll=wrong), r"parquet\.roll: None is not a duration"),
    "roll of text": (
        lambda _: parquet("x", roll=Roll(seconds=cast("Any", "60s"))),
        r"parquet\.roll\.seconds: '60s'; expected a number of seconds",
    ),
    "roll events": (
        lambda _: duckdb_table("x", table="t", roll=Roll(events_max=cast("Any", "5"))),
        r"duckdb_table\.roll\.events_max: '5'; expected a whole number",
    ),
    "directory": (lambda _: parquet(cast("Any", 5)), r"parquet\.path: 5; expected a path such as"),
    "file": (lambda _: duckdb_table(wrong, table="t"), r"duckdb_table\.path: None; expected a path such as"),
    "wait": (
        lambda _: duckdb_table("x", table="t", wait_s=cast("Any", "5s")),
        r"duckdb_table\.wait_s: '5s' s; expected",
    ),
    "type of a topic": (lambda a: a.topic("t", dict), r"topics\.t\.type: the class dict is neither a msgspec Struct"),
    "name of a type": (lambda a: a.topic("t", cast("Any", "Order")), r"topics\.t\.type: 'Order' is neither"),
    "keep nothing": (lambda a: a.retain(wrong, age="1d"), r"topics: found None; expected what app\.topic"),
    "flow of nothing": (lambda a: a.flow("f", wrong), r"flows\.f: found None; expected what app\.topic"),
    "flow retry": (
        lambda a: a.flow("f", a.topic("t", Order), retry=cast("Any", 3)),
        r"flows\.f\.retry: 3; expected Retry",
    ),
    "flow timeout": (
        lambda a: a.flow("f", a.topic("t", Order), retry=Retry(timeout_s=1)),
        r"flows\.f\.retry\.timeout_s: a flow's frames cannot be cut short",
    ),
    "a result without a topic": (
        lambda a: a.handle(a.topic("t", Order))(_gives_and_has_no_topic),
        r"handlers\._gives_and_has_no_topic: returns Order and has no into=; name the topic",
    ),
    "by without agg": (
        lambda a: (_flow(a).by("id"), plan_app(a)),
        r"flows\.f\.by: by\('id'\) without agg\(…\) keeps nothing",
    ),
    "by without agg, and more": (
        lambda a: (flow := _flow(a), flow.by("id"), flow.filter(pl.col("id") > 0), plan_app(a)),
        r"flows\.f\.by: by\('id'\) without agg\(…\) keeps nothing",
    ),
    "a key that nobody has": (
        lambda a: (_flow(a).to(duckdb_table("x.duckdb", table="t", key="ident")), plan_app(a)),
        r"sinks\.f\.duckdb: needs the column ident; the flow's results have id",
    ),
    "by a list": (lambda a: _flow(a).by(["id"]), r"flows\.f\.by: found list; expected names of columns"),
    "by an expression": (
        lambda a: _flow(a).by(pl.col("id")).agg(n=count()),
        r"flows\.f\.by: found Expr; expected names",
    ),
    "join on": (lambda a: _flow(a).join(pl.DataFrame({"id": [1]}), on=5), r"flows\.f\.join: found int; expected names"),
    "no attempts": (lambda _: Retry(0), r"retry\.attempts: 0; at least 1 attempt is needed, and Retry\(1\) tries"),
    "transient names": (
        lambda _: OnFailure(transient=cast("Any", ("ValueError",))),
        r"on_failure\.transient: \('ValueError',\); expected types of exceptions",
    ),
    "transient type": (
        lambda _: OnFailure(transient=cast("Any", ValueError)),
        r"on_failure\.transient: <class 'ValueError'>; expected types",
    ),
    "breaker": (lambda _: OnFailure(breaker=cast("Any", "x")), r"on_failure\.breaker: 'x'; expected at least 1"),
    "nulls": (
        lambda _: files("x.csv", csv=Csv(null_values=cast("Any", "NA"))),
        r"files\.csv\.null_values: 'NA'; expected",
    ),
    "columns": (lambda _: files("x.csv", csv=Csv(names=cast("Any", "a,b"))), r"files\.csv\.names: 'a,b'; expected"),
    "renamed": (
        lambda _: files("x.csv", csv=Csv(rename=cast("Any", [("a", "b")]))),
        r"files\.csv\.rename: .*; expected column to field",
    ),
    "ratio": (lambda _: files("x", gzip=Gzip(ratio_max=cast("Any", "x"))), r"files\.gzip\.ratio_max: 'x'; expected"),
    "source by name": (
        lambda a: a.read("in/*.csv", into=a.topic("t", Order)),
        r"sources: found 'in/\*\.csv'; into= and name= belong to a source, such as files",
    ),
    "topic into topic": (
        lambda a: a.read(a.topic("t", Order), into=a.topic("u", Order)),
        r"sources: found <topic t>; .* a handler or a flow reads a topic",
    ),
    "columns of a source": (
        lambda a: cast("Any", a).read(files("x.csv"), into=a.topic("t", Order), columns=["id"]),
        r"sources: columns= and limit= belong to reading a topic",
    ),
    "columns of one": (lambda a: _read(a, columns="id"), r"read\.columns: 'id'; expected names of columns"),
    "limit": (lambda a: _read(a, limit=-1), r"read\.limit: -1; expected how many events"),
    "limit of text": (lambda a: _read(a, limit="5"), r"read\.limit: '5'; expected how many events"),
    "producer": (lambda a: a.client(producer=cast("Any", 5)).open(), r"client\.producer: 5; expected a name"),
}


@pytest.mark.parametrize("name", MISUSED)
def test_misuse_is_told_by_its_name(app: App, name: str) -> None:
    declare, message = MISUSED[name]
    with pytest.raises(ConfigError, match=message):
        declare(app)


def test_a_type_that_refers_to_one_in_a_function_is_told_where_to_go(app: App) -> None:
    class Parcel(msgspec.Struct):
        inner: Hidden  # noqa: F821 # pyright: ignore[reportUndefinedVariable, reportUnknownVariableType]

    with pytest.raises(
        ConfigError, match=r"topics\.t\.type: Parcel: name 'Hidden' is not defined: declare it at the top"
    ):
        app.topic("t", Parcel)


def test_a_client_asked_with_the_wrong_things(app: App) -> None:
    orders = app.topic("t", Order)
    with app.client() as client:
        with pytest.raises(ConfigError, match=r"client\.topic: found Order; expected what app\.topic"):
            client.publish(cast("Any", Order(1, "ann")), orders)
        with pytest.raises(ConfigError, match=r"client\.resolve: found Acked; expected the Unknown"):
            client.resolve(cast("Any", Acked("t", 0, 0)))


async def test_an_asyncio_client_asked_with_the_wrong_things(app: App) -> None:
    orders = app.topic("t", Order)
    async with app.client() as client:
        with pytest.raises(ConfigError, match=r"client\.topic: found Order; expected what app\.topic"):
            await client.publish(cast("Any", Order(1, "ann")), orders)
        with pytest.raises(ConfigError, match=r"client\.resolve: found Acked; expected the Unknown"):
            await client.resolve(cast("Any", Acked("t", 0, 0)))


def test_dead_letters_are_no_frame_and_a_part_has_a_name(app: App) -> None:
    @app.handle(app.topic("t", Order))
    def book(order: Order) -> None: ...

    report = app.run(until_idle=True)
    with pytest.raises(KeyError, match="no part 'pack'; there are book"):
        report.part("pack")
    with pytest.raises(
        ConfigError, match=r"topics\.book\.dead: dead letters have no type; see them with `penstock query"
    ):
        app.read("book.dead")


def test_a_cell_that_is_run_again_is_told_how(app: App) -> None:
    app.topic("t", Order)
    with pytest.raises(ConfigError, match=r"topics\.t: .* take another, or make the App anew"):
        app.topic("t", Order)


@pytest.mark.parametrize("said", [None, "None", Any, "typing.Any", object, "NoReturn"])
def test_a_handler_that_says_nothing_of_what_it_returns_needs_no_topic(app: App, said: object) -> None:
    def notice(order: Order) -> Any: ...

    notice.__annotations__["return"] = said
    app.handle(app.topic("t", Order))(notice)
    assert "notice" in app.handlers
