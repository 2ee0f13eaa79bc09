"""What clients of OpenAI's know and no model here does: a 404 that says so, and what there is instead."""

from __future__ import annotations

from http import HTTPMethod

from django.http.response import HttpResponseBase
from ninja import NinjaAPI

from cortex_site.http.request import Request
from neuron.wire import ApiError

_METHODS = [str(method) for method in HTTPMethod if method.value in {"GET", "POST", "DELETE"}]
_SERVED = "/v1/chat/completions, /v1/responses, /v1/messages, /v1/completions, /v1/embeddings and /v1/models"
_REASONS = {
    "moderations": "nothing is moderated; ask a chat model to judge a text",
    "audio": "no model here hears or speaks",
    "images": "no model here draws; chat models read images in messages",
    "videos": "no model here films",
    "realtime": "no model here hears or speaks",
    "fine_tuning": "models are not trained here",
    "assistants": "assistants are not kept; /v1/responses and /v1/conversations are",
    "threads": "threads are not kept; /v1/responses and /v1/conversations are",
    "vector_stores": "documents are not kept; /v1/embeddings makes vectors of them",
}


def declare_elsewhere(api: NinjaAPI) -> None:
    for name, reason in _REASONS.items():
        _declare(api, f"/v1/{name}", reason)


def _declare(api: NinjaAPI, path: str, reason: str) -> None:
    @api.api_operation(_METHODS, path, include_in_schema=False)
    async def refuse(request: Request) -> HttpResponseBase:
        raise _not_served(request.path, reason)

    @api.api_operation(_METHODS, f"{path}/{{path:rest}}", include_in_schema=False)
    async def refuse_below(request: Request, rest: str) -> HttpResponseBase:
        raise _not_served(request.path, reason)


def _not_served(path: str, reason: str) -> ApiError:
    return ApiError(404, "not_served", f"{path} is not served here: {reason}. Served are {_SERVED}.")
