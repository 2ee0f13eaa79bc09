"""One client request from its first byte to its record: authorise, reserve, dispatch, relay, record.

Every exchange ends exactly once, in `_finish`: answered, refused, failed, or abandoned by its client. Before
the first byte an error has its HTTP status and the dialect's envelope; after it, the error is an event of the
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
from typing import Any, Protocol

from django.http.response import HttpResponseBase

from cortex_site.http.request import Request
from cortex_site.http.response import BytesResponse, Sink, StreamResponse
from fleet.gateway.data_plane import DataPlane
from fleet.gateway.dialects.base import AnswerRewriter, Call, Dialect
from fleet.gateway.dialects.chat_body import with_model, with_model_alone
from fleet.gateway.dialects.model_list import require_capability
from fleet.gateway.dispatch import EVENTS, JSON, Dispatch, NodeRequest
from fleet.gateway.http.errors import UpstreamError
from fleet.gateway.http.response import UpstreamResponse
from fleet.gateway.limits.estimate import asked_of, estimate
from fleet.gateway.limits.keys import check_model
from fleet.gateway.limits.limiter import Reservation
from fleet.gateway.nodes.adapter import INTERNAL, as_note
from fleet.gateway.record import metrics
from fleet.gateway.record.draft import RecordDraft
from fleet.gateway.relay import Relay
from fleet.records import Outcome
from fleet.snapshot import KeyView, ModelOffer
from fleet.translation import failure_alone
from neuron.wire import ApiError

log = logging.getLogger("cortex.request")

IGNORED = "x-cortex-ignored"
CLIENT_LEFT = 499  # nginx's status for a client that went away
PATIENCE_S = 5.0  # how long a streaming client waits for a head, and then between comments
_BUG = ApiError(500, "internal_error", "The gateway failed; its log has the reason.")
_STOPPING = ApiError(503, "gateway_stopping", "The gateway was stopped within the answer.", retry_after_s=3)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_WORKER = os.urandom(8).hex()  # with a count, for ids that need no system call
_numbers = count(1)


def request_id(request: Request) -> str:
    """The client's `x-request-id` when it is harmless to log, else a new one."""
    given = request.header(b"x-request-id")
    return given if given and _REQUEST_ID.fullmatch(given) else f"req-{_WORKER}{next(_numbers):010x}"


class _Closable(Protocol):
    def close(self) -> None: ...


class _Pending:
    """A request on its way to a node. `close` gives it up."""

    def __init__(self, sending: Coroutine[Any, Any, UpstreamResponse]) -> None:
        self.task = asyncio.create_task(sending)

    def close(self) -> None:
        self.task.cancel()
        self.task.add_done_callback(_close_response)


