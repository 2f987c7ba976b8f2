"""Retry policies: attempts, pauses, schedules, jitter, and which type of error takes which."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.delivery.lot import Head, Lot, Now
from penstock.delivery.retry import FACTOR_MAX, SECONDS_MAX, Retries, Retry
from penstock.errors import ConfigError


def pauses(retry: Retry, **options: Any) -> list[float | None]:
    return [retry.pause_s(attempt, **options) for attempt in range(1, retry.attempts + 1)]


def test_pauses() -> None:
    assert pauses(Retry()) == [0.1, 0.2, None]
    assert pauses(Retry(4, first_s=1, factor=1)) == [1, 1, 1, None]
    assert pauses(Retry(5, first_s=1, pause_max_s=3)) == [1, 2, 3, 3, None]
    assert pauses(Retry(schedule=(1, 10, 60))) == [1, 10, 60, None]
    assert pauses(Retry(1)) == [None]


def test_full_jitter_draws_from_zero_to_the_pause() -> None:
    assert pauses(Retry(3, first_s=4, jitter=True), chance=lambda: 0.25) == [1, 2, None]
    assert pauses(Retry(3, first_s=4, jitter=True), chance=lambda: 0.0) == [0, 0, None]


def test_no_attempt_begins_after_the_total() -> None:
    retry = Retry(10, first_s=5, factor=1, total_s=12)
    assert retry.pause_s(1, since_s=0) == 5
    assert retry.pause_s(2, since_s=5) == 5
    assert retry.pause_s(3, since_s=10) is None


def test_the_closest_base_class_decides() -> None:
    retries = Retries.of({OSError: Retry(5), ConnectionError: Retry(7), Exception: Retry(2)})
    assert retries.for_error(ConnectionResetError()).attempts == 7
    assert retries.for_error(FileNotFoundError()).attempts == 5
    assert retries.for_error(ValueError()).attempts == 2
    assert retries.default.attempts == 2
    assert Retries.of({OSError: Retry(5)}).for_error(ValueError()) == Retry()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Retry(-1),
        lambda: Retry(True),
        lambda: Retry(1.5),  # type: ignore[arg-type]
        lambda: Retry(first_s=-1),
        lambda: Retry(first_s=float("nan")),
        lambda: Retry(first_s="1"),  # type: ignore[arg-type]
        lambda: Retry(pause_max_s=float("inf")),
        lambda: Retry(factor=float("nan")),
        lambda: Retry(factor=1_001),
        lambda: Retry(schedule=(1, float("nan"))),
        lambda: Retry(schedule=(float("inf"),)),
        lambda: Retry(schedule=5),  # type: ignore[arg-type]
        lambda: Retry(total_s="1"),  # type: ignore[arg-type]
        lambda: Retry(factor=0.5),
        lambda: Retry(2, schedule=(1, 2, 3)),
        lambda: Retry(schedule=(1, -2)),
        lambda: Retry(total_s=0),
        lambda: Retry(timeout_s=-1),
        lambda: Retries.of(5),  # type: ignore[arg-type]
        lambda: Retries.of({}),
        lambda: Retries.of({"ValueError": Retry()}),  # type: ignore[dict-item]
        lambda: Retries.of({ValueError: 5}),  # type: ignore[dict-item]
    ],
)
def test_what_cannot_be_meant_is_refused(make: Any) -> None:
    with pytest.raises(ConfigError):
        make()


def test_the_longest_pauses_can_be_computed_and_written_down() -> None:
    retry = Retry(200, first_s=SECONDS_MAX, factor=FACTOR_MAX, pause_max_s=SECONDS_MAX)
    assert pauses(retry) == [SECONDS_MAX] * 199 + [None]
    lot, now = Lot(), Now(2**52, 0.0)
    lot.park(Head(b"k", b"k", 0), float(SECONDS_MAX), now)
    assert Lot.restore([(key, value) for key, value in lot.writes() if value is not None], now).heads


def test_only_the_default_policy_limits_a_call() -> None:
    limited = Retry(5, timeout_s=2.0, warn_s=1.0)
    assert Retries.of({TimeoutError: limited, Exception: limited}).timeout_s == 2.0
    for option in ("timeout_s", "warn_s"):
        given = {TimeoutError: Retry(5, **{option: 2.0}), Exception: Retry(2)}  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=rf"retry\.TimeoutError\.{option}: .*give it to the policy for Exception"):
            Retries.of(given)
