"""The HTTP application around a `NinjaAPI`. The gateway's `/v1` and neuron's API run on it.

For every request Django's own ASGI handler starts a thread context, sends signals and walks the URL
resolver; this one finds the operation in a dictionary and awaits it. It needs no app registry and no
database. Admin and operator API use Django's.

A client that disconnects cancels its operation at any point. An operation returns an `HttpResponse`, or one
of the responses in `cortex_site.http.response`.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

from django.http import HttpResponse
from django.http.response import HttpResponseBase
from ninja import NinjaAPI
from ninja.errors import HttpError

from cortex_site.http.answering import Endpoint, Rest
from cortex_site.http.asgi import (
    AsgiLine,
    ClientGoneError,
    Receive,
    Scope,
    Send,
    read_request,
    run_lifespan,
    send_response,
)
from cortex_site.http.bounds import HeldBytes, RequestBounds
from cortex_site.http.content_coding import COMPRESS_FROM_BYTES, KNOWN, compress, decoded
from cortex_site.http.origins import VARY, Origins
from cortex_site.http.parsed_request import BadRequestError, ParsedRequest
from cortex_site.http.request import Request
from cortex_site.http.resolver import Resolver
from cortex_site.http.response import BytesResponse, GoingOn, StreamResponse

log = logging.getLogger("cortex.http")


class Application:
    """Answers requests with the operations of one API. It is an ASGI application as well.

    Requests beyond `bounds` are refused. A request of which `judge` makes an exception, once its head is
    there, is refused before its body is read. Whole answers of at least `compress_from_bytes` are compressed
    for clients that accept it, none if that is 0. Pages of `origins` may read answers. `lifespan` is entered
    at start-up and left at shut-down. Every error passes the API's own exception handlers, so that it has the
    API's envelope.
    """

    def __init__(
        self,
        api: NinjaAPI,
        *,
        bounds: RequestBounds,
        judge: Callable[[Request], Exception | None] = lambda _: None,
        compress_from_bytes: int = COMPRESS_FROM_BYTES,
        origins: Origins | None = None,
        lifespan: Callable[[], AbstractAsyncContextManager[Any]] = nullcontext,
    ) -> None:
        self._api = api
        self.bounds = bounds
        self.held = HeldBytes(bounds.max_held_bytes)
        self.judge = judge
        self._origins = origins
        self._shared_with_none = b"" if origins is None else VARY
        self._compress_from_bytes = compress_from_bytes or sys.maxsize
        self._lifespan = lifespan
        self._resolver = Resolver(api)
        self._bare = self._resolver.bare
        self.endpoints = self._resolver.endpoints  # by path and method

    def endpoint(self, request: ParsedRequest) -> Endpoint | None:
        """Return what answers a request without a task; None where it has to pass `respond`."""
        if request.refusal is not None or b"content-encoding" in request.headers:
            return None
        return self.endpoints.get((request.path, request.method))

    def respond(self, request: Request) -> Coroutine[Any, Any, HttpResponseBase]:
        """Return the response to a request. Errors, and requests that are refused, have one as well."""
        parsed = request.parsed
        if parsed.refusal is not None:
            return self._answer_refused(request, parsed.refusal)
        if b"content-encoding" in parsed.headers:
            return self._run_encoded(request)
        operation = self._bare.get((request.path, request.method))
        if operation is not None:
            return self._resolver.run_bare(operation, request)
        return self._run(request)

    async def _answer_refused(self, request: Request, refusal: Exception) -> HttpResponseBase:
        if isinstance(refusal, BadRequestError):
            return self.refuse(request, refusal.status, str(refusal))
        return self._api.on_exception(request, refusal)

    def overloaded(self) -> BadRequestError:
        """Return the refusal of a body that has no room beside the others."""
        message = (
            f"This server holds {self.bounds.max_held_bytes} bytes of requests already; try again later."
        )
        return BadRequestError(429, message)

    async def _run_encoded(self, request: Request) -> HttpResponseBase:
        try:
            request.set_body(await decoded(request.parsed, self.bounds.max_body_bytes))
        except BadRequestError as refusal:
            response = self.refuse(request, refusal.status, str(refusal))
            if refusal.status == 415:
                response["Accept-Encoding"] = KNOWN
            return response
        return await self._run(request)

    async def _run(self, request: Request) -> HttpResponseBase:
        if self._origins is not None and (preflight := self._origins.preflight(request)) is not None:
            return preflight
        operations, arguments = self._resolver.find(request.path)
        operation = operations.get("GET" if request.method == "HEAD" else request.method)
        if operation is not None:
            result: HttpResponseBase = await operation.run(request, **arguments)
            return result
        if not operations:
            return self._refuse_unknown(request)
        allowed = ", ".join(sorted({*operations, "HEAD"} if "GET" in operations else operations))
        response = self.refuse(
            request, 405, f"{request.path} does not take {request.method}; it takes {allowed}."
        )
        response["Allow"] = allowed
        return response

    def _refuse_unknown(self, request: Request) -> HttpResponseBase:
        meant = self._resolver.meant(request.path)
        hint = f", but there is {meant}: check the client's base address" if meant else ""
        return self.refuse(request, 404, f"There is no {request.path} here{hint}.")

    def refuse(self, request: Request, status: int, message: str) -> HttpResponseBase:
        """Return an error in the API's envelope."""
        return self._api.on_exception(request, HttpError(status, message))

    def finish(self, request: ParsedRequest | Request, response: HttpResponseBase) -> Awaitable[None] | None:
        """Make a response ready to be sent: what depends on the request alone, and not on its endpoint.

        Return what is to be awaited for it, if anything.
        """
        if self._origins is not None:
            self._origins.share(request, response)
        if isinstance(response, StreamResponse | GoingOn):
            return None
        assert isinstance(response, BytesResponse | HttpResponse)
        if len(response.content) < self._compress_from_bytes:
            return None
        return compress(response, request.header(b"accept-encoding"))

    def finishing(self, request: ParsedRequest, size: int) -> bytes | None:
        """Return the header lines that make an answer of `size` bytes ready; None where only `finish` can."""
        return None if size >= self._compress_from_bytes else self.sharing(request)

    def sharing(self, request: ParsedRequest) -> bytes:
        """Return the header lines that say which pages may read the answer."""
        if self._origins is None or b"origin" not in request.headers:
            return self._shared_with_none
        return self._origins.lines(request.header(b"origin"))

    async def answer(
        self,
        request: Request,
        send: Callable[[HttpResponseBase], Awaitable[None]],
        rest: Rest | None = None,
    ) -> bool:
        """Answer a request through `send`: by `rest` if an endpoint left it.

        Return whether that went well; what did not is logged.
        """
        response = None
        try:
            response = await (rest() if rest is not None else self._respond_at_a_stop(request))
            if (compressing := self.finish(request, response)) is not None:
                await compressing
            await send(response)
        except Exception:
            log.exception("request failed")
            return False
        finally:
            self.ended(request, response)
        return True

    async def _respond_at_a_stop(self, request: Request) -> HttpResponseBase:
        """Respond, also to a client that is there still when the task that answers it is cancelled."""
        try:
            return await self.respond(request)
        except asyncio.CancelledError:
            if not request.is_open:
                raise
            return self.refuse(request, 503, "The server was stopped within the answer.")

    def ended(self, request: Request, response: HttpResponseBase | None) -> None:
        """Hear of the end of a request: `response` was sent, as far as its client was there to read it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await self._serve(scope, receive, send)
            case "lifespan":
                await run_lifespan(self._lifespan, receive, send)
            case _:
                await send({"type": "websocket.close", "code": 1003})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            parsed = await read_request(scope, receive, self.bounds.max_body_bytes)
        except ClientGoneError:
            return
        line = AsgiLine()
        request = Request(parsed, scope.get("client"), line)
        task, response = asyncio.current_task(), None
        assert task is not None
        watcher = asyncio.create_task(line.cancel_on_disconnect(receive, task))
        try:
            response = await self.respond(request)
            if (compressing := self.finish(request, response)) is not None:
                await compressing
            await send_response(response, send, line, head_only=request.method == "HEAD")
        except asyncio.CancelledError:
            if not watcher.done():  # the server is stopping; the client is still there
                raise
        finally:
            watcher.cancel()
            self.ended(request, response)
