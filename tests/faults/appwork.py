"""The whole way, publish → handler → sinks and dead letters, as a program that may be cut off and run again anywhere.

Orders are published one by one; a handler passes them on and rejects every seventh; what it passed on goes to a
directory of Parquet files and, as a running total per customer, to a DuckDB table. Run again, it publishes what the
log does not have yet. ``python -m tests.faults.appwork PLACE JOB`` runs it and prints each acked order.
"""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import msgspec

from penstock import Acked, App, Reject, count, duckdb_table, parquet, sum_
from penstock.channel.drivers.embedded import EmbeddedChannel
from penstock.errors import ConfigError, PenstockError
from penstock.event.batch import Rows
from penstock.log.log import LogConfig
from penstock.system import real_system
from tests.faults.found import Found

Ack = Callable[[str], None]
CUSTOMERS = 5
ROUNDS = 2


class Order(msgspec.Struct):
    number: int
    customer: str
    cents: int


class Paid(msgspec.Struct):
    number: int
    customer: str
    cents: int


def order(number: int) -> Order:
    """The order of this number, the same every time."""
    return Order(number, f"c{number * 7919 % CUSTOMERS}", number * number % 1000)


def rejected(number: int) -> bool:
    """Whether the handler rejects it."""
    return number % 7 == 3


def made(place: Path, durability: str = "full") -> App:
    """The app over `place`/log, its targets beside the log."""
    app = App("orders", path=place / "log", durability=durability)  # type: ignore[arg-type]
    orders = app.topic("orders", Order, key="customer", partitions=2)
    paid = app.topic("paid", Paid, key="customer", partitions=2)

    @app.handle(orders, into=paid)
    def pay(order: Order) -> Paid:
        if rejected(order.number):
            msg = f"order {order.number} is a seventh"
            raise Reject(msg)
        return Paid(order.number, order.customer, order.cents)

    app.flow("sales", paid).to(parquet(place / "lake"))
    totals = app.flow("totals", paid).by("customer").agg(orders=count(), cents=sum_("cents"))
    totals.to(duckdb_table(place / "x.duckdb", table="totals", key="customer"))
    return app


class Job(msgspec.Struct, frozen=True, tag="app"):
    """How many orders, and at which durability."""

    orders: int = 24
    durability: str = "full"

    def run(self, place: Path, ack: Ack) -> None:
        """Publish what is missing and work everything off, in two rounds."""
        app = made(place, self.durability)
        have = {body["number"] for body in contents(place / "log").get("orders", ())}
        for part in range(ROUNDS):
            with app.client() as client:
                for number in range(part, self.orders, ROUNDS):
                    if number not in have:
                        outcome = client.publish("orders", order(number))
                        assert isinstance(outcome, Acked), outcome
                        ack(str(number))
            app.run(until_idle=True)

    def look(self, place: Path, acked: list[str]) -> Found:
        """Hold everything against what was acked and against itself, as it is now."""
        found = Found([])
        try:
            topics = contents(place / "log")
        except PenstockError as exc:
            return Found([f"{type(exc).__name__}: {exc}"], lost=len(acked))
        orders = [body["number"] for body in topics.get("orders", ())]
        paid = [body["number"] for body in topics.get("paid", ())]
        dead = [body["number"] for body in topics.get("pay.dead", ())]
        _each_once(found, "orders", orders, range(self.orders))
        _each_once(found, "paid", paid, [n for n in orders if not rejected(n)])
        _each_once(found, "pay.dead", dead, [n for n in orders if rejected(n)])
        _in_order(found, orders, paid)
        found.lost += sum(int(number) not in set(orders) for number in acked)
        try:
            sold, totals = _lake(place), _totals(place)
        except duckdb.Error as exc:
            found.wrong.append(f"{type(exc).__name__}: {exc}")
            return found
        _each_once(found, "lake", sold, paid)
        for customer, (number, cents) in totals.items():
            if (number, cents) not in _running(topics.get("paid", []), customer):
                found.wrong.append(
                    f"totals has {number} orders of {cents} cents for {customer}: no sum of its first ones"
                )
        found.events = len(orders)
        found.complete = (
            sorted(orders) == list(range(self.orders))
            and sorted(paid + dead) == sorted(orders)
            and sorted(sold) == sorted(paid)
            and totals == {c: _running(topics["paid"], c)[-1] for c in {order(n).customer for n in paid}}
        )
        return found


