"""A light ASGI handler for django-ninja operations.

Django's own ASGI handler starts a thread context, fires signals and walks the URL resolver for every
request; this one finds the operation in a dictionary and awaits it. The gateway's `/v1` and neuron's API run
on it; admin and operator API keep Django's. It imports Django and ninja only, and needs no app registry and
no database.

A client that goes away cancels the operation, in any phase. An operation answers with an `HttpResponse`, or
with a `StreamResponse` that writes itself chunk by chunk.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import cached_property
from typing import Any, Protocol

from django.http import HttpRequest, HttpResponse, QueryDict
from django.http.response import HttpResponseBase
from ninja import NinjaAPI
from ninja.errors import HttpError
from ninja.operation import Operation

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Write = Callable[[bytes], Awaitable[None]]

log = logging.getLogger("cortex.http")


class ClientGoneError(Exception):
    """The client closed its connection before its request was read."""


class LightRequest(HttpRequest):
    """A Django request on an ASGI scope: everything but method and path is built when first asked for."""

    resolver_match = None
    body = b""  # in the place of a property
    transport: asyncio.BaseTransport | None = None  # to the client, where it is known

    def __init__(self, scope: Scope, body: bytes, headers: Mapping[bytes, bytes] | None = None) -> None:
        """`headers` by name, where whoever read them has them so, are in the place of the scope's."""
        # HttpRequest's own __init__ is left out: it builds containers that no operation here reads.
        self.scope = scope
        self.method = scope["method"]
        self.path = self.path_info = scope["path"]
        self.body = self._body = body
        self._by_name = headers

    def header(self, name: bytes) -> str | None:
        """The first header of that name (lower case), decoded; None when absent."""
        by_name = self._by_name
        if by_name is None:
            by_name = self._by_name = dict(reversed(self.scope["headers"]))
        value = by_name.get(name)
        return None if value is None else str(value, "latin-1")

    @property
    def is_open(self) -> bool:
        """False once the client has left, and where that cannot be known."""
        return self.transport is not None and not self.transport.is_closing()

    @property
    def peer(self) -> str:
        """The client's address; empty on a unix socket."""
        client = self.scope.get("client")
        return client[0] if client else ""

    @cached_property
    def GET(self) -> QueryDict:  # noqa: N802 - Django's name
        return QueryDict(self.scope.get("query_string", b""))

    @cached_property
    def COOKIES(self) -> dict[str, str]:  # noqa: N802 - Django's name
        return {}

    @cached_property
    def META(self) -> dict[str, Any]:  # noqa: N802 - Django's name
        meta: dict[str, Any] = {
            "REQUEST_METHOD": self.method,
            "PATH_INFO": self.path,
            "REMOTE_ADDR": self.peer,
        }
        headers = self.scope["headers"] if "headers" in self.scope else (self._by_name or {}).items()
        for key, value in headers:
            name = str(key, "latin-1").upper().replace("-", "_")
            meta[name if name in {"CONTENT_TYPE", "CONTENT_LENGTH"} else f"HTTP_{name}"] = str(
                value, "latin-1"
            )
        return meta


class Sink(Protocol):
    """Where a stream's chunks go."""

    async def __call__(self, chunk: bytes) -> None:
        """Send a chunk, and wait while the client is slow."""

    def put(self, chunk: bytes) -> bool:
        """Send without waiting, from any callback; False when `drain` is to be awaited before more."""

    async def drain(self) -> None: ...

    @property
    def is_open(self) -> bool:
        """False once the client has left."""


class LightResponse(HttpResponseBase):
    """A Django response whose headers are a plain dict with lower-case names; no cookies, no charset."""

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        # HttpResponseBase's own __init__ is left out: it checks and re-encodes what is written here only.
        self.status_code = status
        self.headers = headers

    def close(self) -> None:
        """Nothing is held."""


class BytesResponse(LightResponse):
    """An answer that is there."""

    def __init__(self, content: bytes, *, status: int = 200, headers: dict[str, str]) -> None:
        super().__init__(status, headers)
        self.content = content


