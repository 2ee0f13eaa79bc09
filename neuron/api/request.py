"""What an operation learns from its request besides the body: log line, id, caller and model."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import msgspec
from django.http import HttpRequest

from cortex_site.http.request import Request
from neuron.harness import LocalModel
from neuron.registry import Registry
from neuron.wire import ApiError

MAX_PRINCIPAL_CHARS = 200
MAX_TOLD_CHARS = 480  # of places in a header: the gateway passes 512
_PRIORITY = re.compile(r"-?[0-9]{1,2}")


@dataclass(slots=True)
class RequestLog:
    """What is kept with a request: its id, more fields of its log line, more headers of its response."""

    request_id: str
    fields: dict[str, Any] = field(init=False)
    headers: dict[str, str] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.fields = {"request_id": self.request_id}


@dataclass(frozen=True, slots=True)
class Caller:
    """The principal and priority that the gateway names; the engine's waiting queue goes by them."""

    principal: str
    priority: int


def account(request: HttpRequest) -> RequestLog:
    assert isinstance(request, Request)
    found: RequestLog = request.account
    return found


def log_fields(request: HttpRequest) -> dict[str, Any]:
    """What the request's log line says beyond method, path, status and time; operations add to it."""
    return account(request).fields


def tell_unenforced(request: HttpRequest, places: list[str]) -> None:
    """Say in the log line and in a header which keywords of the body's schemas are not enforced."""
    if not places:
        return
    told = ""
    for index, place in enumerate(places):
        more = f", {quote(place, safe='/$[]. ', errors='replace')}"
        if len(told) + len(more) > MAX_TOLD_CHARS:
            told += f", and {len(places) - index} more"
            break
        told += more
    log_fields(request)["unenforced"] = told[2:]
    account(request).headers["x-cortex-unenforced"] = told[2:]


def request_id(request: HttpRequest) -> str:
    return account(request).request_id


def caller(request: HttpRequest) -> Caller:
    """The caller that the gateway's headers name. Raises `ApiError` 400 that names the header."""
    principal = request.headers.get("x-cortex-principal", "")
    priority = request.headers.get("x-cortex-priority", "0")
    if len(principal) > MAX_PRINCIPAL_CHARS:
        raise _wrong_header("X-Cortex-Principal", f"has more than {MAX_PRINCIPAL_CHARS} characters")
    if not _PRIORITY.fullmatch(priority):
        raise _wrong_header("X-Cortex-Priority", "is not a whole number between -99 and 99")
    return Caller(principal, int(priority))


def _wrong_header(name: str, problem: str) -> ApiError:
    return ApiError(400, "invalid_header", f"The header {name} {problem}.", param=name)


def find_model(registry: Registry, request: HttpRequest, name: str | msgspec.UnsetType) -> LocalModel:
    """The loaded model of that name, which the log line then names too. Raises `ApiError`."""
    assert isinstance(name, str)  # `require_model` refused a body without one
    log_fields(request)["model"] = name
    return registry.local_model(name)