def contents(directory: Path) -> dict[str, list[dict]]:
    """Every topic's events, partition after partition, each in offset order; nothing where there is no log."""
    found: dict[str, list[dict]] = defaultdict(list)
    for (name, _), events in sorted(asyncio.run(_contents(directory)).items()):
        found[name] += events
    return found


def events_of(directory: Path, topic: str) -> list[dict]:
    """One topic's events; the others need not be JSON."""
    places = asyncio.run(_contents(directory, topic))
    return [event for _, events in sorted(places.items()) for event in events]


def contents_of(directory: Path, topic: str, partition: int) -> list[dict]:
    """One partition's events."""
    return asyncio.run(_contents(directory))[topic, partition]


def bodies(directory: Path, topic: str) -> list[bytes]:
    """The bytes of a topic's events as they are."""
    places = asyncio.run(_payloads(directory))
    return [
        body for (name, _), found in sorted(places.items()) if name == topic for rows in found for body in rows.bodies()
    ]


async def _contents(directory: Path, only: str = "") -> dict[tuple[str, int], list[dict]]:
    found: dict[tuple[str, int], list[dict]] = defaultdict(list)
    for place, payloads in (await _payloads(directory)).items():
        for payload in payloads if not only or place[0] == only else ():
            found[place] += _decoded(payload)
    return found


async def _payloads(directory: Path) -> dict[tuple[str, int], list[Any]]:
    system = real_system()
    channel = EmbeddedChannel(directory, system=system, config=LogConfig(create=False))
    found: dict[tuple[str, int], list[Any]] = defaultdict(list)
    try:
        await channel.open([])
    except ConfigError:
        return found
    try:
        for name, topic in channel.topics().items():
            for partition in range(topic.spec.partitions):
                offset = 0
                while batches := await channel.read(name, partition, offset, events_max=10_000):
                    for batch in batches:
                        found[name, partition].append(batch.payload)
                    offset = batches[-1].end
    finally:
        await channel.close()
        system.offload.close()
    return found


def _decoded(payload: object) -> list[dict]:
    if isinstance(payload, Rows):
        return [msgspec.json.decode(body) for body in payload.bodies()]
    return payload.table.to_pylist()  # type: ignore[attr-defined]


def _each_once(found: Found, what: str, inside: list[int], allowed: object) -> None:
    doubled = len(inside) - len(set(inside))
    strange = set(inside) - set(allowed)  # type: ignore[call-overload]
    if doubled:
        found.wrong.append(f"{what} holds {doubled} twice")
    if strange:
        found.wrong.append(f"{what} holds {sorted(strange)[:5]}, which do not belong there")


def _in_order(found: Found, orders: list[int], paid: list[int]) -> None:
    place = {number: index for index, number in enumerate(orders)}
    for customer in {order(n).customer for n in paid}:
        mine = [place[n] for n in paid if order(n).customer == customer and n in place]
        if mine != sorted(mine):
            found.wrong.append(f"paid orders of {customer} are not in the order in which they were published")


def _lake(place: Path) -> list[int]:
    if not list(place.glob("lake/**/*.parquet")):
        return []
    with duckdb.connect() as connection:
        rows = connection.execute("SELECT number FROM read_parquet(?)", [f"{place}/lake/**/*.parquet"]).fetchall()
    return [number for (number,) in rows]


def _totals(place: Path) -> dict[str, tuple[int, int]]:
    if not (place / "x.duckdb").exists():
        return {}
    with duckdb.connect(str(place / "x.duckdb")) as connection:
        tables = {name for (name,) in connection.execute("SHOW TABLES").fetchall()}
        if "totals" not in tables:
            return {}
        rows = connection.execute("SELECT customer, orders, cents FROM totals").fetchall()
    return {customer: (orders, cents) for customer, orders, cents in rows}


def _running(paid: list[dict], customer: str) -> list[tuple[int, int]]:
    """The running total after each of the customer's paid orders."""
    sums, total = [], 0
    for body in paid:
        if body["customer"] == customer:
            total += body["cents"]
            sums.append((len(sums) + 1, total))
    return sums


def main(place: str, job: str) -> None:
    """Run the job, printing what was acked."""
    msgspec.json.decode(job, type=Job).run(Path(place), lambda note: print(note, flush=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
