"""The operator API under `/api/`, for `cortex` commands, the admin's live page and scripts.

Staff who are signed in may use it, and holders of the operator token. The token is in `operator_token` in the
state directory, readable by its owner only, who could stop the process as well.
"""

from __future__ import annotations

import secrets
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from ninja import NinjaAPI
from ninja.errors import AuthenticationError, ValidationError
from ninja.security import HttpBearer
from ninja.security.session import SessionAuthIsStaff

from cortex_site.base.secret_file import obtain
from cortex_site.base.version import VERSION
from fleet.api.adding import router as adding
from fleet.api.audit import router as audit
from fleet.api.joining import router as joining
from fleet.api.operations import router as operations
from fleet.api.overview import router as overview
from fleet.api.policy import router as policy
from fleet.permissions import TOKEN_HOLDER
from neuron.wire import ApiError


class OperatorToken(HttpBearer):
    def __init__(self, token: str) -> None:
        super().__init__()
        self._token = token

    def authenticate(self, request: HttpRequest, token: str) -> str | None:
        if secrets.compare_digest(token.encode(), self._token.encode()):
            return TOKEN_HOLDER
        return None


api = NinjaAPI(
    title="cortex operator API",
    version=VERSION,
    auth=[OperatorToken(obtain(settings.OPERATOR_TOKEN_FILE)), SessionAuthIsStaff()],
    urls_namespace="operator",
)
api.add_router("", overview)
api.add_router("", operations)
api.add_router("", adding)
api.add_router("", policy)
api.add_router("", audit)
api.add_router("", joining)


def _answer(request: HttpRequest, error: ApiError) -> HttpResponse:
    response = api.create_response(request, error.envelope(), status=error.status)
    for name, value in error.headers.items():
        response[name] = value
    return response


@api.exception_handler(ApiError)
def _api_error(request: HttpRequest, error: Any) -> HttpResponse:
    return _answer(request, error)


@api.exception_handler(AuthenticationError)
def _not_signed_in(request: HttpRequest, error: Any) -> HttpResponse:
    message = "Sign in as staff, or send the operator token: Authorization: Bearer <operator_token>."
    return _answer(request, ApiError(401, "unauthorized", message))


@api.exception_handler(ValidationError)
def _invalid(request: HttpRequest, error: Any) -> HttpResponse:
    first = error.errors[0]
    param = ".".join(str(part) for part in first["loc"][1:] if part != "payload")
    return _answer(request, ApiError(422, "invalid_request", f"{param}: {first['msg']}", param=param))
