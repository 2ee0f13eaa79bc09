# cython: language_level=3, boundscheck=False, wraparound=False, annotation_typing=False
"""One client request from its first byte to its record: authorise, reserve, dispatch, answer, record.

Every exchange ends exactly once, in `finish`: answered, refused, failed, or abandoned by its client. Before
the first byte an error has its HTTP status and the dialect's envelope; after it, the error is an event of the
dialect's stream, and the stream ends there.

An ordinary request is answered by callbacks alone, and so is every stream once a node has begun it. One that
has to wait goes on as a detour, a coroutine (`fleet.gateway.detour`), from the step that it has come to.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Coroutine
from functools import partial
from itertools import count
from typing import Any, Protocol

from django.http.response import HttpResponseBase

from cortex_site.http.answering import Asker
from cortex_site.http.parsed_request import ParsedRequest
from cortex_site.http.request import BYTE_ORDER_MARK, Request
from cortex_site.http.response import BytesResponse, fields_of, lines_of
from cortex_site.http.states import END, HEAD, WAITING
from ext.prefetch import Grant
from ext.stream import Outlet
from fleet.gateway.answer_head import answer_lines
from fleet.gateway.data_plane import DataPlane
from fleet.gateway.dialects.base import AnswerRewriter, Call, Dialect
from fleet.gateway.dialects.chat_body import with_model, with_model_alone
from fleet.gateway.dialects.model_list import require_capability
from fleet.gateway.dispatch import EVENTS, JSON, Dispatch, NodeRequest
from fleet.gateway.http.connection import Connection
from fleet.gateway.http.errors import UpstreamError
from fleet.gateway.http.pool import Begun
from fleet.gateway.limits.asked import Asked
from fleet.gateway.limits.estimate import asked_of, estimate
from fleet.gateway.limits.keys import check_model
from fleet.gateway.record import metrics
from fleet.gateway.record.draft import RecordDraft
from fleet.gateway.relay import Relay
from fleet.records import Outcome
from fleet.snapshot import KeyView, ModelOffer
from fleet.translation import failure_alone
from neuron.wire import ApiError

log = logging.getLogger("cortex.request")

CLIENT_LEFT = 499  # nginx's status for a client that went away
STREAM_LINES = b"cache-control: no-cache\r\nx-accel-buffering: no\r\n"
BUG = ApiError(500, "internal_error", "The gateway failed; its log has the reason.")
STOPPING = ApiError(503, "gateway_stopping", "The gateway was stopped within the answer.", retry_after_s=3)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_WORKER = f"req-{os.urandom(8).hex()}"  # with a count, for ids that need no system call
_numbers = count(10**9)


def request_id(request: ParsedRequest | Request) -> str:
    """The client's `x-request-id` when it is harmless to log, else a new one."""
    given = request.header(b"x-request-id")
    return given if given and _REQUEST_ID.fullmatch(given) else _WORKER + str(next(_numbers))


class _Closable(Protocol):
    def close(self) -> None: ...


class Detour(Protocol):
    """Goes on with an exchange that has to wait, and returns the response."""

    def __call__(
        self, exchange: Exchange, body: bytes | None = None
    ) -> Coroutine[Any, Any, HttpResponseBase]: ...


