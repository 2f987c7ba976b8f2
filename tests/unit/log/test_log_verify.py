"""Verifying while a running program trims and compacts: what moves meanwhile is not damage."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import apsw
import pytest

from penstock.log import catalogue, compaction, placed, progress
from penstock.log.store import Store
from penstock.log.verify import verify
from tests.unit.log.logs import append, block, in_memory

COUNT = 300


def filled() -> tuple[Store, int]:
    store, (pid,) = in_memory()
    for number in range(COUNT):
        store.apply([append(number, block(pid, b"%d-a" % number, b"%d-b" % number))], now_us=number)
    store.apply([append(0, block(pid, random.Random(0).randbytes(20_000)), producer="large")], now_us=0)  # ends a run
    return store, pid


def trim(store: Store, pid: int, begin: int) -> None:
    def work(db: apsw.Connection) -> None:
        ends = placed.known(db, pid)
        ends.begin = begin
        db.execute("DELETE FROM block WHERE at < ?", (pid << 46 | begin,))
        placed.set_begin(db, pid, ends)

    store.write(work)


def compact(store: Store, pid: int, start: int) -> None:
    run = compaction.find(store.db, pid, start).run
    assert run is not None
    bundled = compaction.make(store.db, run)
    assert store.write(lambda db: compaction.swap(db, bundled))[0]


@pytest.mark.parametrize("after", range(1, 8))
@pytest.mark.parametrize(
    "meanwhile",
    [
        lambda store, pid: trim(store, pid, 500),
        lambda store, pid: trim(store, pid, 2 * COUNT),
        lambda store, pid: compact(store, pid, 0),
        lambda store, pid: compact(store, pid, 90),
        lambda store, pid: (compact(store, pid, 0), trim(store, pid, 2 * COUNT)),
    ],
)
def test_what_moves_meanwhile_is_no_damage(after: int, meanwhile: Callable[[Store, int], object]) -> None:
    store, pid = filled()
    looks = 0

    def look(work: Callable[[apsw.Connection], Any]) -> Any:
        nonlocal looks
        looks += 1
        if looks == after:
            meanwhile(store, pid)
        return work(store.db)

    found = verify(look)
    assert found.damages == []
    assert found.events <= 2 * COUNT + 1
    assert looks > after


def test_what_is_missing_beside_a_bundle_is_damage() -> None:
    store, pid = filled()
    compact(store, pid, 0)
    store.db.execute("DELETE FROM block WHERE schema_id != ?", (placed.BUNDLE,))
    [damage] = verify(lambda work: work(store.db)).damages
    assert (damage.first, damage.end) == (2 * COUNT, 2 * COUNT + 1)


@pytest.mark.parametrize("key", ["producers", "aged"])
def test_what_the_clocks_were_is_checked(key: str) -> None:
    """Nobody could publish: so it is damage, and told before somebody tries."""
    store, _ = filled()
    assert verify(lambda read: read(store.db)).damages == []
    rows = store.db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchall()
    assert rows, "there is such a note"
    store.db.execute("UPDATE meta SET value = ? WHERE key = ?", (b"\x93\x01\x02\x03", key))
    damages = verify(lambda read: read(store.db)).damages
    assert len(damages) == 1


def test_each_group_is_looked_at_where_it_has_begun_and_nowhere_else() -> None:
    """A thousand topics with a handler each would be millions of looks otherwise."""

    def looks_of(count: int) -> int:
        store, pids = in_memory(count)
        for number, pid in enumerate(pids):
            row = store.write(lambda db, n=number: catalogue.declare_group(db, f"g{n}", b"{}", partitions=1))[0]
            store.write(lambda db, i=row.id, p=pid: progress.begin(db, i, p, floor=0))
        looks = 0

        def look(work: Callable[[apsw.Connection], Any]) -> Any:
            nonlocal looks
            looks += 1
            return work(store.db)

        found = verify(look)
        assert found.damages == []
        assert found.rows >= 3 * count  # partitions, groups, progress
        return looks

    assert looks_of(40) < 2.5 * looks_of(20)
