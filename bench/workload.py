"""The events that benchmarks publish and handle: Nexmark-like bids of exactly 189 bytes of JSON, and their results.

The bid has Nexmark's fields (auction, bidder, price, channel, url, date_time, extra). Nexmark fills `extra` up to an
average size; here it fills every event's JSON to exactly `BID_BYTES`, the size that peers were measured with. Values
come from a fixed seed, times are aware and a little out of order, one bid in a hundred has an auction divisible by 100
(what a handler rejects), and about half have a price above `PRICE_SPLIT` (what a filter passes).
"""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

BID_BYTES = 189
POOL = 50_000
POOL_QUICK = 10_000
PRICE_SPLIT = 5_000_000
RATE_EUR = 0.908
_START = datetime(2026, 1, 1, tzinfo=UTC)
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Bid(msgspec.Struct):
    """One bid; `price` in cents."""

    auction: int
    bidder: int
    price: int
    channel: str
    url: str
    date_time: datetime
    extra: str


class Converted(msgspec.Struct):
    """A bid in another currency: Nexmark's first query; `price_eur` in cents."""

    auction: int
    bidder: int
    price_eur: float
    date_time: datetime


class Tick(msgspec.Struct):
    """A bid-sized event that carries the CLOCK_MONOTONIC time it was sent at, in nanoseconds."""

    sent_ns: int
    pad: str


encode = msgspec.json.Encoder().encode
decode_bid = msgspec.json.Decoder(Bid).decode
decode_tick = msgspec.json.Decoder(Tick).decode


def bids(count: int, seed: int = 1) -> list[Bid]:
    """`count` different bids; the same ones for the same seed."""
    rng = random.Random(seed)
    return [_bid(index, rng) for index in range(count)]


def _bid(index: int, rng: random.Random) -> Bid:
    moment = _START + timedelta(milliseconds=index + rng.randrange(50), microseconds=rng.randrange(1, 1000))
    bid = Bid(
        auction=100 * rng.randrange(1, 1000) + index % 100,
        bidder=rng.randrange(1000, 100_000),
        price=rng.randrange(100, 2 * PRICE_SPLIT),
        channel=f"channel-{rng.randrange(10_000)}",
        url=f"https://nexmark.io/{rng.randrange(1000)}/?channel_id={rng.randrange(1000)}",
        date_time=moment,
        extra="",
    )
    bid.extra = "".join(rng.choices(_LETTERS, k=BID_BYTES - len(encode(bid))))
    return bid


def rejected(bid: Bid) -> bool:
    """Whether the handlers of the benchmarks reject it: exactly one in a hundred."""
    return bid.auction % 100 == 0


def converted(bid: Bid) -> Converted:
    """What the handlers of the benchmarks make of a bid."""
    return Converted(bid.auction, bid.bidder, bid.price * RATE_EUR, bid.date_time)


def new_tick(sent_ns: int) -> Tick:
    """A tick whose JSON is `BID_BYTES` long."""
    room = BID_BYTES - len(b'{"sent_ns":,"pad":""}') - len(str(sent_ns))
    return Tick(sent_ns, "x" * room)


def tick(sent_ns: int) -> bytes:
    """The JSON of one tick."""
    return encode(new_tick(sent_ns))


def repeated(pool: list[Bid], count: int) -> list[Bid]:
    """`count` references to the bids of the pool, over and over: many events without the memory for as many objects."""
    return (pool * (count // len(pool) + 1))[:count]


def record_batch(events: list[Bid]) -> pa.RecordBatch:
    """The bids as columns, times as UTC microseconds."""
    import pyarrow as pa  # noqa: PLC0415

    schema = pa.schema(
        [
            ("auction", pa.int64()),
            ("bidder", pa.int64()),
            ("price", pa.int64()),
            ("channel", pa.string()),
            ("url", pa.string()),
            ("date_time", pa.timestamp("us", "UTC")),
            ("extra", pa.string()),
        ]
    )
    arrays = [pa.array([getattr(event, field.name) for event in events], field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def filter_and_project(frame: pl.LazyFrame) -> pl.LazyFrame:
    """About half of the bids, converted: the columnar work of the benchmarks."""
    import polars as pl  # noqa: PLC0415

    return frame.filter(pl.col("price") > PRICE_SPLIT).select(
        "auction", "bidder", (pl.col("price") * RATE_EUR).alias("price_eur"), "channel", "date_time"
    )
