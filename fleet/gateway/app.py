"""The application that a data-plane worker serves: the `/v1` API as ninja operations.

Each operation parses, calls one verb, and shapes the answer.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from django.http import HttpRequest, HttpResponse
from ninja import NinjaAPI
from ninja.errors import HttpError, ValidationError

from cortex_site.base.version import VERSION
from cortex_site.http.application import Application
from cortex_site.http.bounds import RequestBounds
from cortex_site.http.request import Request
from fleet.gateway.background import Background
from fleet.gateway.data_plane import DataPlane
from fleet.gateway.dialects.base import Dialect
from fleet.gateway.dialects.chat import CHAT
from fleet.gateway.dialects.messages import MESSAGES
from fleet.gateway.dialects.ollama import is_ollama_path
from fleet.gateway.exchange import request_id
from fleet.gateway.operations.batches import declare_batches, declare_files
from fleet.gateway.operations.elsewhere import declare_elsewhere
from fleet.gateway.operations.inference import declare_inference
from fleet.gateway.operations.models import declare_models, declare_probes, speaks_anthropic
from fleet.gateway.operations.ollama import declare_ollama, declare_ollama_models
from fleet.gateway.operations.responses import (
    declare_conversations,
    declare_responses,
    declare_stored_responses,
)
from fleet.gateway.record import metrics
from fleet.translation import ollama
from neuron.wire import ApiError

log = logging.getLogger("cortex.http")

RETRY_S = 3  # another gateway answers at once, this one after its restart or the end of other requests

_CODES = {
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "request_too_large",
    415: "unsupported_encoding",
    429: "gateway_busy",
    431: "request_head_too_large",
    501: "unsupported_transfer_coding",
    503: "gateway_stopping",
}


def application(plane: DataPlane) -> Application:
    """The ASGI application of one worker. Its lifespan runs the worker's tasks."""
    settings = plane.config.gateway
    background = Background(plane, plane.config.responses.max_background)
    return Application(
        make_api(plane, background),
        bounds=RequestBounds.of(settings),
        judge=plane.judge,
        compress_from_bytes=settings.compress_from_bytes,
        origins=plane.origins if settings.allowed_origins else None,
        lifespan=partial(_running, plane, background),
    )


@asynccontextmanager
async def _running(plane: DataPlane, background: Background) -> AsyncIterator[None]:
    async with plane.running():
        try:
            yield
        finally:
            await background.close()


def make_api(plane: DataPlane, background: Background) -> NinjaAPI:
    """Return the endpoints of one worker; `get_openapi_schema` describes them."""
    api = NinjaAPI(title="cortex", version=VERSION, urls_namespace="gateway", docs_url=None)
    _handle_errors(api)
    declare_inference(api, plane)
    declare_responses(api, plane, background)
    declare_stored_responses(api, plane)
    declare_conversations(api, plane)
    declare_models(api, plane)
    if plane.config.gateway.ollama:
        declare_ollama(api, plane)
        declare_ollama_models(api, plane)
    declare_probes(api, plane)
    declare_files(api, plane)
    declare_batches(api, plane)
    declare_elsewhere(api)

    @api.get("/openapi.json", include_in_schema=False)
    async def openapi(request: Request) -> dict[str, Any]:
        if not plane.config.gateway.open_openapi:
            plane.authorize(request)
        return api.get_openapi_schema(path_prefix="")

    return api


def _envelope(request: HttpRequest, error: ApiError) -> bytes:
    if is_ollama_path(request.path):
        return ollama.error_body(error)
    dialect: Dialect = MESSAGES if speaks_anthropic(request) else CHAT
    return dialect.error_body(error)


def _handle_errors(api: NinjaAPI) -> None:
    """Answer whatever an operation raises, and requests that reach none, in the caller's dialect."""

    def answer(request: HttpRequest, error: ApiError) -> HttpResponse:
        ident = request_id(request)
        if error.status < 500:
            metrics.REJECTED.labels(error.code).inc()  # inference counts its own in `MetricsBuffer`
        log.warning(
            "refused",
            extra={
                "request_id": ident,
                "path": request.path,
                "status": error.status,
                "error_code": error.code,
            },
        )
        return HttpResponse(
            _envelope(request, error),
            status=error.status,
            content_type="application/json",
            headers={"x-request-id": ident, **error.headers},
        )

    @api.exception_handler(ApiError)
    def on_api_error(request: HttpRequest, error: ApiError) -> HttpResponse:
        return answer(request, error)

    @api.exception_handler(HttpError)
    def on_http_error(request: HttpRequest, error: HttpError) -> HttpResponse:
        status = error.status_code
        code = _CODES.get(error.status_code, "invalid_request")
        retry_s = RETRY_S if status in {429, 503} else None
        return answer(request, ApiError(status, code, error.message, retry_after_s=retry_s))

    @api.exception_handler(ValidationError)
    def on_validation_error(request: HttpRequest, error: ValidationError) -> HttpResponse:
        return answer(request, ApiError(400, "invalid_request", str(error.errors)))

    @api.exception_handler(Exception)
    def on_bug(request: HttpRequest, error: Exception) -> HttpResponse:
        log.error("request failed", exc_info=error, extra={"path": request.path})
        return answer(request, ApiError(500, "internal_error", "The gateway failed; its log has the reason."))
