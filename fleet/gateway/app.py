"""The application that a data-plane worker serves: the `/v1` API as ninja operations.

Each operation parses, calls one verb, and shapes the answer.
"""

from __future__ import annotations

import logging
import math
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from ninja import NinjaAPI
from ninja.errors import HttpError, ValidationError

from cortex_site.base.version import VERSION
from cortex_site.http.application import Application
from cortex_site.http.bounds import RequestBounds
from cortex_site.http.request import Request
from fleet.gateway import load_requests
from fleet.gateway.data_plane import DataPlane
from fleet.gateway.dialects import model_list, ollama_models
from fleet.gateway.dialects import responses as responses_api
from fleet.gateway.dialects.base import Dialect
from fleet.gateway.dialects.chat import CHAT, COMPLETIONS, EMBEDDINGS, TOKENIZE
from fleet.gateway.dialects.messages import COUNT_TOKENS, MESSAGES
from fleet.gateway.dialects.ollama import (
    EmbedDialect,
    EmbeddingsDialect,
    GenerateDialect,
    OllamaDialect,
    is_ollama_path,
)
from fleet.gateway.exchange import Exchange, request_id
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
    return Application(
        _make_api(plane),
        bounds=RequestBounds(
            settings.max_body_bytes,
            settings.max_held_bytes,
            head_s=settings.head_timeout_s,
            body_s=settings.body_timeout_s,
        ),
        judge=plane.judge,
        compress_from_bytes=settings.compress_from_bytes,
        origins=plane.origins if settings.allowed_origins else None,
        lifespan=plane.running,
    )


def _body_schema(required: list[str]) -> dict[str, Any]:
    """The OpenAPI description of a body. Bodies pass as bytes, so no schema class describes them."""
    schema = {
        "type": "object",
        "required": required,
        "properties": {
            "model": {"type": "string", "example": "helexa-tiny"},
            "messages": {"type": "array", "items": {"type": "object"}},
            "input": {"type": ["string", "array"]},
            "prompt": {"type": ["string", "array"]},
            "max_tokens": {"type": "integer"},
            "stream": {"type": "boolean"},
        },
    }
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _make_api(plane: DataPlane) -> NinjaAPI:
    api = NinjaAPI(title="cortex", version=VERSION, urls_namespace="gateway", docs_url=None)
    _handle_errors(api)
    _declare_inference(api, plane)
    _declare_stored_responses(api, plane)
    _declare_models(api, plane)
    if plane.config.gateway.ollama:
        _declare_ollama(api, plane)
        _declare_ollama_models(api, plane)
    _declare_probes(api, plane)

    @api.get("/openapi.json", include_in_schema=False)
    async def openapi(request: Request) -> dict[str, Any]:
        if not plane.config.gateway.open_openapi:
            plane.authorize(request)
        return api.get_openapi_schema(path_prefix="")

    return api


def _declare_inference(api: NinjaAPI, plane: DataPlane) -> None:
    @api.post("/v1/chat/completions", tags=["OpenAI"], openapi_extra=_body_schema(["model", "messages"]))
    async def chat_completions(request: Request) -> HttpResponseBase:
        return await Exchange(plane, request, CHAT).run()

    @api.post(
        "/v1/messages", tags=["Anthropic"], openapi_extra=_body_schema(["model", "messages", "max_tokens"])
    )
    async def messages(request: Request) -> HttpResponseBase:
        return await Exchange(plane, request, MESSAGES).run()

    @api.post(
        "/v1/messages/count_tokens", tags=["Anthropic"], openapi_extra=_body_schema(["model", "messages"])
    )
    async def count_tokens(request: Request) -> HttpResponseBase:
        return await Exchange(plane, request, COUNT_TOKENS).run()

    @api.post("/tokenize", tags=["OpenAI"], openapi_extra=_body_schema(["model", "messages"]))
    async def tokenize(request: Request) -> HttpResponseBase:
        return await Exchange(plane, request, TOKENIZE).run()

    dialect = responses_api.ResponsesDialect(plane.responses)

    @api.post("/v1/responses", tags=["OpenAI"], openapi_extra=_body_schema(["model", "input"]))
    async def responses(request: Request) -> HttpResponseBase:
        return await Exchange(plane, request, dialect).run()

    @api.post("/v1/completions", tags=["OpenAI"], openapi_extra=_body_schema(["model", "prompt"]))
    async def completions(request: Request) -> HttpResponseBase:
        return await Exchange(plane, request, COMPLETIONS).run()

    @api.post("/v1/embeddings", tags=["OpenAI"], openapi_extra=_body_schema(["model", "input"]))
    async def embeddings(request: Request) -> HttpResponseBase:
        return await Exchange(plane, request, EMBEDDINGS).run()


def _declare_stored_responses(api: NinjaAPI, plane: DataPlane) -> None:
    path = "/v1/responses/{response_id}"
    store = plane.responses

    @api.get(path, tags=["OpenAI"])
    async def get_response(request: Request, response_id: str) -> HttpResponse:
        key = plane.authorize(request)
        if request.GET.get("stream") == "true":
            message = "Only a response in the background can be streamed again, and none runs there here."
            raise ApiError(400, "invalid_value", message, param="stream")
        found = await responses_api.retrieve(store, key, response_id)
        return HttpResponse(bytes(found), content_type="application/json")

    @api.delete(path, tags=["OpenAI"])
    async def delete_response(request: Request, response_id: str) -> dict[str, Any]:
        return await responses_api.delete(store, plane.authorize(request), response_id)

    @api.post(f"{path}/cancel", tags=["OpenAI"])
    async def cancel_response(request: Request, response_id: str) -> None:
        await responses_api.cancel(store, plane.authorize(request), response_id)

    @api.get(f"{path}/input_items", tags=["OpenAI"])
    async def list_input_items(request: Request, response_id: str) -> dict[str, Any]:
        given = request.GET
        return await responses_api.input_items(
            store,
            plane.authorize(request),
            response_id,
            after=given.get("after"),
            limit=given.get("limit", "20"),
            order=given.get("order", "desc"),
        )


