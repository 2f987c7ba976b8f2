"""The events of the benchmarks are what their documentation says: sizes, shares, repeatability."""

from __future__ import annotations

import polars as pl

from bench.pacing import figures_of
from bench.workload import (
    BID_BYTES,
    PRICE_SPLIT,
    RATE_EUR,
    bids,
    converted,
    decode_bid,
    decode_tick,
    encode,
    filter_and_project,
    record_batch,
    rejected,
    repeated,
    tick,
)


def test_every_bid_is_189_bytes_of_json_and_comes_back() -> None:
    events = bids(2000)
    assert {len(encode(event)) for event in events} == {BID_BYTES} == {189}
    assert [decode_bid(encode(event)) for event in events] == events
    assert all(event.date_time.utcoffset() is not None for event in events)


def test_bids_follow_from_their_seed() -> None:
    assert bids(100) == bids(100)
    assert bids(100) != bids(100, seed=2)
    assert len({encode(event) for event in bids(1000)}) == 1000


def test_times_are_out_of_order() -> None:
    times = [event.date_time for event in bids(100)]
    assert times != sorted(times)


def test_one_in_a_hundred_is_rejected_and_about_half_pass_the_filter() -> None:
    events = bids(2000)
    assert sum(map(rejected, events)) == 20
    assert 0.45 < sum(event.price > PRICE_SPLIT for event in events) / len(events) < 0.55


def test_filter_and_project_is_what_the_handler_would_make() -> None:
    events = bids(500)
    rows = filter_and_project(pl.DataFrame(record_batch(events)).lazy()).collect()
    passed = [event for event in events if event.price > PRICE_SPLIT]
    assert rows["price_eur"].to_list() == [event.price * RATE_EUR for event in passed]
    assert rows["date_time"].to_list() == [converted(event).date_time for event in passed]


def test_ticks_have_a_bid_s_size_however_long_the_machine_is_up() -> None:
    for sent_ns in (1, 987_654_321_012_345, 2**62):
        assert len(tick(sent_ns)) == BID_BYTES
        assert decode_tick(tick(sent_ns)).sent_ns == sent_ns


def test_a_pool_is_repeated_to_any_length() -> None:
    pool = bids(3)
    assert repeated(pool, 7) == pool * 2 + pool[:1]
    assert repeated(pool, 2) == pool[:2]


def test_latencies_leave_the_warm_up_out() -> None:
    assert figures_of([9_000_000_000, *range(1_000_000, 101_000_000, 1_000_000)], warmup=1) == {
        "p50": 50.0,
        "p99": 99.0,
    }
