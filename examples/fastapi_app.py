"""Orders over HTTP into a durable log: 202 once an order is on the disk, and an honest answer whenever it is not.

Run it with any ASGI server, for example `uvicorn fastapi_app:api`. Several server processes may share one log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from msgspec import Meta, Struct

from penstock import Acked, App, AsyncClient, Rejected, Unknown
from penstock.errors import Closed, CorruptionError, DecodeError, IOFailed, PenstockError

BODY_BYTES_MAX = 100_000
IN_FLIGHT_MAX = 1_000
RETRY_S = {"Retry-After": "1"}
logger = logging.getLogger("orders")


class Order(Struct):
    customer: str
    item: str
    count: Annotated[int, Meta(ge=1, le=1_000)]
    price: Decimal


app = App("shop")
orders = app.topic("orders", Order, key="customer", event_bytes_max=BODY_BYTES_MAX)


class Publisher:
    """One open client for all requests, at most IN_FLIGHT_MAX of them at once; opened anew after a disk error."""

    def __init__(self) -> None:
        self.in_flight = 0
        self._client: AsyncClient | None = None
        self._opening = asyncio.Lock()

    async def open(self) -> None:
        """Open the log; the server does not start without it."""
        self._client = await app.client().__aenter__()

    async def close(self) -> None:
        """Publish what waits, then let the log go."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def publish(self, order: Order) -> Acked | Rejected | Unknown:
        """Publish one order and find out what became of it, also when the disk fails meanwhile.

        Raises:
            PenstockError: this order was not stored.
        """
        client = await self._current()
        self.in_flight += 1
        try:
            outcome = await client.publish(orders, order)
        except (IOFailed, Closed, CorruptionError):  # the log was closed before this order came to it
            await self._reopened(client)
            raise
        finally:
            self.in_flight -= 1
        return await self._resolved(client, outcome) if isinstance(outcome, Unknown) else outcome

    async def _resolved(self, client: AsyncClient, unknown: Unknown) -> Acked | Rejected | Unknown:
        """Ask again under the same sequence: what is stored is answered, what is not is stored now."""
        try:
            return await (await self._reopened(client)).resolve(unknown)
        except PenstockError as exc:
            logger.warning("still unknown: %s", exc)
            return unknown

    async def _current(self) -> AsyncClient:
        if self._client is None:  # the last attempt to open it failed
            async with self._opening:
                if self._client is None:
                    await self.open()
        assert self._client is not None
        return self._client

    async def _reopened(self, failed: AsyncClient) -> AsyncClient:
        """A new client in place of the failed one; whoever comes later finds it there."""
        async with self._opening:
            if self._client is failed:
                logger.warning("the log was closed by an error; opening it again")
                await self.close()
            if self._client is None:
                await self.open()
        assert self._client is not None
        return self._client


publisher = Publisher()


@asynccontextmanager
async def lifespan(_api: FastAPI) -> AsyncIterator[None]:
    await publisher.open()
    try:
        yield
    finally:
        await publisher.close()


api = FastAPI(title="orders", lifespan=lifespan)


@api.post("/orders")
async def accept(request: Request) -> JSONResponse:
    if publisher.in_flight >= IN_FLIGHT_MAX:
        return _answer(429, {"error": "too many orders at once; send it again later"}, RETRY_S)
    body = await _body(request)
    if body is None:
        return _answer(413, {"error": f"more than {BODY_BYTES_MAX} bytes"})
    try:
        order = orders.schema.decode_strict(body)
    except DecodeError as exc:
        return _answer(422, {"error": str(exc)})
    try:
        outcome = await publisher.publish(order)
    except asyncio.CancelledError:
        logger.warning("a request was cancelled: whether its order is stored is unknown")
        raise
    except PenstockError as exc:  # a full disk, a busy or a damaged log
        return _answer(503, {"error": str(exc), "stored": "no"}, RETRY_S)
    return _told(outcome)


def _told(outcome: Acked | Rejected | Unknown) -> JSONResponse:
    match outcome:
        case Acked(topic, partition, offset):
            return _answer(202, {"topic": topic, "partition": partition, "offset": offset})
        case Rejected():
            return _answer(422, {"error": outcome.reason})
        case Unknown():
            return _answer(503, {"error": outcome.reason, "stored": "unknown"}, RETRY_S)


async def _body(request: Request) -> bytes | None:
    """The request's body; None when it is too large, found out without reading the rest of it."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > BODY_BYTES_MAX:
            return None
    return bytes(body)


def _answer(status: int, content: Any, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(content, status, headers)
