"""Errors of the inference API: made by operations, answered in OpenAI's envelope."""

from __future__ import annotations

import logging

import msgspec
from django.http import HttpRequest, HttpResponse
from ninja import NinjaAPI
from ninja.errors import HttpError, ValidationError

from neuron.api.request import log_fields
from neuron.wire import ApiError

log = logging.getLogger("neuron.api")

HTTP_CODES = {
    400: "malformed_json",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "body_too_large",
    415: "unsupported_encoding",
    429: "node_busy",
    431: "request_head_too_large",
    501: "unsupported_transfer_coding",
    503: "shutting_down",
}


def refused(status: int, message: str) -> ApiError:
    """The error for a request that never reached an operation: how it was sent, or where to, is wrong."""
    code = "invalid_request" if status == 400 else HTTP_CODES.get(status, "http_error")
    return ApiError(status, code, message)


def invalid(param: str, message: str) -> ApiError:
    """A 400 for a parameter whose value cannot be used."""
    return ApiError(400, "invalid_request_body", message, param=param)


def unsupported(param: str, message: str) -> ApiError:
    """A 400 for a parameter that this node or this model does not support."""
    return ApiError(400, "unsupported_parameter", message, param=param)


def internal_error() -> ApiError:
    """A 500 for a mistake of neuron's own; the cause is in the log alone."""
    return ApiError(500, "internal_error", "neuron made a mistake; its log has the details.")


def encode_envelope(error: ApiError) -> bytes:
    return msgspec.json.encode(error.envelope())


def add_error_handlers(api: NinjaAPI) -> None:
    """Answer every exception of an operation, and note its code in the request's log line."""
    api.add_exception_handler(ApiError, _answer_error)
    api.add_exception_handler(HttpError, _answer_http_error)
    api.add_exception_handler(ValidationError, _answer_validation_error)
    api.add_exception_handler(Exception, _answer_bug)


def _answer_error(request: HttpRequest, error: ApiError | type[ApiError]) -> HttpResponse:
    assert isinstance(error, ApiError)
    log_fields(request)["code"] = error.code
    return _response(error)


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
    return _response(internal_error())


def _response(error: ApiError) -> HttpResponse:
    return HttpResponse(
        encode_envelope(error), status=error.status, content_type="application/json", headers=error.headers
    )
