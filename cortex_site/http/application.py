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
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

from django.http.response import HttpResponseBase
from ninja import NinjaAPI
from ninja.errors import HttpError
from ninja.operation import Operation

from cortex_site.http.asgi import Receive, Scope, Send, cancel_on_disconnect, run_lifespan, send_response
from cortex_site.http.request import Request

log = logging.getLogger("cortex.http")


class ClientGoneError(Exception):
    """The client closed its connection before its request was read."""


class Application:
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
                await run_lifespan(self._lifespan, receive, send)
            case _:
                await send({"type": "websocket.close", "code": 1003})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await self._read_body(scope, receive)
        except ClientGoneError:
            return
        except HttpError as error:
            await send_response(self.refuse(Request(scope, b""), error), send)
            return
        request = Request(scope, body)
        task = asyncio.current_task()
        assert task is not None
        watcher = asyncio.create_task(cancel_on_disconnect(receive, task))
        try:
            await send_response(await self.respond(request), send)
        except asyncio.CancelledError:
            if not watcher.done():  # the server itself is stopping, not the client going away
                raise
        finally:
            watcher.cancel()

    async def respond(self, request: Request) -> HttpResponseBase:
        """The answer to a request that was read whole, whatever becomes of it."""
        bare = self._bare.get(request.path)
        if bare is not None and (operation := bare.get(request.method or "")) is not None:
            try:  # what `operation.run` does for one without parameters, and nothing else
                return self._shaped(operation, request, await operation.view_func(request))
            except Exception as error:  # noqa: BLE001 - the API's handlers tell them apart
                return self._api.on_exception(request, error)
        return await self._run(request)

    async def _run(self, request: Request) -> HttpResponseBase:
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

    def _shaped(self, operation: Operation, request: Request, result: Any) -> HttpResponseBase:
        if isinstance(result, HttpResponseBase):
            return result
        blank = self._api.create_temporal_response(request)
        return operation._result_to_response(request, result, blank)  # noqa: SLF001 - ninja's own shaping

    def refuse(self, request: Request, error: HttpError) -> HttpResponseBase:
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
                raise TypeError(f"{full}: an operation behind Application must be async")
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
