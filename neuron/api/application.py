"""The HTTP application of a neuron: what is the same for every request is its access, id and log line."""

from __future__ import annotations

import hmac
import logging
import re
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from django.http.response import HttpResponseBase
from ninja import NinjaAPI

from cortex_site.base.tracing import Tracer
from cortex_site.http.application import Application
from cortex_site.http.bounds import RequestBounds
from cortex_site.http.locality import Locality
from cortex_site.http.origins import Origins
from cortex_site.http.parsed_request import ParsedRequest
from cortex_site.http.request import Request
from cortex_site.http.response import Response
from neuron.api import traces
from neuron.api.errors import refused
from neuron.api.relay import RequestRelay
from neuron.api.request import RequestLog, account, request_id
from neuron.config import NeuronConfig
from neuron.wire import ApiError

log = logging.getLogger("neuron.http")

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_CURE = "Set `token` in neuron.toml and send it as `Authorization: Bearer …`, or set `allow_anonymous = true`"


class TokenCheck:
    """Says who may send requests: with a token whoever has it, without one this machine's own user."""

    def __init__(self, config: NeuronConfig) -> None:
        self._token = config.token.encode() if config.token else None
        self._allow_anonymous = config.allow_anonymous
        self._locality = Locality(config.allowed_hosts, Origins(()))

    def refusal(self, request: Request) -> ApiError | None:
        if self._token is not None:
            return None if self._has_token(request, self._token) else _wrong_token()
        if self._allow_anonymous or (why := self._locality.objection(request)) is None:
            return None
        message = (
            f"This neuron serves its own machine only and refuses this request: {why}. For more, {_CURE}."
        )
        return ApiError(401, "invalid_api_key", message)

    @staticmethod
    def _has_token(request: Request, token: bytes) -> bool:
        return hmac.compare_digest((request.bearer or "").encode(), token)


def _wrong_token() -> ApiError:
    return ApiError(401, "invalid_api_key", "The token is missing or wrong (`Authorization: Bearer …`).")


class NeuronApplication(Application):
    """An `Application` whose requests have an id, pass `TokenCheck`, and are logged once each."""

    def __init__(
        self,
        api: NinjaAPI,
        config: NeuronConfig,
        relay: RequestRelay,
        lifespan: Callable[[], AbstractAsyncContextManager[Any]],
        *,
        tracer: Tracer | None = None,
    ) -> None:
        self._access = TokenCheck(config)
        self._relay = relay
        self._tracer = tracer
        bounds = RequestBounds.of(config)
        super().__init__(api, bounds=bounds, judge=self._access.refusal, lifespan=lifespan)

    async def respond(self, request: Request) -> HttpResponseBase:
        given = request.header(b"x-request-id") or ""
        request.account = RequestLog(given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(12))
        is_readable = request.parsed.refusal is None  # else that is what its client is told
        if is_readable and (refusal := self._access.refusal(request)) is not None:
            return self._api.on_exception(request, refusal)
        try:
            relayed = await self._relay.respond(request) if is_readable else None
        except ApiError as error:
            return self._api.on_exception(request, error)
        return relayed or await super().respond(request)

    def refuse(self, request: Request, status: int, message: str) -> HttpResponseBase:
        return self._api.on_exception(request, refused(status, message))

    def finish(self, request: ParsedRequest | Request, response: HttpResponseBase) -> Any:
        assert isinstance(request, Request)  # no operation here has an endpoint
        told = {"x-request-id": request_id(request), **account(request).headers}
        if isinstance(response, Response):
            response.headers = response.headers | told  # a new one: streams share a constant
        for name, value in told.items():
            response.headers[name] = value
        return super().finish(request, response)

    def ended(self, request: Request, response: HttpResponseBase | None) -> None:
        mine = account(request)
        fields = mine.fields | {"status": response.status_code if response else None}
        if response is None:
            fields["code"] = "client_gone"
        fields["duration_ms"] = round(1000 * (time.monotonic() - mine.started), 1)
        fields["client"] = request.peer or "localhost"  # no address: a unix socket
        is_poll = request.method == "GET" and fields["status"] == 200
        level = logging.DEBUG if is_poll else logging.INFO
        log.log(level, "request", extra={"method": request.method, "path": request.path} | fields)
        if self._tracer is not None and not is_poll and (given := request.header(traces.HEADER)):
            traces.tell(self._tracer, given, request.path, fields, fields["duration_ms"] / 1000)
