"""Ids of events on the tables: found, told apart, forgotten, and damage seen."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from penstock.errors import RecordDamaged
from penstock.log import ids
from penstock.log.api import Append, Appended, Block, Ids, Mark, Refusal, Repeated
from penstock.log.decide import Horizon
from penstock.log.store import Store
from tests.unit.log.logs import append, block, in_memory

TEN = Horizon(10)


def mark(index: int, half: int, name: bytes = b"n", content: bytes = b"c") -> Mark:
    return index, half, name.ljust(ids.HALF, b"-") + content.ljust(ids.HALF, b"-")


def marked(pid: int, *marks: Mark, horizon: Horizon = TEN, time_us: int | None = None) -> Block:
    new = block(pid, *(b"%d" % number for number in range(len(marks))), times=(time_us, time_us))
    return msgspec.structs.replace(new, ids=Ids(marks, horizon))


def apply(store: Store, request: Append, *, now_us: int = 0) -> Appended | Sequence[Repeated]:
    (result,), _ = store.apply([request], now_us=now_us)
    if isinstance(result, Refusal):
        assert result.conflict == "id", result
        return result.repeated
    assert isinstance(result, Appended)
    return result


def rows(store: Store) -> int:
    return len(store.db.execute("SELECT at FROM event_id").fetchall())


def test_half_a_digest_is_no_id() -> None:
    store, (pid,) = in_memory()
    apply(store, append(0, marked(pid, mark(0, 7, b"one"))))
    assert apply(store, append(1, marked(pid, mark(0, 7, b"two")))) == Appended([1])
    assert apply(store, append(2, marked(pid, mark(0, 7, b"two"), mark(1, 8)))) == [Repeated(0, 0, 0, 1, same=True)]
    assert apply(store, append(2, marked(pid, mark(0, 7, b"one", b"other")))) == [Repeated(0, 0, 0, 0, same=False)]


def test_publishes_of_one_transaction_see_each_other() -> None:
    store, (pid,) = in_memory()
    requests = [append(0, marked(pid, mark(0, 7)), producer=name) for name in ("p", "q")]
    results, _ = store.apply(requests, now_us=0)
    assert results[0] == Appended([0])
    assert isinstance(results[1], Refusal)


def test_what_lies_behind_the_horizon_is_removed_and_the_rest_stays() -> None:
    store, pids = in_memory(2)
    for number in range(100):
        for pid in pids:
            assert isinstance(
                apply(store, append(number, marked(pid, mark(0, number, b"%d" % pid)), producer=f"{pid}")), Appended
            )
    assert rows(store) == 2 * 10
    assert [ids.whole(store.db, pid) for pid in pids] == [10, 10]
    long = Horizon(1_000)
    again = [mark(number, number, b"%d" % pids[0]) for number in range(100)]
    found = apply(store, append(100, marked(pids[0], *again, horizon=long), producer=f"{pids[0]}"))
    assert not isinstance(found, Appended)
    assert [one.offset for one in found] == list(range(90, 100))


def test_an_event_from_the_future_is_forgotten_as_one_of_now() -> None:
    """It does not stay until its time comes, nor keep the rows behind it."""
    store, (pid,) = in_memory()
    horizon = Horizon(10, 5)
    apply(store, append(0, marked(pid, mark(0, 0), horizon=horizon, time_us=10**15)), now_us=1_000)
    for number in range(1, 100):
        request = append(number, marked(pid, mark(0, number), horizon=horizon, time_us=1_000 + number))
        apply(store, request, now_us=1_000 + number)
    assert rows(store) == 10
    assert ids.whole(store.db, pid) == 10
    again = append(100, marked(pid, mark(0, 0), horizon=horizon))
    assert isinstance(apply(store, again, now_us=1_100), Appended)


def test_a_clock_that_was_set_back_makes_no_event_old() -> None:
    store, (pid,) = in_memory()
    horizon = Horizon(0, 5)
    apply(store, append(0, marked(pid, mark(0, 0), horizon=horizon, time_us=900)), now_us=1_000)
    apply(store, append(1, marked(pid, mark(0, 1), horizon=horizon, time_us=903)), now_us=10)
    again = append(2, marked(pid, mark(0, 0), mark(1, 1), horizon=horizon))
    found = apply(store, again, now_us=11)
    assert not isinstance(found, Appended)
    assert [one.offset for one in found] == [0, 1]


def test_times_before_1970_are_times() -> None:
    store, (pid,) = in_memory()
    horizon = Horizon(0, 5)
    apply(store, append(0, marked(pid, mark(0, 0), horizon=horizon, time_us=-1_000)))
    assert apply(store, append(1, marked(pid, mark(0, 0), horizon=horizon))) == [Repeated(0, 0, 0, 0, same=True)]


def test_a_shorter_horizon_is_reached_some_rows_at_a_time() -> None:
    store, (pid,) = in_memory()
    for number in range(200):
        apply(store, append(number, marked(pid, mark(0, number), horizon=Horizon(1_000))))
    assert rows(store) == 200
    counts: list[int] = []
    for number in range(200, 215):
        apply(store, append(number, marked(pid, mark(0, number), horizon=Horizon(0))))
        counts.append(rows(store))
    assert counts[:3] == [183, 166, 149]
    assert counts[-1] == 0


def test_a_changed_row_is_never_used() -> None:
    store, (pid,) = in_memory()
    apply(store, append(0, marked(pid, mark(0, 7), mark(1, 8))))
    store.db.execute("UPDATE event_id SET rest = ? WHERE id = 7", (b"x" * 2 * ids.HALF,))
    with pytest.raises(RecordDamaged, match="offset 0 of partition"):
        store.apply([append(1, marked(pid, mark(0, 7)))], now_us=0)
    with pytest.raises(RecordDamaged, match="offset 0 of partition"):
        ids.whole(store.db, pid)


@pytest.mark.parametrize(
    "harm", ["DELETE FROM event_id WHERE id = 8", "UPDATE event_id SET at = at + (1 << 46) WHERE id = 8"]
)
def test_a_row_that_is_missing_is_found_by_the_sum(harm: str) -> None:
    store, (pid,) = in_memory()
    apply(store, append(0, marked(pid, mark(0, 7), mark(1, 8))))
    assert ids.whole(store.db, pid) == 2
    store.db.execute(harm)
    with pytest.raises(RecordDamaged, match="missing or changed"):
        ids.whole(store.db, pid)


def test_the_newest_time_is_checked_too() -> None:
    store, (pid,) = in_memory()
    horizon = Horizon(0, time_us=100)
    apply(store, append(0, marked(pid, mark(0, 7), horizon=horizon, time_us=1_000)), now_us=10_000)
    store.db.execute("UPDATE remembered SET newest_us = 9000")
    with pytest.raises(RecordDamaged, match="ids of partition"):
        store.apply([append(1, marked(pid, mark(0, 7), horizon=horizon))], now_us=10_000)
