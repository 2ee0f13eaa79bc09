"""Requests for models that another server of this host answers for, passed on before an endpoint sees them.

What the server accepts is its own business, so bodies and answers pass as they are. What ends a request
between here and there becomes an error in OpenAI's envelope, within a stream as an event.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from http import HTTPStatus

import msgspec
from django.http.response import HttpResponseBase
from msgspec import Struct

from cortex_site.http.content_coding import decoded
from cortex_site.http.parsed_request import BadRequestError
from cortex_site.http.request import Request
from cortex_site.http.response import BytesResponse, Sink, StreamResponse
from neuron import sse
from neuron.api.answers.chunks import error_chunk
from neuron.api.errors import internal_error
from neuron.api.request import log_fields, request_id
from neuron.config import NeuronConfig
from neuron.harness import RelayedAnswer, RelayedModel
from neuron.registry import Registry
from neuron.wire import ApiError

log = logging.getLogger("neuron.relay")

MAX_ANSWER_BYTES = 64 << 20  # of a whole answer
DONE = b"data: [DONE]"
EVENT_ENDS = (b"\n\n", b"\r\n\r\n")
_NODE = ("/models/", "/devices/")  # paths of this node's own verbs


class _ModelKey(Struct):
    model: str | msgspec.UnsetType = msgspec.UNSET


_model_key = msgspec.json.Decoder(_ModelKey)


class RequestRelay:
    """Answers the requests whose model is a `RelayedModel`."""

    def __init__(self, registry: Registry, config: NeuronConfig) -> None:
        self._registry = registry
        self._config = config
        self._closing: set[asyncio.Task[None]] = set()

    async def respond(self, request: Request) -> HttpResponseBase | None:
        """The server's answer; None for a request that this process answers itself. Raises `ApiError`."""
        if request.method != "POST" or request.path.startswith(_NODE) or not self._registry.has_relayed:
            return None
        body = await self._body(request)
        model = self._model(body)
        if model is None:
            return None
        log_fields(request)["model"] = model.id
        if request.path not in model.paths:
            raise ApiError(404, "not_found", f"The server of {model.id!r} has no {request.path}.")
        answer = await model.ask(request.path, body, request_id(request))
        if answer.status < HTTPStatus.BAD_REQUEST and answer.content_type.startswith("text/event-stream"):
            return self._streamed(answer)
        try:
            return await _whole(answer)
        finally:
            await answer.close()

    async def _body(self, request: Request) -> bytes:
        """The body without its content coding; empty where an endpoint is to refuse it."""
        if b"content-encoding" not in request.parsed.headers:
            return request.body
        try:
            return await decoded(request.parsed, self._config.max_body_bytes)
        except BadRequestError:
            return b""

    def _model(self, body: bytes) -> RelayedModel | None:
        try:
            name = _model_key.decode(body).model
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None  # an endpoint says what is wrong
        return None if name is msgspec.UNSET else self._registry.relayed_model(name)

    def _streamed(self, answer: RelayedAnswer) -> StreamResponse:
        begun = False

        async def produce(write: Sink) -> None:
            nonlocal begun
            begun = True
            try:
                await _copy(answer, write, self._config.stream.keepalive_s)
            except ApiError as error:
                await write(error_chunk(error))
            except Exception:  # the head is sent, so no other place can report it
                log.exception("relay failed")
                await write(error_chunk(internal_error()))
            finally:
                await answer.close()

        def close() -> None:
            if not begun:  # its client went before the first byte
                closing = asyncio.create_task(answer.close())
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)

        return StreamResponse(produce, headers=sse.HEADERS, on_close=close)


async def _copy(answer: RelayedAnswer, write: Sink, keepalive_s: float) -> None:
    """Write the chunks, and comments while none comes. Raises `ApiError` unless [DONE] was the last."""
    end = b"\n\n"
    async with aclosing(answer.chunks()) as chunks:
        while chunk := await _next(chunks, write, keepalive_s if end.endswith(EVENT_ENDS) else None):
            await write(chunk)
            end = (end + chunk)[-len(DONE) - 8 :]
    if DONE not in end:
        raise ApiError(503, "worker_lost", "The server went away within its answer.")


async def _next(chunks: AsyncGenerator[bytes], write: Sink, keepalive_s: float | None) -> bytes:
    """The next chunk, empty at the end; a comment is written whenever it is not there after `keepalive_s`."""
    following = asyncio.ensure_future(anext(chunks, b""))
    try:
        while not (await asyncio.wait({following}, timeout=keepalive_s))[0]:
            await write(sse.KEEPALIVE)
        return following.result()
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def _whole(answer: RelayedAnswer) -> BytesResponse:
    content = bytearray()
    async for chunk in answer.chunks():
        content += chunk
        if len(content) > MAX_ANSWER_BYTES:
            raise ApiError(502, "engine_error", f"The answer has more than {MAX_ANSWER_BYTES} bytes.")
    if answer.status >= HTTPStatus.BAD_REQUEST and (error := stated_error(answer.status, bytes(content))):
        raise error
    kind = answer.content_type or "application/json"
    return BytesResponse(bytes(content), status=answer.status, headers={"content-type": kind})


def stated_error(status: int, body: bytes) -> ApiError | None:
    """The error that a server states in an envelope of its own; None where OpenAI's is there already."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = None
    if not isinstance(found, dict):
        found = {}
    if isinstance(found.get("error"), dict):
        return None
    message = next((found[key] for key in ("message", "error", "detail") if found.get(key)), None)
    text = message if isinstance(message, str) else f"The server answered {status}."
    return ApiError(status, "engine_error", text)
