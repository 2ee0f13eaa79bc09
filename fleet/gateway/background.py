"""Responses that are made without their clients, who ask for them later: `background: true`.

Each is an exchange in a task of the worker that took the request. What is stored says that it is begun until
its answer is, or that it was cancelled, which the task looks for. It also says that it lives: one whose
worker was killed has failed.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Coroutine
from typing import Any

import msgspec
from django.http.response import HttpResponseBase

from cortex_site.base.ending import end
from cortex_site.http.answering import Awaited
from cortex_site.http.request import Request
from cortex_site.http.response import BytesResponse
from fleet.gateway.control.redis_link import LinkError
from fleet.gateway.data_plane import DataPlane
from fleet.gateway.detour import detour
from fleet.gateway.dialects import stored_responses
from fleet.gateway.dialects.kept_items import ask
from fleet.gateway.dialects.responses import BackgroundDialect
from fleet.gateway.exchange import Exchange
from fleet.translation.responses import stored
from neuron.wire import ApiError

log = logging.getLogger("cortex.responses")

LOOK_S = 1.0  # between looks whether a response was cancelled
ALIVE_S = 10  # after which one is lost that nobody says is alive


class _Asked(msgspec.Struct):
    background: bool | None = None


_asked = msgspec.json.Decoder(_Asked)


def is_asked(body: bytes) -> bool:
    """Whether a request asks for the background; a malformed one is refused by whoever reads it whole."""
    if b'"background"' not in body:
        return False
    try:
        return bool(_asked.decode(body).background)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


class Background:
    """The responses that one worker makes, `limit` at most. `close` ends them."""

    def __init__(self, plane: DataPlane, limit: int) -> None:
        self._plane = plane
        self._limit = limit
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, request: Request) -> BytesResponse:
        """The response as it is begun. Raises `ApiError`."""
        plane, store = self._plane, self._plane.responses
        ident = os.urandom(16).hex()
        dialect = BackgroundDialect(store, ident)
        call, owner = (await dialect.prepare(request.body, plane.authorize(request))).origin
        if call.stream:
            message = "A response in the background is asked for until it has ended; leave `stream` out."
            raise ApiError(400, "invalid_value", message, param="stream")
        if not call.store:
            raise ApiError(400, "invalid_value", "What runs in the background is stored.", param="store")
        if len(self._tasks) >= self._limit:
            message = "Too many responses are being made in the background; responses.max_background."
            raise ApiError(429, "background_full", message, retry_after_s=5)
        shown, begun = dialect.begin(call)
        name = f"resp_{ident}"
        await ask(store.beat(name, ALIVE_S))
        await ask(store.put(owner, name, begun))
        client = Awaited(request)
        exchange = Exchange(plane, request, dialect, client, detour)
        making = self._make(client.response(exchange), owner, name, begun)
        task = asyncio.create_task(making, name=f"background {name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        headers = {"content-type": "application/json", "x-request-id": exchange.request_id}
        return BytesResponse(shown, headers=headers)

    async def close(self) -> None:
        await end(self._tasks)

    async def _make(
        self, exchange: Coroutine[Any, Any, HttpResponseBase], owner: str, name: str, begun: bytes
    ) -> None:
        running = asyncio.create_task(exchange, name=f"exchange {name}")
        try:
            while not running.done() and await self._is_wanted(owner, name, begun):
                await asyncio.wait({running}, timeout=LOOK_S)
            if running.done():
                self._note_failure(running.result(), owner, name, begun)
        except asyncio.CancelledError:
            self._fail(owner, name, begun, "server_error", "The gateway was stopped; ask again.")
            raise
        finally:
            await end({running})

    async def _is_wanted(self, owner: str, name: str, begun: bytes) -> bool:
        """Say that the response is being made; False once it was cancelled or deleted."""
        store = self._plane.responses
        try:
            await store.beat(name, ALIVE_S)
            return await store.get(owner, name) == begun
        except LinkError:
            return True

    def _note_failure(self, answer: object, owner: str, name: str, begun: bytes) -> None:
        if isinstance(answer, BytesResponse) and answer.status_code >= 400:
            error = msgspec.json.decode(answer.content)["error"]
            self._fail(owner, name, begun, str(error.get("code")), str(error.get("message")))

    def _fail(self, owner: str, name: str, begun: bytes, code: str, message: str) -> None:
        found = stored.decode(begun)
        failed = stored_responses.ended(found.response, "failed", {"code": code, "message": message})
        self._plane.responses.keep(owner, name, stored.with_response(found, failed), instead_of=begun)