def _declare_models(api: NinjaAPI, plane: DataPlane) -> None:
    @api.get("/v1/models", tags=["OpenAI", "Anthropic"])
    async def list_models(request: Request) -> dict[str, Any]:
        plane.authorize(request)
        models = model_list.list_models(plane.fleet.snapshot)
        if not _speaks_anthropic(request):
            return {"object": "list", "data": models}
        given = request.GET
        return model_list.anthropic_page(
            models, limit=given.get("limit"), after=given.get("after_id"), before=given.get("before_id")
        )

    @api.get("/v1/models/{path:model}", tags=["OpenAI"])
    async def get_model(request: Request, model: str) -> dict[str, Any]:
        plane.authorize(request)
        snapshot = plane.fleet.snapshot
        if not snapshot.knows(snapshot.resolve(model)):
            raise ApiError(404, "model_not_found", f"The model '{model}' does not exist.", param="model")
        found = model_list.describe(snapshot, model)
        return model_list.anthropic_model(found) if _speaks_anthropic(request) else found

    @api.get("/health", tags=["Fleet"])
    async def health(request: Request) -> dict[str, Any]:
        return model_list.health(plane.fleet.snapshot, plane.missing, plane.nodes.breakers)


def _declare_ollama(api: NinjaAPI, plane: DataPlane) -> None:
    chats = OllamaDialect(plane.fleet)
    prompts = GenerateDialect(plane.fleet)
    embeds = EmbedDialect(plane.fleet)
    older = EmbeddingsDialect(plane.fleet)

    @api.post("/api/chat", tags=["Ollama"], openapi_extra=_body_schema(["model", "messages"]))
    async def ollama_chat(request: Request) -> HttpResponseBase:
        if ollama.is_load(request.body):
            return await load_requests.load(plane, request, chats)
        return await Exchange(plane, request, chats).run()

    @api.post("/api/generate", tags=["Ollama"], openapi_extra=_body_schema(["model", "prompt"]))
    async def ollama_generate(request: Request) -> HttpResponseBase:
        if ollama.is_load(request.body):
            return await load_requests.load(plane, request, prompts)
        return await Exchange(plane, request, prompts).run()

    @api.post("/api/embed", tags=["Ollama"], openapi_extra=_body_schema(["model", "input"]))
    async def ollama_embed(request: Request) -> HttpResponseBase:
        return await Exchange(plane, request, embeds).run()

    @api.post("/api/embeddings", tags=["Ollama"], openapi_extra=_body_schema(["model", "prompt"]))
    async def ollama_embeddings(request: Request) -> HttpResponseBase:
        return await Exchange(plane, request, older).run()

    @api.post("/api/pull", tags=["Ollama"], openapi_extra=_body_schema(["model"]))
    async def ollama_pull(request: Request) -> HttpResponseBase:
        return await load_requests.pull(plane, request)


def _declare_ollama_models(api: NinjaAPI, plane: DataPlane) -> None:
    @api.get("/", include_in_schema=False)
    async def ollama_is_running(request: Request) -> HttpResponse:
        return HttpResponse("Ollama is running", content_type="text/plain")

    @api.get("/api/version", tags=["Ollama"])
    async def ollama_version(request: Request) -> dict[str, str]:
        return {"version": ollama_models.API_VERSION}

    @api.get("/api/tags", tags=["Ollama"])
    async def ollama_tags(request: Request) -> dict[str, Any]:
        plane.authorize(request)
        return ollama_models.tags(plane.fleet.snapshot)

    @api.get("/api/ps", tags=["Ollama"])
    async def ollama_ps(request: Request) -> dict[str, Any]:
        plane.authorize(request)
        return ollama_models.running(plane.fleet.snapshot)

    @api.post("/api/show", tags=["Ollama"], openapi_extra=_body_schema(["model"]))
    async def ollama_show(request: Request) -> dict[str, Any]:
        plane.authorize(request)
        return ollama_models.show(plane.fleet.snapshot, ollama.named(request.body).model)


def _declare_probes(api: NinjaAPI, plane: DataPlane) -> None:
    @api.get("/healthz", tags=["Fleet"])
    async def healthz(request: Request) -> dict[str, str]:
        return {"status": "ok"}

    @api.get("/ready", tags=["Fleet"])
    async def ready(request: Request) -> dict[str, str]:
        nodes = plane.fleet.snapshot.nodes
        if not any(node.healthy for node in nodes.values()):
            message = f"No node answers this worker: 0 of {len(nodes)} do."
            raise ApiError(503, "not_ready", message, retry_after_s=math.ceil(plane.config.poll.interval_s))
        return {"status": "ready"}

    @api.get("/version", tags=["Fleet"])
    async def version(request: Request) -> dict[str, str]:
        return {"version": VERSION}


def _speaks_anthropic(request: HttpRequest) -> bool:
    """Whether to answer in Anthropic's dialect: by the path, or by the header that only its clients send."""
    return request.path.startswith(MESSAGES.path) or "anthropic-version" in request.headers


def _envelope(request: HttpRequest, error: ApiError) -> bytes:
    if is_ollama_path(request.path):
        return ollama.error_body(error)
    dialect: Dialect = MESSAGES if _speaks_anthropic(request) else CHAT
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
