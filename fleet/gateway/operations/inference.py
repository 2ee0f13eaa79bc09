"""Chat, completions, messages, embeddings and counts: each one exchange in its dialect."""

from __future__ import annotations

from django.http.response import HttpResponseBase
from ninja import NinjaAPI

from cortex_site.http.answering import begun_by
from cortex_site.http.request import Request
from fleet.gateway.data_plane import DataPlane
from fleet.gateway.detour import exchange, exchanging
from fleet.gateway.dialects.chat import CHAT, COMPLETIONS, EMBEDDINGS, RERANK, SCORE, TOKENIZE
from fleet.gateway.dialects.messages import COUNT_TOKENS, MESSAGES
from fleet.gateway.operations.shapes import body_schema


def declare_inference(api: NinjaAPI, plane: DataPlane) -> None:
    @api.post("/v1/chat/completions", tags=["OpenAI"], openapi_extra=body_schema(["model", "messages"]))
    @begun_by(exchanging(plane, CHAT))
    async def chat_completions(request: Request) -> HttpResponseBase:
        return await exchange(plane, request, CHAT)

    @api.post(
        "/v1/messages", tags=["Anthropic"], openapi_extra=body_schema(["model", "messages", "max_tokens"])
    )
    @begun_by(exchanging(plane, MESSAGES))
    async def messages(request: Request) -> HttpResponseBase:
        return await exchange(plane, request, MESSAGES)

    @api.post(
        "/v1/messages/count_tokens", tags=["Anthropic"], openapi_extra=body_schema(["model", "messages"])
    )
    @begun_by(exchanging(plane, COUNT_TOKENS))
    async def count_tokens(request: Request) -> HttpResponseBase:
        return await exchange(plane, request, COUNT_TOKENS)

    @api.post("/tokenize", tags=["OpenAI"], openapi_extra=body_schema(["model", "messages"]))
    @begun_by(exchanging(plane, TOKENIZE))
    async def tokenize(request: Request) -> HttpResponseBase:
        return await exchange(plane, request, TOKENIZE)

    @api.post("/v1/completions", tags=["OpenAI"], openapi_extra=body_schema(["model", "prompt"]))
    @begun_by(exchanging(plane, COMPLETIONS))
    async def completions(request: Request) -> HttpResponseBase:
        return await exchange(plane, request, COMPLETIONS)

    @api.post("/v1/embeddings", tags=["OpenAI"], openapi_extra=body_schema(["model", "input"]))
    @begun_by(exchanging(plane, EMBEDDINGS))
    async def embeddings(request: Request) -> HttpResponseBase:
        return await exchange(plane, request, EMBEDDINGS)

    @api.post("/v1/rerank", tags=["Ranking"], openapi_extra=body_schema(["model", "query", "documents"]))
    @begun_by(exchanging(plane, RERANK))
    async def rerank(request: Request) -> HttpResponseBase:
        return await exchange(plane, request, RERANK)

    # Where Cohere's package asks.
    @api.post("/v2/rerank", tags=["Ranking"], openapi_extra=body_schema(["model", "query", "documents"]))
    @begun_by(exchanging(plane, RERANK))
    async def rerank_of_cohere(request: Request) -> HttpResponseBase:
        return await exchange(plane, request, RERANK)

    @api.post("/v1/score", tags=["Ranking"], openapi_extra=body_schema(["model", "text_1", "text_2"]))
    @begun_by(exchanging(plane, SCORE))
    async def score(request: Request) -> HttpResponseBase:
        return await exchange(plane, request, SCORE)
