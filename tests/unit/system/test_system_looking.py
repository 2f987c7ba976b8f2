"""A thread that looks now and then, and where threads and coroutines are."""

from __future__ import annotations

import threading
from collections.abc import Generator
from types import coroutine

from penstock.system.looking import Looker, coroutine_places, this_thread, thread_places

PATIENCE_S = 10.0


def test_it_looks_again_and_again_until_it_is_closed() -> None:
    looks: list[int] = []
    enough = threading.Event()

    def look() -> None:
        looks.append(this_thread())
        if len(looks) == 3:
            enough.set()

    looker = Looker(look, every_s=0.0001)
    looker.start()
    assert enough.wait(PATIENCE_S)
    looker.close()
    looker.close()
    assert set(looks) == {looks[0]}
    assert this_thread() not in looks


def test_one_that_was_not_started_may_be_closed() -> None:
    Looker(lambda: None, every_s=1).close()


def test_where_a_thread_is() -> None:
    def inner() -> list[str]:
        return [place.text for place in thread_places(this_thread()) if place.module == __name__]

    found = inner()
    assert "test_where_a_thread_is" in found[-2]
    assert found[-1].endswith(".inner")
    assert found[-1].startswith(__file__ + ":")


def test_a_thread_that_is_gone_is_nowhere() -> None:
    assert thread_places(-1) == []


@coroutine
def _waits() -> Generator[None]:
    yield


async def _middle() -> None:
    await _waits()


async def _outer() -> None:
    await _middle()


def test_where_a_coroutine_waits() -> None:
    waiting = _outer()
    waiting.send(None)
    assert [place.text.rpartition(" ")[2] for place in coroutine_places(waiting)] == ["_outer", "_middle", "_waits"]
    waiting.close()
    assert coroutine_places(waiting) == []
    assert coroutine_places(None) == []