class Exchange:
    """One request. The endpoint makes it, and `run` answers it."""

    _reservation: Reservation | None = None  # of a key with limits
    _held: _Closable | None = None  # at a node: a pending request, then its response
    _ignored: tuple[str, ...] = ()  # fields of the client's that nobody knows
    _finished = False

    def __init__(self, plane: DataPlane, request: Request, dialect: Dialect) -> None:
        self._plane = plane
        self._request = request
        self._dialect = dialect
        self.request_id = request_id(request)
        self._draft = RecordDraft(self.request_id, dialect.name)

    async def run(self) -> HttpResponseBase:
        try:
            return await self._run()
        except ApiError as error:
            return self._refuse(error)
        except asyncio.CancelledError:
            if self._request.is_open:  # the client is there: this worker stops
                return self._refuse(_STOPPING)
            self.close()
            raise
        except Exception:
            log.exception("request failed", extra={"request_id": self.request_id})
            return self._refuse(_BUG)

    async def _run(self) -> HttpResponseBase:
        plane = self._plane
        draft = self._draft
        snapshot = plane.fleet.snapshot
        key = plane.authorize(self._request)
        headers = {"content-type": "application/json", "x-request-id": self.request_id}
        if key is not None:
            draft.key = key.name
            headers |= key.caller_headers
        call = await self._dialect.prepare(self._request.body, key)
        draft.model = model = snapshot.resolve(call.model)
        draft.stream = call.stream
        self._ignored = call.ignored
        check_model(key, model)
        offer = snapshot.offer(model)
        if offer is None:
            message = f"The model '{call.model}' does not exist; GET /v1/models lists those that do."
            raise ApiError(404, "model_not_found", message, param="model")
        require_capability(offer, call)
        if call.needs == "vision":
            call = await plane.images.admit(call, self._request.body)
        if key is not None and key.limits:
            self._reservation = await self._reserve(key, call, offer)
        body = call.body if model == call.model else with_model(call.body, model)
        if key is not None and key.models:
            body = with_model_alone(body, model)
        answer_type = EVENTS if call.stream else JSON
        request = NodeRequest(model, call.node_path, headers, body, answer_type, draft.received)
        answer = self._dialect.answer(call, self.request_id)
        dispatch = Dispatch(plane, request, draft.follow)
        if not call.stream:
            return await self._whole(dispatch, answer)
        sending = dispatch.send()
        if snapshot.replicas(model):
            return self._streamed(await sending, call, answer)
        return await self._stream_cold(_Pending(sending), call, answer)

    def _reserve(self, key: KeyView, call: Call, offer: ModelOffer) -> Coroutine[Any, Any, Reservation]:
        """Raises `LimitExceededError`. What is reserved here is settled in `_finish`."""
        plane = self._plane
        asked = call.asked or asked_of(call.body)
        default = plane.config.gateway.reserve_tokens
        prompt, answer = estimate(len(call.body), asked, context=offer.context, answer=default)
        self._draft.prompt_estimate = prompt = prompt * call.prompt_tokens
        return plane.limiter.reserve(key, prompt + answer * call.answer_tokens, self._dialect.limit_headers)

    # --- answers ---

    async def _whole(self, dispatch: Dispatch, answer: AnswerRewriter) -> BytesResponse:
        body = await self._read(await dispatch.send())
        while failure := failure_alone(body):
            dispatch.refuse(failure.as_error())
            body = await self._read(await dispatch.send())
        content = answer.whole(body)
        self._finish("ok", 200)
        return BytesResponse(content, headers=self._headers("application/json"))

    async def _read(self, response: UpstreamResponse) -> bytes:
        self._held = response
        try:
            body = await response.read(self._plane.config.gateway.max_body_bytes)
            self._draft.note_answer(body)
        except UpstreamError as error:
            raise self._lost(error) from error
        return body

    def _streamed(self, response: UpstreamResponse, call: Call, answer: AnswerRewriter) -> StreamResponse:
        self._held = response
        return self._stream_response(answer, lambda sink: self._relay(response, call, answer, sink))

    async def _stream_cold(self, pending: _Pending, call: Call, answer: AnswerRewriter) -> HttpResponseBase:
        """A quick load or refusal keeps its status; a long one is waited for with comments, or their like."""
        self._held = pending
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

        headers = self._headers(answer.stream_type)
        headers |= {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamResponse(produce, headers=headers, on_close=self.close)

    async def _outcome(self, relaying: Awaitable[None], sink: Sink) -> ApiError | None:
        """Write a stream. Returns the error that is to be its last event."""
        try:
            await relaying
        except ApiError as error:
            self._finish("error", 200, error.code)
            return error
        except asyncio.CancelledError:
            if sink.is_open:  # the client is there: this worker stops
                self._finish("error", 200, _STOPPING.code)
                return _STOPPING
            self.close()
            raise
        except Exception:
            log.exception("stream failed", extra={"request_id": self.request_id})
            self._finish("error", 200, _BUG.code)
            return _BUG
        return None

    async def _wait_and_relay(
        self, pending: _Pending, call: Call, answer: AnswerRewriter, sink: Sink
    ) -> None:
        while not pending.task.done():
            await sink(answer.waiting(self._plane.loader.progress(self._draft.model)))
            await asyncio.wait({pending.task}, timeout=PATIENCE_S)
        self._held = response = pending.task.result()
        await self._relay(response, call, answer, sink)

    async def _relay(
        self, response: UpstreamResponse, call: Call, answer: AnswerRewriter, sink: Sink
    ) -> None:
        relay = Relay(answer, sink, hide_usage=call.hide_usage)
        try:
            await relay.run(response)
        except UpstreamError as error:
            raise self._lost(error) from error
        finally:
            self._draft.note_stream(relay.passed)
        if relay.failed:
            self._finish("error", 200, "node_error_event")
        else:
            self._finish("ok", 200)

    # --- ends ---

    def _lost(self, cause: UpstreamError) -> ApiError:
        node = self._draft.trail.node
        metrics.UPSTREAM_FAILURES.labels(node, cause.kind).inc()
        message = f"The node '{node}' was lost within the answer: {cause}."
        return ApiError(503, "node_lost", message, retry_after_s=3)

    def _refuse(self, error: ApiError) -> BytesResponse:
        self._finish("error" if error.status >= 500 else "rejected", error.status, error.code)
        headers = self._headers("application/json") | error.headers
        return BytesResponse(self._dialect.error_body(error), status=error.status, headers=headers)

    def close(self) -> None:
        """End the exchange if nothing else has: its client left."""
        self._finish("cancelled", CLIENT_LEFT, "client_closed_request")

    def _headers(self, content_type: str) -> dict[str, str]:
        trail = self._draft.trail
        headers = {"content-type": content_type, "x-request-id": self.request_id}
        if trail.node:
            headers |= {f"{INTERNAL}{name}": text for name, text in trail.notes}
            headers["x-cortex-node"] = trail.node
            headers["x-cortex-queue-ms"] = f"{trail.queue_s * 1e3:.0f}"
            headers["x-cortex-retries"] = str(trail.retries)
            headers["x-cortex-overhead-us"] = f"{(trail.overhead_s or 0.0) * 1e6:.0f}"
        elif (wait_s := self._plane.loader.expected_wait_s(self._draft.model)) is not None:
            headers["x-cortex-expected-wait-s"] = str(math.ceil(wait_s))
        if self._ignored:
            by_node = headers.get(IGNORED, "")
            headers[IGNORED] = as_note(", ".join(filter(None, (*self._ignored, by_node))))
        if self._reservation is not None:
            headers |= self._reservation.headers
        return headers

    def _finish(self, outcome: Outcome, status: int, error_code: str = "") -> None:
        """End the exchange: the first call decides how. What it holds is given up here and nowhere else."""
        if self._finished:
            return
        self._finished = True
        if self._held is not None:
            self._held.close()
        draft, reservation = self._draft, self._reservation
        if reservation is not None:
            used = draft.charge(outcome, reservation.grant.tokens)
            self._plane.limiter.settle(reservation, used)
        self._plane.recorder.put(draft.record(outcome, status, error_code), draft.gaps)


def _close_response(task: asyncio.Task[UpstreamResponse]) -> None:
    """Close a response that arrived while its client was leaving."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()