class Exchange:
    """One request. `begin` answers it."""

    def __init__(
        self,
        plane: DataPlane,
        request: ParsedRequest | Request,
        dialect: Dialect,
        client: Asker,
        detour: Detour,
    ) -> None:
        self.plane = plane
        self._request: ParsedRequest | Request | None = request
        self.body = request.body.removeprefix(BYTE_ORDER_MARK)
        self.dialect = dialect
        self.client = client
        self._detour = detour
        self.request_id = request_id(request)
        self.draft = RecordDraft(self.request_id, dialect.name)
        self.entry = self.draft.entry
        self.key: KeyView | None = None
        self.call: Call | None = None  # once it is decoded
        self._offer: ModelOffer | None = None  # once it is admitted
        self.is_admitted = False  # nothing stands against it but the key's limits
        self.grant: Grant | None = None  # of a key with limits
        self.asked: Asked | None = None  # for it, as long as Redis has not answered
        self.dispatch: Dispatch | None = None
        self.held: _Closable | None = None  # at a node: what was begun, a pending request, or its response
        self._begun: Begun | None = None  # at a node, as long as no task waits for its answer
        self._writer: AnswerRewriter | None = None  # of a stream that has begun for the client
        self._outlet: Outlet | None = None  # where it goes
        self._relay: Relay | None = None  # of one that a node has begun
        self._finished = False

    # --- by callbacks ---

    def begin(self) -> None:
        """Send the request to a node, if nothing has to be waited for: `on_news` gets the answer."""
        try:
            if self._decode() and self._reserve() and self._send():
                return
        except Exception as error:  # noqa: BLE001 - whatever it is, the client is answered
            self.client.respond(self.refuse(self.as_error(error)))
            return
        if self.asked is None:
            self.client.hand_over(partial(self._detour, self))

    def on_admission(self, _answer: object) -> None:
        """Go on with what Redis says, unless the client has left."""
        if self._finished:
            return
        try:
            if self._admitted() and self._send():
                return
        except Exception as error:  # noqa: BLE001 - see above
            self.client.respond(self.refuse(self.as_error(error)))
            return
        self.client.hand_over(partial(self._detour, self))

    def on_news(self) -> None:
        """Respond, once the whole answer is there, or a stream's head; else a task takes over."""
        begun, dispatch, call = self._begun, self.dispatch, self.call
        if begun is None or dispatch is None or call is None:
            return
        connection = begun.connection
        state = connection.answer.state
        if not connection.failed():
            if state is WAITING or state is HEAD:
                return
            if (call.stream or state is END) and dispatch.accept(begun):
                self._begun = None
                if call.stream:
                    begun.forget()
                    self.stream(begun.connection)
                else:
                    self._answer(begun)
                return
        self._begun = None
        connection.listen(None)
        self.client.hand_over(partial(self._detour, self))

    def _answer(self, begun: Begun) -> None:
        """Respond with a whole answer."""
        body = begun.connection.body.take()
        begun.close()
        try:
            self.draft.note_answer(body)
            content = None if failure_alone(body) else self.rewriter().whole(body)
        except Exception as error:  # noqa: BLE001 - see above
            self.client.respond(self.refuse(self.as_error(error)))
            return
        if content is None:
            self.client.hand_over(partial(self._detour, self, body))
        else:
            lines = self.lines(JSON)
            self.finish("ok", 200)
            self.client.answer(lines, content)

    # --- a stream, by callbacks ---

    def stream(self, connection: Connection) -> None:
        """Pass a stream on, whose head is there."""
        if not self.client.is_open:
            self.close()
            return
        outlet, call = self._open_stream(), self.call
        assert call is not None and self._writer is not None  # noqa: PT018
        self._relay = relay = Relay(self._writer, outlet, call.hide_usage, self)
        self._forget()
        relay.begin(connection)
        outlet.flush()

    def _open_stream(self) -> Outlet:
        """Begin the client's stream, unless it has begun."""
        if self._outlet is None:
            self._writer = writer = self.rewriter()
            self._outlet = self.client.stream(self.lines(writer.stream_type.encode()) + STREAM_LINES)
            self.plane.open_streams += 1
        return self._outlet

    def say_waiting(self) -> None:
        """Tell a streaming client how far its model's load is, unless it has not read what it was told."""
        outlet = self._open_stream()
        assert self._writer is not None
        if outlet.has_room():
            outlet.put(self._writer.waiting(self.plane.loader.progress(self.entry.model)))

    def _forget(self) -> None:
        """Keep only what the end of a stream needs: it may go on for long."""
        self._request = self.call = self.dispatch = self._offer = None
        self.body = b""

    def go_on(self) -> None:
        if self._relay is not None:
            self._relay.go_on()

    def on_stream_end(self) -> None:
        """Complete the client's stream; its last event may be why the node's is not whole."""
        relay = self._relay
        assert relay is not None
        if not self.client.is_open:
            self.close()
            return
        try:
            last = relay.rest()
        except Exception as error:  # noqa: BLE001 - see above
            self.break_off(self.as_error(error))
            return
        if relay.failed:
            self._end_stream(last, "error", "node_error_event")
        else:
            self._end_stream(last, "ok")

    def break_off(self, error: ApiError) -> None:
        """End a stream with an error as its last event."""
        assert self._writer is not None
        self._end_stream(self._writer.fail(error), "error", error.code)

    def _end_stream(self, last: bytes, outcome: Outcome, error_code: str = "") -> None:
        assert self._outlet is not None
        self._outlet.put(last)
        self.finish(outcome, 200, error_code)
        self.client.end_stream()

    # --- however far it is ---

    def close(self) -> None:
        """End the exchange if nothing else has: its client left."""
        if self.dispatch is not None:
            self.dispatch.abandon()
        self.finish("cancelled", CLIENT_LEFT, "client_closed_request")

    def stop(self) -> None:
        """End the exchange: this worker stops, and the client is there."""
        if self._finished:
            return
        if self._outlet is not None:
            self.break_off(STOPPING)
        else:
            self.client.respond(self.refuse(STOPPING))

    # --- steps that need not wait, each unless it is done; False where one has to ---

    def _decode(self) -> bool:
        plane, request = self.plane, self._request
        assert request is not None
        keys = plane.keys
        self.key = key = keys.authorize(request, plane.fleet.snapshot.configuration)
        if key is not None:
            self.entry.key = key.name
        call = self.dialect.decode_now(self.body, key)
        if call is not None:
            self.admit(call)
        return self.is_admitted

    def admit(self, call: Call) -> None:
        """Take the call, if its key and its model allow it. Raises `ApiError`."""
        entry, snapshot = self.entry, self.plane.fleet.snapshot
        self.call = call
        entry.model = model = snapshot.resolve(call.model)
        entry.stream = call.stream
        check_model(self.key, model)
        offer = snapshot.offer(model)
        if offer is None:
            message = f"The model '{call.model}' does not exist; GET /v1/models lists those that do."
            raise ApiError(404, "model_not_found", message, param="model")
        self._offer = offer
        require_capability(offer, call)
        self.is_admitted = call.needs != "vision"  # whose images are looked at first

    def _reserve(self) -> bool:
        if not self.is_limited():
            return True
        assert self.key is not None
        limiter, tokens = self.plane.limiter, self.estimate()
        prefetch = limiter.prefetches[self.key.digest]
        self.grant = prefetch.admit(self.key, tokens, time.time())
        if self.grant is None:
            self.asked = limiter.ask(self.key, tokens)
            if self.asked is not None:
                self.asked.answer.add_done_callback(self.on_admission)
        return self.grant is not None

    def _admitted(self) -> bool:
        """Take the grant that was asked for; a detour says what else is to be done."""
        if self.asked is not None and self.asked.is_admitted:
            self.grant, self.asked = self.asked.grant, None
        return self.grant is not None

    def is_limited(self) -> bool:
        return self.key is not None and bool(self.key.limits)

    def estimate(self) -> int:
        """The tokens that the request may use."""
        call, plane = self.call, self.plane
        assert call is not None and self._offer is not None  # noqa: PT018
        asked = call.asked or asked_of(call.body)
        default = plane.config.gateway.reserve_tokens
        prompt, answer = estimate(len(call.body), asked, self._offer.context, default)
        self.draft.prompt_estimate = prompt = prompt * call.prompt_tokens
        return prompt + answer * call.answer_tokens

    def _send(self) -> bool:
        self.dispatch = self.make_dispatch()
        self._begun = self.held = begun = self.dispatch.begin()
        if begun is None:
            return False
        begun.connection.listen(self)
        return True

    def make_dispatch(self) -> Dispatch:
        call, key, entry, request = self.call, self.key, self.entry, self._request
        assert call is not None and request is not None  # noqa: PT018
        model = entry.model
        lines = b"content-type: application/json\r\nx-request-id: " + self.request_id.encode() + b"\r\n"
        if self.plane.traces is not None:
            lines += lines_of(self.plane.traces.begin(self.request_id, request.header(b"traceparent")))
        caller = key.caller_lines if key is not None else b""
        body = call.body if model == call.model else with_model(call.body, model)
        if key is not None and key.models:
            body = with_model_alone(body, model)
        answer_type = EVENTS if call.stream else JSON
        asked = NodeRequest(model, call.node_path, lines, caller, body, answer_type)
        return Dispatch(self.plane, asked, entry)

    def rewriter(self) -> AnswerRewriter:
        assert self.call is not None
        return self.dialect.answer(self.call, self.request_id)

    # --- ends ---

    def lost(self, cause: UpstreamError) -> ApiError:
        node = self.entry.node
        metrics.UPSTREAM_FAILURES.labels(node, cause.kind).inc()
        message = f"The node '{node}' was lost within the answer: {cause}."
        return ApiError(503, "node_lost", message, retry_after_s=3)

    def refuse(self, error: ApiError) -> BytesResponse:
        self.finish("error" if error.status >= 500 else "rejected", error.status, error.code)
        headers = fields_of(self.lines(JSON)) | error.headers
        return BytesResponse(self.dialect.error_body(error), status=error.status, headers=headers)

    def as_error(self, error: Exception) -> ApiError:
        """What the client is told of an exception."""
        if isinstance(error, ApiError):
            return error
        if isinstance(error, UpstreamError):
            return self.lost(error)
        log.error("request failed", exc_info=error, extra={"request_id": self.request_id})
        return BUG

    def lines(self, content_type: bytes) -> bytes:
        """The header lines of a response."""
        entry, call, grant = self.entry, self.call, self.grant
        wait_s = None if entry.node else self.plane.loader.expected_wait_s(entry.model)
        lines = answer_lines(content_type, entry, wait_s, () if call is None else call.ignored)
        return lines if grant is None else lines + self.dialect.limit_lines(grant.key.limits, grant)

    def finish(self, outcome: Outcome, status: int, error_code: str = "") -> None:
        """End the exchange: the first call decides how. What it holds is given up here and nowhere else."""
        if self._finished:
            return
        self._finished = True
        draft, grant, relay = self.draft, self.grant, self._relay
        if self._outlet is not None:
            self.plane.open_streams -= 1
        if relay is not None:
            self._relay = None
            draft.note_stream(relay.close())
        if self.held is not None:
            self.held.close()
        if self.asked is not None:
            self.plane.limiter.give_up(self.asked)
        if grant is not None:
            used = draft.charge(outcome, grant.tokens)
            if not grant.end_with(used):
                self.plane.limiter.charge(grant, used)
        self.plane.recorder.put(draft.ended(outcome, status, error_code))
