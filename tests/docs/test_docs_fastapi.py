"""examples/fastapi_app.py over real HTTP requests: every outcome, many at once, cancelled, a failing disk, killed."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import apsw
import httpx2
import pytest
from starlette.testclient import TestClient

from penstock.system.locks import FairLock
from tests.docs.examples_kit import loaded
from tests.faults import disk

ORDER = {"customer": "c1", "item": "bolt", "count": 2, "price": "0.10"}
ROUNDS_MAX = 100_000


@pytest.fixture
def shop(tmp_path: Path) -> Generator[ModuleType]:
    """The example, with its log under tmp_path."""
    with loaded("fastapi_app", tmp_path) as module:
        yield module


@asynccontextmanager
async def served(shop: ModuleType) -> AsyncGenerator[httpx2.AsyncClient]:
    """The server between its start and its end, in this loop."""
    transport = httpx2.ASGITransport(app=shop.api)
    async with shop.lifespan(shop.api), httpx2.AsyncClient(transport=transport, base_url="http://shop") as http:
        yield http


def stored(shop: ModuleType) -> list[dict[str, Any]]:
    """The orders that the log holds."""
    return shop.app.read("orders").to_dicts()


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run on until it is so."""
    for _ in range(ROUNDS_MAX):
        if condition():
            return
        await asyncio.sleep(0)
    pytest.fail("it never came to be")


def test_stored_rejected_too_large(shop: ModuleType) -> None:
    """202 says where the order lies; 422 names the field; 413 the limit. Only the first is stored."""
    with TestClient(shop.api) as http:
        accepted = http.post("/orders", json=ORDER)
        assert accepted.status_code == 202
        assert accepted.json()["offset"] == 0
        wrong = http.post("/orders", json=ORDER | {"count": 0})
        assert wrong.status_code == 422
        assert "count" in wrong.json()["error"]
        assert http.post("/orders", content=b"nonsense").status_code == 422
        assert http.post("/orders", content=b'{"customer":"\\ud800"}').status_code == 422
        assert http.post("/orders", content=b" " * (shop.BODY_BYTES_MAX + 1)).status_code == 413
    assert [order["customer"] for order in stored(shop)] == ["c1"]


async def test_two_hundred_at_once(shop: ModuleType) -> None:
    """Each is answered with a place of its own, and the log holds each once."""
    async with served(shop) as http:
        posts = [http.post("/orders", json=ORDER | {"customer": f"c{number}"}) for number in range(200)]
        answers = await asyncio.gather(*posts)
    assert {answer.status_code for answer in answers} == {202}
    places = {(answer.json()["partition"], answer.json()["offset"]) for answer in answers}
    assert len(places) == 200
    assert sorted(order["customer"] for order in stored(shop)) == sorted(f"c{number}" for number in range(200))


async def test_more_than_it_takes_are_told_to_come_later(shop: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of requests in flight is bounded; who is over it is told so at once."""
    monkeypatch.setattr(shop, "IN_FLIGHT_MAX", 3)
    async with served(shop) as http:
        answers = await asyncio.gather(*(http.post("/orders", json=ORDER) for _ in range(50)))
    codes = [answer.status_code for answer in answers]
    assert set(codes) == {202, 429}
    assert all(answer.headers["Retry-After"] for answer in answers if answer.status_code == 429)
    assert len(stored(shop)) == codes.count(202)


async def test_a_cancelled_request_is_unknown_and_harms_nobody(
    shop: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    """It is stored once or not at all, the server says that nobody knows, and goes on."""
    async with served(shop) as http:
        lock = FairLock(shop.app.directory)
        lock.acquire()
        gone = asyncio.ensure_future(http.post("/orders", json=ORDER | {"customer": "gone"}))
        await until(lambda: shop.publisher.in_flight == 1)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        lock.release()
        lock.close()
        assert (await http.post("/orders", json=ORDER)).status_code == 202
    assert shop.publisher.in_flight == 0
    assert "unknown" in caplog.text
    customers = [order["customer"] for order in stored(shop)]
    assert customers.count("c1") == 1
    assert customers.count("gone") <= 1


class Failing:
    """A disk whose syncs of the log fail while `left` is above zero."""

    def __init__(self) -> None:
        self.left = 0

    def __call__(self, op: disk.Op) -> None:
        if self.left and op.kind == "sync" and Path(op.path).name == "log.db-wal":
            self.left -= 1
            error = apsw.IOError("planted")
            error.extendedresult = apsw.SQLITE_IOERR_FSYNC  # type: ignore[attr-defined]
            raise error


def test_a_disk_error_closes_the_log_and_not_the_server(shop: ModuleType, tmp_path: Path) -> None:
    """The log is opened again and asked what became of the order: it is there once, and so is the next one."""
    failing = Failing()
    with disk.watched(failing, tmp_path), TestClient(shop.api) as http:
        assert http.post("/orders", json=ORDER).status_code == 202
        failing.left = 1
        struck = http.post("/orders", json=ORDER | {"customer": "struck"})
        assert struck.status_code == 202, struck.text
        assert http.post("/orders", json=ORDER | {"customer": "after"}).status_code == 202
    assert failing.left == 0
    assert sorted(order["customer"] for order in stored(shop)) == ["after", "c1", "struck"]


def test_a_disk_that_goes_on_failing_is_told_and_survived(shop: ModuleType, tmp_path: Path) -> None:
    """503 with what is known, for as long as it lasts; then the server takes orders again."""
    failing = Failing()
    with disk.watched(failing, tmp_path), TestClient(shop.api) as http:
        failing.left = 1_000_000
        first = http.post("/orders", json=ORDER | {"customer": "first"})
        assert first.status_code == 503
        assert first.json()["stored"] == "unknown"
        assert first.headers["Retry-After"]
        failing.left = 0
        answers = [http.post("/orders", json=ORDER | {"customer": f"again{number}"}) for number in range(3)]
        assert answers[-1].status_code == 202, answers[-1].text
    customers = [order["customer"] for order in stored(shop)]
    accepted = [f"again{n}" for n, answer in enumerate(answers) if answer.status_code == 202]
    assert [customer for customer in customers if customer != "first"] == accepted
    assert customers.count("first") <= 1


SERVER = """
import json, sys
from starlette.testclient import TestClient
from fastapi_app import api

with TestClient(api) as http:
    for number in range(100_000):
        order = {"customer": f"{sys.argv[1]}-{number}", "item": "bolt", "count": 1, "price": "1"}
        answer = http.post("/orders", json=order)
        print(json.dumps([order["customer"], answer.status_code, answer.json()]), flush=True)
"""


def test_killed_and_started_again(shop: ModuleType, tmp_path: Path) -> None:
    """Every order that was answered with 202 is in the log after kill -9, once and where the answer said."""
    acked: dict[str, dict[str, Any]] = {}
    for life in range(3):
        command = [sys.executable, "-c", SERVER, f"life{life}"]
        with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            for _ in range(30):
                customer, status, answer = json.loads(server.stdout.readline())
                assert status == 202
                acked[customer] = answer
            server.kill()
    customers = [order["customer"] for order in stored(shop)]
    assert len(customers) == len(set(customers))
    assert set(acked) <= set(customers)
    frame = shop.app.read("orders")
    assert frame.height >= 90
    assert len({(answer["partition"], answer["offset"]) for answer in acked.values()}) == 90
