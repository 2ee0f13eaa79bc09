"""Ollama's API."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse
from django.http.response import HttpResponseBase
from ninja import NinjaAPI

from cortex_site.http.answering import begun_by
from cortex_site.http.request import Request
from fleet.gateway import load_requests
from fleet.gateway.data_plane import DataPlane
from fleet.gateway.detour import exchange, exchanging
from fleet.gateway.dialects import ollama_models
from fleet.gateway.dialects.ollama import EmbedDialect, EmbeddingsDialect, GenerateDialect, OllamaDialect
from fleet.gateway.operations.shapes import body_schema
from fleet.translation import ollama


def declare_ollama(api: NinjaAPI, plane: DataPlane) -> None:
    chats = OllamaDialect(plane.fleet)
    prompts = GenerateDialect(plane.fleet)
    embeds = EmbedDialect(plane.fleet)
    older = EmbeddingsDialect(plane.fleet)

    @api.post("/api/chat", tags=["Ollama"], openapi_extra=body_schema(["model", "messages"]))
    @begun_by(exchanging(plane, chats, unless=ollama.is_load))
    async def ollama_chat(request: Request) -> HttpResponseBase:
        if ollama.is_load(request.body):
            return await load_requests.load(plane, request, chats)
        return await exchange(plane, request, chats)

    @api.post("/api/generate", tags=["Ollama"], openapi_extra=body_schema(["model", "prompt"]))
    @begun_by(exchanging(plane, prompts, unless=ollama.is_load))
    async def ollama_generate(request: Request) -> HttpResponseBase:
        if ollama.is_load(request.body):
            return await load_requests.load(plane, request, prompts)
        return await exchange(plane, request, prompts)

    @api.post("/api/embed", tags=["Ollama"], openapi_extra=body_schema(["model", "input"]))
    @begun_by(exchanging(plane, embeds))
    async def ollama_embed(request: Request) -> HttpResponseBase:
        return await exchange(plane, request, embeds)

    @api.post("/api/embeddings", tags=["Ollama"], openapi_extra=body_schema(["model", "prompt"]))
    @begun_by(exchanging(plane, older))
    async def ollama_embeddings(request: Request) -> HttpResponseBase:
        return await exchange(plane, request, older)

    @api.post("/api/pull", tags=["Ollama"], openapi_extra=body_schema(["model"]))
    async def ollama_pull(request: Request) -> HttpResponseBase:
        return await load_requests.pull(plane, request)


def declare_ollama_models(api: NinjaAPI, plane: DataPlane) -> None:
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

    @api.post("/api/show", tags=["Ollama"], openapi_extra=body_schema(["model"]))
    async def ollama_show(request: Request) -> dict[str, Any]:
        plane.authorize(request)
        return ollama_models.show(plane.fleet.snapshot, ollama.named(request.body).model)
