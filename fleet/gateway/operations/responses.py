"""The Responses API: requests, what is stored of them, and conversations."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse
from django.http.response import HttpResponseBase
from ninja import NinjaAPI

from cortex_site.http.answering import begun_by
from cortex_site.http.request import Request
from fleet.gateway.background import Background, is_asked
from fleet.gateway.data_plane import DataPlane
from fleet.gateway.detour import exchange, exchanging
from fleet.gateway.dialects import stored_responses
from fleet.gateway.dialects.conversations import Conversations
from fleet.gateway.dialects.kept_items import asked_page
from fleet.gateway.dialects.responses import CompactDialect, InputTokensDialect, ResponsesDialect
from fleet.gateway.operations.shapes import body_schema, json_answer, object_schema
from neuron.wire import ApiError


def declare_responses(api: NinjaAPI, plane: DataPlane, background: Background) -> None:
    dialect = ResponsesDialect(plane.responses)
    counts = InputTokensDialect(plane.responses)
    compacts = CompactDialect(plane.responses)

    @api.post("/v1/responses", tags=["OpenAI"], openapi_extra=body_schema(["model", "input"]))
    @begun_by(exchanging(plane, dialect, unless=is_asked))
    async def responses(request: Request) -> HttpResponseBase:
        if is_asked(request.body):
            return await background.start(request)
        return await exchange(plane, request, dialect)

    @api.post("/v1/responses/input_tokens", tags=["OpenAI"], openapi_extra=body_schema(["model", "input"]))
    @begun_by(exchanging(plane, counts))
    async def input_tokens(request: Request) -> HttpResponseBase:
        return await exchange(plane, request, counts)

    @api.post("/v1/responses/compact", tags=["OpenAI"], openapi_extra=body_schema(["model", "input"]))
    @begun_by(exchanging(plane, compacts))
    async def compact(request: Request) -> HttpResponseBase:
        return await exchange(plane, request, compacts)


def declare_stored_responses(api: NinjaAPI, plane: DataPlane) -> None:
    path = "/v1/responses/{response_id}"
    store = plane.responses

    @api.get(path, tags=["OpenAI"])
    async def get_response(request: Request, response_id: str) -> HttpResponse:
        key = plane.authorize(request)
        if request.GET.get("stream") == "true":
            message = "A stored response is not streamed again; ask for it whole."
            raise ApiError(400, "invalid_value", message, param="stream")
        return json_answer(await stored_responses.retrieve(store, key, response_id))

    @api.delete(path, tags=["OpenAI"])
    async def delete_response(request: Request, response_id: str) -> dict[str, Any]:
        return await stored_responses.delete(store, plane.authorize(request), response_id)

    @api.post(f"{path}/cancel", tags=["OpenAI"])
    async def cancel_response(request: Request, response_id: str) -> HttpResponse:
        return json_answer(await stored_responses.cancel(store, plane.authorize(request), response_id))

    @api.get(f"{path}/input_items", tags=["OpenAI"])
    async def list_input_items(request: Request, response_id: str) -> dict[str, Any]:
        key = plane.authorize(request)
        return await stored_responses.input_items(store, key, response_id, asked_page(request.GET))


def declare_conversations(api: NinjaAPI, plane: DataPlane) -> None:
    kept = Conversations(plane.responses)

    @api.post("/v1/conversations", tags=["OpenAI"], openapi_extra=object_schema())
    async def create_conversation(request: Request) -> HttpResponse:
        return json_answer(await kept.create(plane.authorize(request), request.body or b"{}"))

    path = "/v1/conversations/{conversation_id}"

    @api.get(path, tags=["OpenAI"])
    async def get_conversation(request: Request, conversation_id: str) -> HttpResponse:
        return json_answer(await kept.retrieve(plane.authorize(request), conversation_id))

    @api.post(path, tags=["OpenAI"], openapi_extra=object_schema())
    async def update_conversation(request: Request, conversation_id: str) -> HttpResponse:
        return json_answer(await kept.update(plane.authorize(request), conversation_id, request.body))

    @api.delete(path, tags=["OpenAI"])
    async def delete_conversation(request: Request, conversation_id: str) -> HttpResponse:
        return json_answer(await kept.delete(plane.authorize(request), conversation_id))

    @api.get(f"{path}/items", tags=["OpenAI"])
    async def list_conversation_items(request: Request, conversation_id: str) -> HttpResponse:
        key = plane.authorize(request)
        return json_answer(await kept.list_items(key, conversation_id, asked_page(request.GET)))

    @api.post(f"{path}/items", tags=["OpenAI"], openapi_extra=object_schema())
    async def add_conversation_items(request: Request, conversation_id: str) -> HttpResponse:
        return json_answer(await kept.add_items(plane.authorize(request), conversation_id, request.body))

    @api.get(f"{path}/items/{{item_id}}", tags=["OpenAI"])
    async def get_conversation_item(request: Request, conversation_id: str, item_id: str) -> HttpResponse:
        return json_answer(await kept.retrieve_item(plane.authorize(request), conversation_id, item_id))

    @api.delete(f"{path}/items/{{item_id}}", tags=["OpenAI"])
    async def delete_conversation_item(request: Request, conversation_id: str, item_id: str) -> HttpResponse:
        return json_answer(await kept.delete_item(plane.authorize(request), conversation_id, item_id))
