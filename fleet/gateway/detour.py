"""What an exchange waits for in a coroutine: a limiter that asks Redis, a load, another replica.

A detour begins at the step that its exchange has come to, awaits what is missing there, and goes on with the
exchange's own steps.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from django.http.response import HttpResponseBase

from cortex_site.http.answering import Asker, Awaited, Endpoint
from cortex_site.http.parsed_request import ParsedRequest
from cortex_site.http.request import Request
from cortex_site.http.response import BytesResponse, GoingOn, fields_of
from fleet.gateway.data_plane import DataPlane
from fleet.gateway.dialects.base import AnswerRewriter, Call, Dialect
from fleet.gateway.dispatch import JSON
from fleet.gateway.exchange import STOPPING, Exchange
from fleet.gateway.http.response import UpstreamResponse
from fleet.translation import failure_alone

log = logging.getLogger("cortex.request")

PATIENCE_S = 5.0  # how long a streaming client waits for a head, and then between comments


def exchanging(
    plane: DataPlane, dialect: Dialect, *, unless: Callable[[bytes], bool] | None = None
) -> Endpoint:
    """An endpoint of one exchange for each request, except for those whose body another verb takes."""

    def endpoint(request: ParsedRequest | Request, client: Asker) -> Exchange | None:
        if unless is not None and unless(request.body):
            return None
        return Exchange(plane, request, dialect, client, detour)

    return endpoint


async def exchange(plane: DataPlane, request: Request, dialect: Dialect) -> HttpResponseBase:
    """The response to a request whose client a task waits for."""
    client = Awaited(request)
    return await client.response(Exchange(plane, request, dialect, client, detour))


async def detour(exchange: Exchange, body: bytes | None = None) -> HttpResponseBase:
    """The response, after whatever has to be waited for. An answer that is there already has a `body`."""
    try:
        return await _Detour(exchange).run(body)
    except asyncio.CancelledError:
        if exchange.client.is_open:  # the client is there: this worker stops
            return exchange.refuse(STOPPING)
        exchange.close()
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, the client is answered
        return exchange.refuse(exchange.as_error(error))


class _Pending:
    """A request on its way to a node. `close` gives it up.

    Once it may tell the streaming client that it waits, it does so regularly, and gives the stream back to
    its exchange when a node has begun it.
    """

    def __init__(self, exchange: Exchange, sending: Coroutine[Any, Any, UpstreamResponse]) -> None:
        self.task = asyncio.create_task(sending)
        self._exchange: Exchange | None = exchange  # as long as it waits
        self._timer: asyncio.TimerHandle | None = None

    def begin_telling(self) -> None:
        self.task.add_done_callback(self._on_done)
        self._tell()

    def _tell(self) -> None:
        if self._exchange is not None:
            self._exchange.say_waiting()
            self._timer = asyncio.get_running_loop().call_later(PATIENCE_S, self._tell)

    def _on_done(self, task: asyncio.Task[UpstreamResponse]) -> None:
        exchange = self._end()
        if exchange is None:
            return
        try:
            exchange.held = response = task.result()
            exchange.stream(response.connection)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client is answered
            exchange.break_off(exchange.as_error(error))

    def _end(self) -> Exchange | None:
        """Return whose request it is, once."""
        exchange, self._exchange = self._exchange, None
        if self._timer is not None:
            self._timer.cancel()
        return exchange

    def close(self) -> None:
        self._end()
        self.task.cancel()
        self.task.add_done_callback(_close_response)


def _close_response(task: asyncio.Task[UpstreamResponse]) -> None:
    """Close a response that arrived while its client was leaving."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()


class _Detour:
    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._plane = exchange.plane

    async def run(self, body: bytes | None) -> HttpResponseBase:
        exchange = self._exchange
        call = await self._admit()
        if exchange.is_limited() and exchange.grant is None:
            assert exchange.key is not None
            limits = exchange.dialect.limit_headers
            tokens = exchange.estimate()
            asked, exchange.asked = exchange.asked, None
            exchange.grant = await self._plane.limiter.reserve(exchange.key, tokens, limits, asked)
        self._dispatch = exchange.dispatch or exchange.make_dispatch()
        return await (self._stream() if call.stream else self._whole(exchange.rewriter(), body))

    async def _admit(self) -> Call:
        exchange = self._exchange
        if exchange.call is None:
            exchange.admit(await exchange.dialect.prepare(exchange.body, exchange.key))
        assert exchange.call is not None
        if not exchange.is_admitted:
            exchange.call = await self._plane.images.admit(exchange.call, exchange.body)
        return exchange.call

    # --- whole answers ---

    async def _whole(self, answer: AnswerRewriter, body: bytes | None) -> BytesResponse:
        if body is None:
            body = await self._read(await self._dispatch.send())
        while failure := failure_alone(body):
            self._dispatch.refuse(failure.as_error())
            body = await self._read(await self._dispatch.send())
        response = BytesResponse(answer.whole(body), headers=fields_of(self._exchange.lines(JSON)))
        self._exchange.finish("ok", 200)
        return response

    async def _read(self, response: UpstreamResponse) -> bytes:
        self._exchange.held = response
        body = await response.read(self._plane.config.gateway.max_body_bytes)
        self._exchange.draft.note_answer(body)
        return body

    # --- streams, which callbacks pass on ---

    async def _stream(self) -> HttpResponseBase:
        """A quick load or refusal keeps its status; a long one is waited for with comments, or their like."""
        exchange, sending = self._exchange, self._dispatch.send()
        if self._dispatch.has_begun or self._plane.fleet.snapshot.replicas(exchange.entry.model):
            exchange.held = response = await sending
        else:
            exchange.held = pending = _Pending(exchange, sending)
            await asyncio.wait({pending.task}, timeout=PATIENCE_S)
            if not pending.task.done():
                return GoingOn(pending.begin_telling)
            exchange.held = response = pending.task.result()
        return GoingOn(partial(exchange.stream, response.connection))
