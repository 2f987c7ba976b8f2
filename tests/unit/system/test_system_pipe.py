"""Pipes and workers, and the signals and batons that are waited for: what they do when nobody interrupts them."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from penstock.system import pipe as module
from penstock.system.pipe import LOOK_S, Baton, Ended, Pipe, Signal, Worker


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker(name="test-worker")
    made.start()
    yield made
    made.close()


def test_a_signal_is_set_until_it_is_cleared() -> None:
    signal = Signal()
    assert not signal.is_set()
    assert not signal.wait(0.001)
    signal.set()
    signal.set()
    assert signal.wait(10)
    assert signal.wait(10)
    signal.clear()
    assert not signal.is_set()


def test_everybody_who_waits_for_a_signal_is_woken() -> None:
    signal = Signal()
    seen: list[bool] = []
    threads = [threading.Thread(target=lambda: seen.append(signal.wait(10))) for _ in range(3)]
    for thread in threads:
        thread.start()
    signal.set()
    for thread in threads:
        thread.join(10)
    assert seen == [True] * 3


def test_a_baton_has_one_owner() -> None:
    baton, one, other = Baton(), object(), object()
    assert baton.owner is None
    assert baton.take(one)
    assert not baton.take(other)
    baton.give(other)  # not his
    assert baton.owner is one
    baton.give(one)
    with baton.held(other):
        assert baton.owner is other
    assert baton.owner is None


def test_who_waits_for_a_baton_gets_it() -> None:
    baton, counted = Baton(), [0]

    def count() -> None:
        for _ in range(200):
            with baton.held(object()):
                counted[0] += 1

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert counted == [800]


def test_a_pipe_works_off_what_was_put_in_before_it_ends() -> None:
    done: list[object] = []
    pipe: Pipe[int] = Pipe(done.append, name="test-pipe", last=lambda: done.append("last"))
    pipe.put(1)
    pipe.start()
    pipe.start()
    pipe.put(2)
    pipe.close()
    pipe.close()
    assert done == [1, 2, "last"]


def test_a_pipe_that_was_never_started_can_be_closed() -> None:
    done: list[int] = []
    pipe: Pipe[int] = Pipe(done.append, name="test-pipe")
    pipe.put(1)
    pipe.close()
    assert done == [1]


def test_an_idle_pipe_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_S", 0.001)
    looked = Signal()
    pipe: Pipe[int] = Pipe(lambda _: None, name="test-pipe", idle=looked.set)
    pipe.start()
    pipe.wait_for(looked)
    pipe.close()


def test_a_call_returns_or_raises_what_the_work_does(worker: Worker) -> None:
    assert worker.call(lambda: threading.current_thread().name) == "test-worker"
    for error in (ValueError("wrong"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as raised:
            worker.call(lambda e=error: _raise(e))
        assert raised.value is error
    assert worker.call(lambda: 1) == 1


def _raise(error: BaseException) -> None:
    raise error


def test_a_worker_that_has_ended_says_so(worker: Worker) -> None:
    worker.close()
    for use in (lambda: worker.call(lambda: 1), lambda: worker.wait_for(Signal())):
        with pytest.raises(Ended):
            use()


def test_a_call_that_comes_too_late_is_told(worker: Worker) -> None:
    """Put in after the end was: nobody comes to it, and nobody waits for ever."""
    begin, told = Signal(), Signal()

    def late() -> None:
        with pytest.raises(Ended):
            worker.call(lambda: 1)
        told.set()

    worker.put(lambda: worker.wait_for(begin))
    worker.end()
    threading.Thread(target=late, daemon=True).start()
    begin.set()
    while not worker.ended.wait(LOOK_S):
        pass
    assert told.wait(10) or told.wait(10)


def test_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits is told."""
    monkeypatch.setattr(threading.Thread, "start", lambda _: _raise(RuntimeError("can't start new thread")))
    monkeypatch.setattr("sys.unraisablehook", lambda _: None)
    worker = Worker(name="test-worker")
    worker.start()
    with pytest.raises(Ended):
        worker.call(lambda: 1)
    worker.close()
