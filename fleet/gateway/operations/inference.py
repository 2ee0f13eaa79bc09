"""Chat, completions, messages, embeddings and counts: each one exchange in its dialect."""

from __future__ import annotations

from django.http.response import HttpResponseBase
from ninja import NinjaAPI

from cortex_site.http.request import Request
from fleet.gateway.data_plane import DataPlane
from fleet.gateway.dialects.chat import CHAT, COMPLETIONS, EMBEDDINGS, RERANK, SCORE, TOKENIZE
from fleet.gateway.dialects.messages import COUNT_TOKENS, MESSAGES
from fleet.gateway.exchange import Exchange
from fleet.gateway.operations.shapes import body_schema


def declare_inference(api: NinjaAPI, plane: DataPlane) -> None:
    @api.post("/v1/chat/completions", tags=["OpenAI"], openapi_extra=body_schema(["model", "messages"]))
    async def chat_completions(request: Request) -> HttpResponseBase:
        return await Exchange(plane, request, CHAT).run()

    @api.post(
        "/v1/messages", tags=["Anthropic"], openapi_extra=body_schema(["model", "messages", "max_tokens"])
    )
    async def messages(request: Request) -> HttpResponseBase:
        return await Exchange(plane, request, MESSAGES).run()

    @api.post(
        "/v1/messages/count_tokens", tags=["Anthropic"], openapi_extra=body_schema(["model", "messages"])
    )
    async def count_tokens(request: Request) -> HttpResponseBase:
        return await Exchange(plane, request, COUNT_TOKENS).run()

    @api.post("/tokenize", tags=["OpenAI"], openapi_extra=body_schema(["model", "messages"]))
    async def tokenize(request: Request) -> HttpResponseBase:
        return await Exchange(plane, request, TOKENIZE).run()

    @api.post("/v1/completions", tags=["OpenAI"], openapi_extra=body_schema(["model", "prompt"]))
    async def completions(request: Request) -> HttpResponseBase:
        return await Exchange(plane, request, COMPLETIONS).run()

    @api.post("/v1/embeddings", tags=["OpenAI"], openapi_extra=body_schema(["model", "input"]))
    async def embeddings(request: Request) -> HttpResponseBase:
        return await Exchange(plane, request, EMBEDDINGS).run()

    @api.post("/v1/rerank", tags=["Ranking"], openapi_extra=body_schema(["model", "query", "documents"]))
    async def rerank(request: Request) -> HttpResponseBase:
        return await Exchange(plane, request, RERANK).run()

    # Where Cohere's package asks.
    @api.post("/v2/rerank", tags=["Ranking"], openapi_extra=body_schema(["model", "query", "documents"]))
    async def rerank_of_cohere(request: Request) -> HttpResponseBase:
        return await Exchange(plane, request, RERANK).run()

    @api.post("/v1/score", tags=["Ranking"], openapi_extra=body_schema(["model", "text_1", "text_2"]))
    async def score(request: Request) -> HttpResponseBase:
        return await Exchange(plane, request, SCORE).run()
