"""The combiner: order, rounds, back-pressure, a gate that stays shut, and its end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest

from penstock.system.combine import Combiner, Ended, Gate, Limits, Waiting

Batch = list[Waiting[int, int]]


class Busy(Exception):
    pass


class Rig:
    """A combiner that doubles numbers, and a gate that the test may shut."""

    def __init__(self, *, round_bytes: int = 100, queued_bytes: int = 1000, wait_s: float = 30.0) -> None:
        self.lock = threading.Lock()
        self.rounds: list[list[int]] = []
        self.threads: set[str] = set()
        self.finished = 0
        self.asked = threading.Event()
        gate = Gate(self.enter, self.try_enter, self.leave, lambda waited_s: Busy(f"{waited_s:.2f}"))
        limits = Limits(round_bytes, queued_bytes, wait_s)
        self.combiner: Combiner[int, int] = Combiner(self.serve, gate, limits=limits, finish=self.finish)

    def enter(self) -> None:
        self.asked.set()
        self.lock.acquire()

    def try_enter(self) -> bool:
        return self.lock.acquire(blocking=False)

    def leave(self) -> None:
        if self.lock.locked():
            self.lock.release()

    def serve(self, batch: Batch) -> None:
        self.rounds.append([waiting.request for waiting in batch])
        self.threads.add(threading.current_thread().name)
        self.lock.release()
        for waiting in batch:
            waiting.answer.set_result(2 * waiting.request)

    def finish(self) -> None:
        self.finished += 1
        self.lock.release()


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.combiner.close()


def test_a_lone_caller_serves_itself(rig: Rig) -> None:
    assert rig.combiner.serve_now(3, 10) == 6
    assert rig.threads == {threading.current_thread().name}


def test_a_caller_serves_itself_at_once_or_not_at_all(rig: Rig) -> None:
    served = rig.combiner.serve_at_once(3, 10)
    assert served is not None
    assert served.answer.result(10) == 6
    rig.lock.acquire()
    assert rig.combiner.serve_at_once(4, 10) is None
    rig.lock.release()
    assert rig.rounds == [[3]]
    rig.combiner.close()
    assert rig.combiner.serve_at_once(5, 10) is None


@pytest.mark.parametrize("entered", [True, False])
def test_what_an_interrupted_caller_has_left_is_undone(rig: Rig, entered: bool) -> None:
    def interrupted(_batch: Batch) -> None:
        raise KeyboardInterrupt

    def half_way() -> bool:
        rig.lock.acquire()
        raise KeyboardInterrupt

    gate = Gate(rig.enter, rig.try_enter if entered else half_way, rig.leave, lambda _: Busy())
    combiner: Combiner[int, int] = Combiner(interrupted, gate, limits=Limits(1, 100, 30.0), finish=rig.finish)
    with pytest.raises(KeyboardInterrupt):
        combiner.serve_at_once(3, 10)
    assert rig.lock.locked()
    combiner.forsake()
    assert not rig.lock.locked()
    combiner.forsake()
    combiner._gate = Gate(rig.enter, rig.try_enter, rig.leave, lambda _: Busy())
    assert combiner.close()
    assert rig.finished == 1


def test_a_gate_that_fails_at_once_is_left(rig: Rig) -> None:
    def broken() -> bool:
        raise OSError(37, "no locks available")

    whole = rig.combiner._gate
    rig.combiner._gate = Gate(whole.enter, broken, whole.leave, whole.busy)
    with pytest.raises(OSError, match="no locks"):
        rig.combiner.serve_at_once(3, 10)
    rig.combiner._gate = whole
    assert rig.combiner.serve_now(4, 10) == 8


def test_what_queues_behind_a_shut_gate_is_served_in_order_and_in_bounded_rounds(rig: Rig) -> None:
    rig.lock.acquire()
    answers = [rig.combiner.submit(n, 40) for n in range(5)]
    rig.asked.wait(10)
    rig.lock.release()
    assert [a.result(10) for a in answers] == [0, 2, 4, 6, 8]
    assert rig.rounds == [[0, 1], [2, 3], [4]]
    assert rig.threads == {"penstock-commit"}


def test_one_that_is_larger_than_a_round_goes_alone(rig: Rig) -> None:
    rig.lock.acquire()
    answers = [rig.combiner.submit(n, size) for n, size in enumerate((10, 500, 10))]
    rig.asked.wait(10)
    rig.lock.release()
    assert [a.result(10) for a in answers] == [0, 2, 4]
    assert rig.rounds == [[0], [1], [2]]


def test_who_waits_for_a_shut_gate_is_told_in_time_and_the_others_are_served_later() -> None:
    rig = Rig(wait_s=0.02)
    rig.lock.acquire()
    waits = [rig.combiner.submit(n, 10) for n in range(3)]
    for answer in waits:
        with pytest.raises(Busy):
            answer.result(10)
    with pytest.raises(Busy):
        rig.combiner.serve_now(9, 10)
    rig.lock.release()
    assert rig.combiner.submit(7, 10).result(10) == 14
    assert [n for batch in rig.rounds for n in batch] == [7]
    assert rig.combiner.close()


def test_time_spent_in_rounds_is_no_time_before_the_gate() -> None:
    """A slow disk makes callers wait, and never turns into an error or a second try."""
    rig = Rig(wait_s=0.02)
    slow = threading.Event()
    serve = rig.serve

    def slowly(batch: Batch) -> None:
        slow.wait(0.2)
        serve(batch)

    rig.combiner._serve = slowly
    answers = [rig.combiner.submit(n, 60) for n in range(3)]
    assert [a.result(10) for a in answers] == [0, 2, 4]
    rig.combiner.close()


def test_a_cancelled_request_is_left_out(rig: Rig) -> None:
    rig.lock.acquire()
    one, two = rig.combiner.submit(1, 10), rig.combiner.submit(2, 10)
    assert one.cancel()
    rig.lock.release()
    assert two.result(10) == 4
    with pytest.raises(CancelledError):
        one.result()
    assert rig.rounds == [[2]]


def test_a_full_queue_blocks_and_says_so() -> None:
    rig = Rig(queued_bytes=10)
    rig.lock.acquire()
    first = rig.combiner.submit(1, 20)
    assert rig.combiner.full()
    second: list[int] = []
    thread = threading.Thread(target=lambda: second.append(rig.combiner.submit(2, 20).result(10)))
    thread.start()
    assert not second
    rig.lock.release()
    assert first.result(10) == 2
    thread.join(10)
    assert second == [4]
    rig.combiner.close()


def test_closing_serves_the_rest_and_finishes_once(rig: Rig) -> None:
    rig.lock.acquire()
    answers = [rig.combiner.submit(n, 10) for n in range(3)]
    rig.lock.release()
    assert rig.combiner.close()
    assert rig.combiner.close()
    assert [a.result(0) for a in answers] == [0, 2, 4]
    assert rig.finished == 1
    with pytest.raises(Ended):
        rig.combiner.submit(1, 1)


def test_closing_behind_a_shut_gate_ends_and_finishes_later() -> None:
    rig = Rig(wait_s=0.02)
    rig.lock.acquire()
    answer = rig.combiner.submit(1, 10)
    assert not rig.combiner.close()
    with pytest.raises(Busy):
        answer.result(10)
    rig.lock.release()
    rig.combiner._thread.join(10)
    assert rig.finished == 1


def test_a_lock_that_fails_is_told_to_everybody() -> None:
    rig = Rig()
    rig.lock.acquire()

    def broken() -> None:
        raise OSError(37, "no locks available")

    gate = Gate(broken, lambda: False, lambda: None, lambda waited_s: Busy())
    combiner: Combiner[int, int] = Combiner(rig.serve, gate, limits=Limits(1, 100, 1.0), finish=rig.finish)
    with pytest.raises((OSError, Ended)):
        combiner.submit(1, 1).result(10)
    combiner._thread.join(10)
    with pytest.raises(Ended):
        combiner.submit(2, 1)
