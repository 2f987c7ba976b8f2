"""Compaction on the tables: every event stays what it was, and nothing is half done."""

from __future__ import annotations

import random
from typing import Any

import pytest

from penstock.errors import BlockDamaged
from penstock.event.batch import Rows
from penstock.log import blocks, compaction, extent, placed
from penstock.log.api import Appended, Block, Span, Stored
from penstock.log.ddl import OFFSET_MAX
from penstock.log.store import Store
from penstock.system.points import hooked
from tests.unit.log.logs import append, block, in_memory


def all_of(store: Store, pid: int, start: int = 0, **limits: int) -> list[Stored]:
    wanted = {"events_max": 10**6, "bytes_max": 1 << 40, **limits}
    span = Span(pid, start, OFFSET_MAX)
    return placed.read(store.db, span, events_max=wanted["events_max"], bytes_max=wanted["bytes_max"])


def decoded(found: list[Stored]) -> list[tuple[Any, ...]]:
    """All that is told of each block, its events decoded: their bytes on the disk may differ."""
    return [
        (b.first, b.count, b.schema_id, b.recorded_us, b.origin, b.base, b.time_min_us, b.time_max_us,
         bytes(rows.body), list(rows.lengths), {n: list(v) for n, v in rows.attributes.items()})
        for b in found
        if isinstance(rows := blocks.decode(b.data, arrow=None), Rows)
    ]  # fmt: skip


def compact(store: Store, pid: int) -> int:
    """Every run of the partition; how many there were."""
    at: int | None = 0
    count = 0
    while at is not None:
        found = compaction.find(store.db, pid, at)
        at = found.onward
        if found.run is not None:
            bundled = compaction.make(store.db, found.run)
            assert store.write(lambda db, b=bundled: compaction.swap(db, b))[0]
            count += 1
    return count


def filled(count: int = 100) -> tuple[Store, int]:
    store, (pid,) = in_memory()
    for number in range(count):
        times = (number * 10, number * 10 + 5) if number % 7 else (None, None)
        new = block(pid, b"event %d" % number, b"x" * (number % 3 * 400), times=times)
        (answer,), _ = store.apply([append(number // 3, new, producer=f"p{number % 3}")], now_us=1000 + number)
        assert isinstance(answer, Appended)
    store.apply([append(0, block(pid, random.Random(0).randbytes(20_000)), producer="large")], now_us=0)
    return store, pid


def test_every_event_stays_what_it_was() -> None:
    store, pid = filled()
    before = decoded(all_of(store, pid))
    assert compact(store, pid) == 1
    assert store.db.execute("SELECT count(*) FROM block").fetchall() == [(2,)]
    assert decoded(all_of(store, pid)) == before
    assert compact(store, pid) == 0


def test_reading_from_anywhere_in_a_bundle() -> None:
    store, pid = filled()
    before = decoded(all_of(store, pid))
    compact(store, pid)
    for start in range(0, 201, 7):
        expected = [one for one in before if one[0] + one[1] > start]
        assert decoded(all_of(store, pid, start)) == expected
        assert decoded(all_of(store, pid, start, events_max=3)) == expected[:2]


def test_times_of_recording_are_told_and_found_inside_a_bundle() -> None:
    store, pid = filled()
    end = placed.next_offset(store.db, pid)

    def told() -> list[tuple[int | None, int | None]]:
        return [
            (extent.recorded_us(store.db, pid, number * 2 + 1), extent.offset_at(store.db, pid, end, 1000 + number))
            for number in range(100)
        ] + [(extent.extent(store.db, pid).recorded_min_us, extent.extent(store.db, pid).recorded_max_us)]

    before = told()
    assert before == [*((1000 + number, number * 2) for number in range(100)), (0, 1099)]
    compact(store, pid)
    assert told() == before
    store.db.execute("UPDATE block SET data = zeroblob(length(data)) WHERE schema_id = ?", (placed.BUNDLE,))
    assert extent.offset_at(store.db, pid, end, 1050) == 0  # what cannot be read is rather given again than skipped
    assert extent.recorded_us(store.db, pid, 101) == 1000


@pytest.mark.parametrize("seed", range(5))
def test_a_time_range_reads_of_a_bundle_what_it_read_of_its_blocks(seed: int) -> None:
    chance = random.Random(seed)
    store, pid = filled()

    def ranged(low: int, high: int) -> list[int]:
        span = Span(pid, chance.randrange(50), 190, low, high)
        return [one.first for one in placed.read(store.db, span, events_max=10**6, bytes_max=1 << 40)]

    spans = [sorted(chance.sample(range(-50, 1100), 2)) for _ in range(20)]
    state = chance.getstate()
    before = [ranged(low, high) for low, high in spans]
    compact(store, pid)
    chance.setstate(state)
    assert [ranged(low, high) for low, high in spans] == before


def test_a_repeated_publish_is_answered_from_a_bundle() -> None:
    store, pid = filled()
    compact(store, pid)
    body = block(pid, b"event 97", b"x" * 400, times=(970, 975))
    other = Block(pid, 2, 0, body.size, blocks.plain(body.data), 1, 970, 975)  # other bytes, the same events
    (answer,), _ = store.apply([append(32, other, producer="p1")], now_us=0)
    assert answer == Appended([194], repeated=True)


def test_a_damaged_block_is_not_bundled() -> None:
    store, pid = filled()
    store.db.execute("UPDATE block SET data = x'00' WHERE at = (SELECT min(at) + 40 FROM block)")
    found = compaction.find(store.db, pid, 0)
    assert found.run is not None
    with pytest.raises(BlockDamaged):
        compaction.make(store.db, found.run)


def test_what_was_trimmed_meanwhile_is_not_put_back() -> None:
    store, pid = filled()
    found = compaction.find(store.db, pid, 0)
    assert found.run is not None
    bundled = compaction.make(store.db, found.run)
    store.db.execute("DELETE FROM block WHERE at = (SELECT min(at) FROM block)")
    assert not store.write(lambda db: compaction.swap(db, bundled))[0]


def test_it_dies_whole_or_not_at_all() -> None:
    store, pid = filled()
    before = decoded(all_of(store, pid))
    found = compaction.find(store.db, pid, 0)
    assert found.run is not None
    bundled = compaction.make(store.db, found.run)

    for point in ("log.compact", "log.compacted", "log.commit"):

        def die(name: str, point: str = point) -> None:
            if name == point:
                raise SystemExit(name)

        with hooked(die), pytest.raises(SystemExit):
            store.write(lambda db: compaction.swap(db, bundled))
        assert decoded(all_of(store, pid)) == before
        assert store.db.execute("SELECT count(*) FROM block").fetchall() == [(101,)]
