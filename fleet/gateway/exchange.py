"""One client request from its first byte to its record: authorise, dispatch, relay, account.

Every exchange ends exactly once, in `_finish`: answered, refused, failed or abandoned by its client. Before
the first byte an error has its HTTP status and the dialect's envelope; after it, it is an event of the
dialect's stream, and the stream ends there.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import re
from collections.abc import Awaitable, Callable, Coroutine
from itertools import count
from typing import TYPE_CHECKING, Any

from django.http.response import HttpResponseBase

from cortex_site.http.request import Request
from cortex_site.http.response import BytesResponse, Sink, StreamResponse
from fleet.gateway.dialects.catalogue import require_capability
from fleet.gateway.dialects.chat import Answer, Call, Dialect, with_model
from fleet.gateway.dispatch import Dispatch
from fleet.gateway.http.errors import UpstreamError
from fleet.gateway.http.response import UpstreamResponse
from fleet.gateway.limits.estimate import asked_of, estimate
from fleet.gateway.limits.keys import authorize, check_model
from fleet.gateway.limits.limiter import Ticket
from fleet.gateway.record import metrics
from fleet.gateway.record.account import Account
from fleet.gateway.relay import Relay
from fleet.records import Outcome
from fleet.snapshot import KeyView, Offer
from neuron.wire import ApiError

if TYPE_CHECKING:
    from fleet.gateway.app import Gateway

log = logging.getLogger("cortex.request")

CLIENT_LEFT = 499  # nginx's number for a client that went away
PATIENCE_S = 5.0  # a streaming client waits so long for a head, then for comments
_BUG = ApiError(500, "internal_error", "The gateway failed; its log has the reason.")
_STOPPING = ApiError(503, "gateway_stopping", "The gateway was stopped within the answer.", retry_after_s=3)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_WORKER, _numbers = os.urandom(8).hex(), count(1)  # a new id needs no system call


def request_id(request: Request) -> str:
    """The client's `x-request-id` when it is harmless to log, else a new one."""
    given = request.header(b"x-request-id")
    return given if given and _REQUEST_ID.fullmatch(given) else f"req-{_WORKER}{next(_numbers):010x}"


