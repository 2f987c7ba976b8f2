"""Wake-ups: who is meant is woken, who is gone is forgotten, and nobody is woken for nothing."""

from __future__ import annotations

import os
import select
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import given

from penstock.system.wake import TAGS_CHARACTERS_MAX, Announcer, Waiter, _ranges, spell


def woken(waiter: Waiter) -> bool:
    ready, _, _ = select.select([waiter.fd], [], [], 0)
    return bool(ready) and waiter.drain()


def test_only_those_are_woken_whose_tags_are_announced(tmp_path: Path) -> None:
    one, two = Waiter(tmp_path, "one", [1, 2, 3]), Waiter(tmp_path, "two", [3, 9])
    announcer = Announcer(tmp_path)
    for tags, expected in (([1], (True, False)), ([3], (True, True)), ([9], (False, True)), ([4], (False, False))):
        announcer.announce(tags)
        assert (woken(one), woken(two)) == expected
    for waiter in (one, two):
        waiter.close()
        waiter.close()
    assert list(tmp_path.iterdir()) == []
    announcer.announce([1])
    announcer.close()
    announcer.close()


def test_a_waiter_that_comes_right_after_another_is_seen(tmp_path: Path) -> None:
    """Within one tick of the file system's clock the directory's time of change stays the same."""
    announcer = Announcer(tmp_path)
    waiters: list[Waiter] = []
    for number in range(50):
        waiters.append(Waiter(tmp_path, str(number), [number]))
        announcer.announce([number])
        assert woken(waiters[-1]), number
    for waiter in waiters:
        waiter.close()
    announcer.close()


def test_a_writer_that_has_gone_does_not_wake_for_ever(tmp_path: Path) -> None:
    waiter = Waiter(tmp_path, "w", [1])
    announcer = Announcer(tmp_path)
    announcer.announce([1])
    announcer.close()
    assert woken(waiter)
    poller = select.poll()
    poller.register(waiter.fd)
    assert poller.poll(0) == []
    waiter.close()


def test_a_waiter_that_died_is_forgotten(tmp_path: Path) -> None:
    waiter = Waiter(tmp_path, "w", [1])
    announcer = Announcer(tmp_path)
    announcer.announce([1])
    os.close(waiter._writing)  # what the kernel does
    os.close(waiter.fd)
    announcer.announce([1])
    assert list(tmp_path.iterdir()) == []
    dead = Waiter(tmp_path, "x", [1])
    os.close(dead._writing)
    os.close(dead.fd)
    Announcer(tmp_path).announce([1])
    assert list(tmp_path.iterdir()) == []
    announcer.close()


def test_a_full_pipe_and_a_stranger_are_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "1-stranger.1-1").write_text("x")
    waiter = Waiter(tmp_path, "w", [1])
    announcer = Announcer(tmp_path)
    for _ in range(66_000):
        announcer.announce([1])
    assert woken(waiter)
    assert not woken(waiter)
    waiter.close()
    announcer.close()


@given(st.sets(st.integers(1, 130_000), min_size=1, max_size=300))
def test_a_name_holds_every_tag_and_stays_short(tags: set[int]) -> None:
    name = f"1-x.{spell(tags)}"
    assert len(name) <= TAGS_CHARACTERS_MAX + 10
    ranges = _ranges(name)
    assert all(any(low <= tag <= high for low, high in ranges) for tag in tags)
    covered = sum(high - low + 1 for low, high in ranges)
    if len(ranges) > 1:
        assert covered == len(tags)


def test_thousands_of_partitions_fit_a_name(tmp_path: Path) -> None:
    waiter = Waiter(tmp_path, "w", range(1, 9000, 2))
    announcer = Announcer(tmp_path)
    announcer.announce([8999])
    assert woken(waiter)
    waiter.close()
    announcer.close()