class StreamResponse(LightResponse):
    """An answer that writes itself: `produce` is awaited with the `Sink` that sends its chunks.

    `produce` must handle its own failures: once the head is sent, nobody else can tell the client. It is
    cancelled when the client goes away. `on_close` is called once the answer is over, also when `produce`
    was never reached.
    """

    streaming = True

    def __init__(
        self,
        produce: Callable[[Sink], Awaitable[None]],
        *,
        status: int = 200,
        headers: dict[str, str],
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(status, headers)
        self.produce = produce
        self.on_close = on_close

    def __iter__(self) -> Iterator[bytes]:
        raise TypeError("a StreamResponse is served by LightASGI only")


class LightASGI:
    """An ASGI application around the operations of one `NinjaAPI`.

    `max_body_bytes` bounds a request's body (413 beyond it); `lifespan` is entered at start-up and left at
    shut-down. Unknown paths and methods raise ninja's `HttpError` through the API's own handlers, so that
    every error has the API's envelope.
    """

    def __init__(
        self,
        api: NinjaAPI,
        *,
        max_body_bytes: int,
        lifespan: Callable[[], AbstractAsyncContextManager[Any]] = nullcontext,
    ) -> None:
        self._api = api
        self.max_body_bytes = max_body_bytes
        self._lifespan = lifespan
        self._static: dict[str, dict[str, Operation]] = {}
        self._dynamic: list[tuple[re.Pattern[str], dict[str, Operation]]] = []
        self._bare: dict[str, dict[str, Operation]] = {}  # of `_static`, without parameters
        for path, operations in _operations(api):
            self._add(path, operations)

    def _add(self, path: str, operations: dict[str, Operation]) -> None:
        if "{" in path:
            self._dynamic.append((_pattern(path), operations))
            return
        self._static.setdefault(path, {}).update(operations)
        for method, operation in operations.items():
            if _is_bare(operation):
                self._bare.setdefault(path, {})[method] = operation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await self._serve(scope, receive, send)
            case "lifespan":
                await _run_lifespan(self._lifespan, receive, send)
            case _:
                await send({"type": "websocket.close", "code": 1003})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await self._read_body(scope, receive)
        except ClientGoneError:
            return
        except HttpError as error:
            await _send_response(self.refuse(LightRequest(scope, b""), error), send)
            return
        request = LightRequest(scope, body)
        task = asyncio.current_task()
        assert task is not None
        watcher = asyncio.create_task(_cancel_on_disconnect(receive, task))
        try:
            await _send_response(await self.respond(request), send)
        except asyncio.CancelledError:
            if not watcher.done():  # the server itself is stopping, not the client going away
                raise
        finally:
            watcher.cancel()

    async def respond(self, request: LightRequest) -> HttpResponseBase:
        """The answer to a request that was read whole, whatever becomes of it."""
        bare = self._bare.get(request.path)
        if bare is not None and (operation := bare.get(request.method or "")) is not None:
            try:  # what `operation.run` does for one without parameters, and nothing else
                return self._shaped(operation, request, await operation.view_func(request))
            except Exception as error:  # noqa: BLE001 - the API's handlers tell them apart
                return self._api.on_exception(request, error)
        return await self._run(request)

    async def _run(self, request: LightRequest) -> HttpResponseBase:
        operations, arguments = self._find(request.path)
        operation = operations.get(request.method or "")
        if operation is not None:
            result: HttpResponseBase = await operation.run(request, **arguments)
            return result
        if not operations:
            return self.refuse(request, HttpError(404, f"There is no {request.path} here."))
        allowed = ", ".join(sorted(operations))
        error = HttpError(405, f"{request.path} does not take {request.method}; it takes {allowed}.")
        response = self.refuse(request, error)
        response["Allow"] = allowed
        return response

    def _shaped(self, operation: Operation, request: LightRequest, result: Any) -> HttpResponseBase:
        if isinstance(result, HttpResponseBase):
            return result
        blank = self._api.create_temporal_response(request)
        return operation._result_to_response(request, result, blank)  # noqa: SLF001 - ninja's own shaping

    def refuse(self, request: LightRequest, error: HttpError) -> HttpResponseBase:
        """An error in the API's envelope."""
        return self._api.on_exception(request, error)

    @property
    def body_limit(self) -> HttpError:
        return HttpError(413, f"The request body is larger than {self.max_body_bytes} bytes.")

    def too_large(self, headers: Iterable[tuple[bytes, bytes]]) -> HttpError | None:
        """By what a request says of itself."""
        for name, value in headers:
            if name == b"content-length" and value.isdigit() and int(value) > self.max_body_bytes:
                return self.body_limit
        return None

    async def _read_body(self, scope: Scope, receive: Receive) -> bytes:
        if error := self.too_large(scope["headers"]):
            raise error
        parts, size = [], 0
        while (message := await receive())["type"] == "http.request":
            part = message.get("body", b"")
            size += len(part)
            if size > self.max_body_bytes:
                raise self.body_limit
            parts.append(part)
            if not message.get("more_body"):
                return b"".join(parts)
        raise ClientGoneError

    def _find(self, path: str) -> tuple[dict[str, Operation], dict[str, str]]:
        operations = self._static.get(path)
        if operations is not None:
            return operations, {}
        for pattern, candidates in self._dynamic:
            if found := pattern.fullmatch(path):
                return candidates, found.groupdict()
        return {}, {}


def _operations(api: NinjaAPI) -> Iterable[tuple[str, dict[str, Operation]]]:
    for router in api._get_bound_routers():  # noqa: SLF001 - ninja has no public list of its operations
        for path, view in router.path_operations.items():
            full = "/" + "/".join(part.strip("/") for part in (router.prefix, path) if part.strip("/"))
            operations = {method: operation for operation in view.operations for method in operation.methods}
            if not all(operation.is_async for operation in operations.values()):
                raise TypeError(f"{full}: an operation behind LightASGI must be async")
            yield full, operations


def _is_bare(operation: Operation) -> bool:
    """Whether ninja has nothing to read or check before the function runs."""
    checks = operation.auth_callbacks or operation.throttle_objects
    return not (operation.models or checks or operation.stream_format)


def _pattern(path: str) -> re.Pattern[str]:
    """`/models/{path:id}/endpoint` as a regular expression; `path:` lets the value hold slashes."""
    parts = re.split(r"\{(path:)?(\w+)\}", path)
    out = [re.escape(parts[0])]
    for kind, name, literal in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        out += [f"(?P<{name}>{'.+' if kind else '[^/]+'})", re.escape(literal)]
    return re.compile("".join(out))


async def _cancel_on_disconnect(receive: Receive, task: asyncio.Task[Any]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    task.cancel()


async def _send_response(response: HttpResponseBase, send: Send) -> None:
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.items()]
    start = {"type": "http.response.start", "status": response.status_code, "headers": headers}
    if not isinstance(response, StreamResponse):
        assert isinstance(response, BytesResponse | HttpResponse)
        content = response.content
        headers.append((b"content-length", b"%d" % len(content)))
        await send(start)
        await send({"type": "http.response.body", "body": content})
        return

    try:
        await send(start)
        sink = _AsgiSink(send)
        await response.produce(sink)
        await sink.drain()
        await send({"type": "http.response.body", "body": b""})
    finally:
        response.on_close()


class _AsgiSink:
    """A `Sink` on any ASGI server: what is put waits for `drain`."""

    is_open = False  # it cannot be known here: whoever is cancelled takes the client for gone

    def __init__(self, send: Send) -> None:
        self._send = send
        self._unsent: list[bytes] = []

    def put(self, chunk: bytes) -> bool:
        self._unsent.append(chunk)
        return False

    async def drain(self) -> None:
        unsent, self._unsent = self._unsent, []
        if unsent:
            await self._send({"type": "http.response.body", "body": b"".join(unsent), "more_body": True})

    async def __call__(self, chunk: bytes) -> None:
        self.put(chunk)
        await self.drain()


async def _run_lifespan(
    lifespan: Callable[[], AbstractAsyncContextManager[Any]], receive: Receive, send: Send
) -> None:
    await receive()
    started = False
    try:
        async with lifespan():
            started = True
            await send({"type": "lifespan.startup.complete"})
            await receive()
    except Exception as error:  # the server must hear of it, whatever it was
        log.exception("lifespan failed")
        phase = "shutdown" if started else "startup"
        await send({"type": f"lifespan.{phase}.failed", "message": str(error)})
        return
    await send({"type": "lifespan.shutdown.complete"})
