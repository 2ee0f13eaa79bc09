"""What is the same for every request: its id, the check of its token, and its log line."""

from __future__ import annotations

import hmac
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

from cortex_site.base.addresses import is_loopback
from cortex_site.http.asgi import Receive, Scope, Send
from neuron.api.errors import encode_envelope
from neuron.api.request import HEADERS, LOG_FIELDS
from neuron.wire import ApiError

log = logging.getLogger("neuron.http")

ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_REQUEST_ID = re.compile(rb"[\w.:-]{1,128}")
_CURE = "set `token` in neuron.toml and send it as `Authorization: Bearer …`, or set `allow_anonymous = true`"


class RequestMiddleware:
    """An ASGI application around another.

    With a `token`, every request must carry it. Without one, clients on this machine are served, and others
    only with `allow_anonymous`.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, allow_anonymous: bool) -> None:
        self._app = app
        self._token = token.encode() if token else None
        self._allow_anonymous = allow_anonymous

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        number = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(12).encode()
        fields: dict[str, Any] = {"request_id": number.decode(), "status": None}
        scope[LOG_FIELDS] = fields
        told: list[tuple[bytes, bytes]] = []
        scope[HEADERS] = told
        started = time.monotonic()

        async def send_with_id(message: Any) -> None:
            if message["type"] == "http.response.start":
                fields["status"] = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", number), *told]
            await send(message)

        try:
            if refusal := self._refusal(scope, headers):
                fields["code"] = refusal.code
                await _send_error(refusal, send_with_id)
            else:
                await self._app(scope, receive, send_with_id)
        finally:
            if fields["status"] is None:
                fields["code"] = "client_gone"
            fields["duration_ms"] = round(1000 * (time.monotonic() - started), 1)
            fields["client"] = _peer(scope)
            _log(scope, fields)

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> ApiError | None:
        if self._token is None:
            if self._allow_anonymous or is_loopback(_peer(scope)):
                return None
            message = f"This neuron serves only its own machine. To change that, {_CURE}."
            return ApiError(401, "invalid_api_key", message)
        scheme, _, credential = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer" and hmac.compare_digest(credential.strip(), self._token):
            return None
        return ApiError(401, "invalid_api_key", "The token is missing or wrong (`Authorization: Bearer …`).")


def _log(scope: Scope, fields: dict[str, Any]) -> None:
    is_poll = scope["method"] == "GET" and fields["status"] == 200
    level = logging.DEBUG if is_poll else logging.INFO
    log.log(level, "request", extra={"method": scope["method"], "path": scope["path"]} | fields)


def _peer(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "localhost"  # no address: a unix socket


async def _send_error(error: ApiError, send: Send) -> None:
    body = encode_envelope(error)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
