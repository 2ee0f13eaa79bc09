"""What an exchange waits for in a coroutine: a limiter that asks Redis, a load, another replica.

A detour begins at the step that its exchange has come to, awaits what is missing there, and goes on with the
exchange's own steps.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from django.http.response import HttpResponseBase

from cortex_site.http.answering import Asker, Awaited, Endpoint
from cortex_site.http.parsed_request import ParsedRequest
from cortex_site.http.request import Request
from cortex_site.http.response import BytesResponse, GoingOn, Sink, StreamResponse, fields_of
from fleet.gateway.data_plane import DataPlane
from fleet.gateway.dialects.base import AnswerRewriter, Call, Dialect
from fleet.gateway.exchange import STOPPING, Exchange
from fleet.gateway.http.response import UpstreamResponse
from fleet.gateway.relay import Relay
from fleet.translation import failure_alone
from neuron.wire import ApiError

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
    """A request on its way to a node. `close` gives it up."""

    def __init__(self, sending: Coroutine[Any, Any, UpstreamResponse]) -> None:
        self.task = asyncio.create_task(sending)

    def close(self) -> None:
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
        answer = exchange.rewriter()
        if not call.stream:
            return await self._whole(answer, body)
        sending = self._dispatch.send()
        if self._dispatch.has_begun or self._plane.fleet.snapshot.replicas(exchange.entry.model):
            return self._streamed(await sending, call, answer)
        return await self._stream_cold(_Pending(sending), call, answer)

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
        return self._exchange.respond(answer.whole(body))

    async def _read(self, response: UpstreamResponse) -> bytes:
        self._exchange.held = response
        body = await response.read(self._plane.config.gateway.max_body_bytes)
        self._exchange.note_answer(body)
        return body

    # --- streams ---

    def _streamed(self, response: UpstreamResponse, call: Call, answer: AnswerRewriter) -> HttpResponseBase:
        self._exchange.held = response
        if self._exchange.client.takes_streams:
            return GoingOn(partial(self._exchange.stream, response.connection, answer))
        return self._stream_response(answer, lambda sink: self._relay(response, call, answer, sink))

    async def _stream_cold(self, pending: _Pending, call: Call, answer: AnswerRewriter) -> HttpResponseBase:
        """A quick load or refusal keeps its status; a long one is waited for with comments, or their like."""
        self._exchange.held = pending
        await asyncio.wait({pending.task}, timeout=PATIENCE_S)
        if pending.task.done():
            return self._streamed(pending.task.result(), call, answer)
        return self._stream_response(answer, lambda sink: self._wait_and_relay(pending, call, answer, sink))

    def _stream_response(
        self, answer: AnswerRewriter, relay: Callable[[Sink], Coroutine[Any, Any, None]]
    ) -> StreamResponse:
        async def produce(sink: Sink) -> None:
            self._plane.open_streams += 1
            try:
                error = await self._outcome(relay(sink), sink)
            finally:
                self._plane.open_streams -= 1
            if error is not None:
                await sink(answer.fail(error))

        headers = fields_of(self._exchange.stream_lines(answer))
        return StreamResponse(produce, headers=headers, on_close=self._exchange.close)

    async def _outcome(self, relaying: Awaitable[None], sink: Sink) -> ApiError | None:
        """Write a stream. Returns the error that is to be its last event."""
        exchange = self._exchange
        try:
            await relaying
        except asyncio.CancelledError:
            if not sink.is_open:
                exchange.close()
                raise
            error = STOPPING  # the client is there: this worker stops
        except Exception as failure:  # noqa: BLE001 - see above
            error = exchange.as_error(failure)
        else:
            return None
        exchange.finish("error", 200, error.code)
        return error

    async def _wait_and_relay(
        self, pending: _Pending, call: Call, answer: AnswerRewriter, sink: Sink
    ) -> None:
        while not pending.task.done():
            await sink(answer.waiting(self._plane.loader.progress(self._exchange.entry.model)))
            await asyncio.wait({pending.task}, timeout=PATIENCE_S)
        self._exchange.held = response = pending.task.result()
        await self._relay(response, call, answer, sink)

    async def _relay(
        self, response: UpstreamResponse, call: Call, answer: AnswerRewriter, sink: Sink
    ) -> None:
        exchange, relay = self._exchange, Relay(answer, sink.put, call.hide_usage)
        try:
            await relay.run(response, sink)
        finally:
            exchange.draft.note_stream(relay.close())
        if relay.failed:
            exchange.finish("error", 200, "node_error_event")
        else:
            exchange.finish("ok", 200)
