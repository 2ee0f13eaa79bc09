from __future__ import annotations

import logging
from typing import Any

from django.http import HttpRequest, HttpResponse
from ninja import NinjaAPI
from ninja.errors import HttpError, ValidationError

from cortex_site.base.version import VERSION
from cortex_site.http.application import Application
from neuron.api import chat, completions, embeddings, node, tokenize
from neuron.api.edge import ASGIApp, Edge, error_response, log_fields
from neuron.api.schemas import COMPONENTS
from neuron.daemon import Daemon
from neuron.wire import ApiError

log = logging.getLogger("neuron.api")

HTTP_CODES = {400: "malformed_json", 404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}


def build_api(daemon: Daemon) -> NinjaAPI:
    """All operations of a neuron, with every error in OpenAI's envelope."""
    api = NinjaAPI(title="neuron", version=VERSION, docs_url=None, openapi_url=None)
    api.add_router("", node.router(daemon))
    for module in (chat, completions, embeddings, tokenize):
        api.add_router("", module.router(daemon))
    api.add_exception_handler(ApiError, _answer_error)
    api.add_exception_handler(HttpError, _answer_http_error)
    api.add_exception_handler(ValidationError, _answer_validation_error)
    api.add_exception_handler(Exception, _answer_bug)

    async def openapi(request: HttpRequest) -> Any:
        schema = api.get_openapi_schema(path_prefix="")
        schema["components"]["schemas"] |= COMPONENTS
        return schema

    api.get("/openapi.json", include_in_schema=False)(openapi)
    return api


def build_app(daemon: Daemon) -> ASGIApp:
    """The ASGI application that `neuron serve` runs; its lifespan is the daemon's."""
    application = Application(
        build_api(daemon), max_body_bytes=daemon.config.max_body_bytes, lifespan=daemon.running
    )
    return Edge(application, token=daemon.config.token, allow_anonymous=daemon.config.allow_anonymous)


def _answer_error(request: HttpRequest, error: ApiError | type[ApiError]) -> HttpResponse:
    assert isinstance(error, ApiError)
    log_fields(request)["code"] = error.code
    return error_response(error)


def _answer_http_error(request: HttpRequest, error: HttpError | type[HttpError]) -> HttpResponse:
    assert isinstance(error, HttpError)
    code = HTTP_CODES.get(error.status_code, "http_error")
    return _answer_error(request, ApiError(error.status_code, code, error.message))


def _answer_validation_error(
    request: HttpRequest, error: ValidationError | type[ValidationError]
) -> HttpResponse:
    assert isinstance(error, ValidationError)
    first = error.errors[0]
    param = ".".join(str(part) for part in first["loc"][2:]) or None  # after "body" and the argument's name
    message = f"{param or 'body'}: {first['msg']}"
    return _answer_error(request, ApiError(400, "invalid_request_body", message, param=param))


def _answer_bug(request: HttpRequest, error: Exception | type[Exception]) -> HttpResponse:
    assert isinstance(error, Exception)
    log_fields(request)["exception"] = repr(error)
    log.error("operation failed", exc_info=(type(error), error, error.__traceback__))
    return error_response(ApiError(500, "internal_error", "neuron made a mistake; its log has the details."))