class Exchange:
    """Made per request by the endpoint; `run` answers it."""

    _ticket: Ticket | None = None
    _prompt_estimate = 0
    _relay: Relay | None = None
    _finished = False
    _response: UpstreamResponse | None = None
    _pending: asyncio.Task[UpstreamResponse] | None = None

    def __init__(self, gateway: Gateway, request: Request, dialect: Dialect) -> None:
        self._gateway = gateway
        self._request = request
        self._dialect = dialect
        self.request_id = ident = request_id(request)
        self._account = Account(ident, dialect.name)
        headers = {"content-type": "application/json", "x-request-id": ident}
        repeat = gateway.config.gateway.repeat_unanswered
        self._dispatch = Dispatch(gateway.view, gateway.nodes, gateway.loader, headers, repeat=repeat)

    async def run(self) -> HttpResponseBase:
        try:
            return await self._run()
        except ApiError as error:
            return self._refuse(error)
        except asyncio.CancelledError:
            if self._request.is_open:  # not the client left, but this worker stops
                return self._refuse(_STOPPING)
            self.close()
            raise
        except Exception:
            log.exception("request failed", extra={"request_id": self.request_id})
            return self._refuse(_BUG)

    async def _run(self) -> HttpResponseBase:
        gateway, snapshot, account = self._gateway, self._gateway.view.snapshot, self._account
        key = authorize(
            self._request, snapshot.config, allow_anonymous=gateway.config.gateway.allow_anonymous
        )
        if key is not None:
            account.key = key.name
            self._dispatch.headers |= key.caller_headers
        call = await self._dialect.prepare(self._request.body, key)
        account.model = model = snapshot.resolve(call.model)
        account.stream = call.stream
        check_model(key, model)
        offer = snapshot.offer(model)
        if offer is None:
            message = f"The model '{call.model}' does not exist; GET /v1/models lists those that do."
            raise ApiError(404, "model_not_found", message, param="model")
        require_capability(offer, call)
        if call.needs == "vision":
            call = await gateway.pictures.admit(call, self._request.body)
        if key is not None and key.limits:
            self._ticket = await self._reserve(key, call, offer)
        body = call.body if model == call.model else with_model(call.body, model)
        answer = self._dialect.answer(call, self.request_id)
        send = self._dispatch.send(model, call.node_path, body, stream=call.stream)
        if call.stream and not snapshot.replicas(model):
            return await self._stream_cold(call, answer, send)
        self._response = await send
        return self._streamed(call, answer) if call.stream else await self._whole(answer)

    def _reserve(self, key: KeyView, call: Call, offer: Offer) -> Coroutine[Any, Any, Ticket]:
        """Raises `LimitExceededError`. What is taken here is settled in `_finish`."""
        gateway, asked = self._gateway, call.asked or asked_of(call.body)
        usual = gateway.config.gateway.reserve_tokens
        prompt, answer = estimate(len(call.body), asked, context=offer.context, answer=usual)
        self._prompt_estimate = prompt = prompt * call.prompt_tokens
        headers = self._dialect.limit_headers
        return gateway.limiter.reserve(key, prompt + answer * call.answer_tokens, headers)

    # --- answers ---

    async def _whole(self, answer: Answer) -> BytesResponse:
        assert self._response is not None
        try:
            body = await self._response.read(self._gateway.config.gateway.max_body_bytes)
            self._account.note_answer(body)
        except UpstreamError as error:
            raise self._lost(error) from error
        content = answer.whole(body)
        self._finish("ok", 200)
        return BytesResponse(content, headers=self._headers("application/json"))

    def _streamed(self, call: Call, answer: Answer) -> StreamResponse:
        return self._stream_response(answer, lambda sink: self._relay_stream(call, answer, sink))

    async def _stream_cold(
        self, call: Call, answer: Answer, send: Coroutine[Any, Any, UpstreamResponse]
    ) -> HttpResponseBase:
        """A quick load or refusal keeps its status; a long one is waited for with comments."""
        self._pending = asyncio.create_task(send)
        await asyncio.wait({self._pending}, timeout=PATIENCE_S)
        if self._pending.done():
            self._response = self._pending.result()
            return self._streamed(call, answer)
        return self._stream_response(answer, lambda sink: self._wait_and_relay(call, answer, sink))

    def _stream_response(
        self, answer: Answer, relay: Callable[[Sink], Coroutine[Any, Any, None]]
    ) -> StreamResponse:
        async def produce(sink: Sink) -> None:
            self._gateway.open_streams += 1
            try:
                error = await self._outcome(relay(sink), sink)
            finally:
                self._gateway.open_streams -= 1
            if error is not None:
                await sink(answer.fail(error))

        headers = self._headers("text/event-stream; charset=utf-8")
        headers |= {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamResponse(produce, headers=headers, on_close=self.close)

    async def _outcome(self, relaying: Awaitable[None], sink: Sink) -> ApiError | None:
        """Run the writing of a stream; what went wrong, to be its last event."""
        try:
            await relaying
        except ApiError as error:
            self._finish("error", 200, error.code)
            return error
        except asyncio.CancelledError:
            if sink.is_open:  # not the client left, but this worker stops
                self._finish("error", 200, _STOPPING.code)
                return _STOPPING
            self.close()
            raise
        except Exception:
            log.exception("stream failed", extra={"request_id": self.request_id})
            self._finish("error", 200, _BUG.code)
            return _BUG
        return None

    async def _wait_and_relay(self, call: Call, answer: Answer, sink: Sink) -> None:
        assert self._pending is not None
        while not self._pending.done():
            await sink(f": {self._gateway.loader.progress(self._account.model)}\n\n".encode())
            await asyncio.wait({self._pending}, timeout=PATIENCE_S)
        self._response = self._pending.result()
        await self._relay_stream(call, answer, sink)

    async def _relay_stream(self, call: Call, answer: Answer, sink: Sink) -> None:
        assert self._response is not None
        self._relay = Relay(answer, sink, hide_usage=call.hide_usage)
        try:
            await self._relay.run(self._response)
        except UpstreamError as error:
            raise self._lost(error) from error
        if self._relay.failed:
            self._finish("error", 200, "node_error_event")
        else:
            self._finish("ok", 200)

    # --- ends ---

    def _lost(self, cause: UpstreamError) -> ApiError:
        metrics.UPSTREAM_FAILURES.labels(self._dispatch.node, cause.kind).inc()
        message = f"The node '{self._dispatch.node}' was lost within the answer: {cause}."
        return ApiError(503, "node_lost", message, retry_after_s=3)

    def _refuse(self, error: ApiError) -> BytesResponse:
        self._finish("error" if error.status >= 500 else "rejected", error.status, error.code)
        headers = self._headers("application/json") | error.headers
        return BytesResponse(self._dialect.error_body(error), status=error.status, headers=headers)

    def close(self) -> None:
        """The client left, or everything was written."""
        self._finish("cancelled", CLIENT_LEFT, "client_closed_request")

    def _headers(self, content_type: str) -> dict[str, str]:
        dispatch, headers = self._dispatch, {"content-type": content_type, "x-request-id": self.request_id}
        if dispatch.node:
            headers["x-cortex-node"] = dispatch.node
            headers["x-cortex-queue-ms"] = f"{dispatch.queue_s * 1e3:.0f}"
            headers["x-cortex-retries"] = str(dispatch.retries)
            headers["x-cortex-overhead-us"] = f"{(dispatch.overhead_s or 0.0) * 1e6:.0f}"
        elif (wait_s := self._gateway.loader.expected_wait_s(self._account.model)) is not None:
            headers["x-cortex-expected-wait-s"] = str(math.ceil(wait_s))
        if self._ticket is not None:
            headers |= self._ticket.headers
        return headers

    def _finish(self, outcome: Outcome, status: int, error_code: str = "") -> None:
        """The first caller decides; connection and pending work are given up here and nowhere else."""
        if self._finished:
            return
        self._finished = True
        if self._pending is not None:
            self._pending.cancel()
            if self._response is None:
                self._pending.add_done_callback(_close_result)
        if self._response is not None:
            self._response.close()
        if self._relay is not None:
            self._account.note_stream(self._relay)
        if self._ticket is not None:
            self._gateway.limiter.settle(self._ticket, self._used_tokens(self._ticket, outcome))
        record = self._account.record(outcome, status, error_code, self._dispatch)
        self._gateway.recorder.put(record, self._relay.gaps if self._relay else None)

    def _used_tokens(self, ticket: Ticket, outcome: Outcome) -> int:
        """As the engine counted; by what passed when the stream broke off before its usage.

        Who leaves a node before it said anything pays for the prompt: else leaving in time would be free.
        """
        account = self._account
        left_a_node = outcome == "cancelled" and self._dispatch.overhead_s is not None
        if account.tokens or not (account.events or left_a_node):
            return account.tokens
        return min(ticket.grant.tokens, self._prompt_estimate + account.events)


def _close_result(task: asyncio.Task[UpstreamResponse]) -> None:
    """An answer that arrived while its client was leaving."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()
