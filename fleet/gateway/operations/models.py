"""What there is and how it is: models, health and probes."""

from __future__ import annotations

import math
from typing import Any

from django.http import HttpRequest
from ninja import NinjaAPI

from cortex_site.base.version import VERSION
from cortex_site.http.request import Request
from fleet.gateway.data_plane import DataPlane
from fleet.gateway.dialects import model_list
from fleet.gateway.dialects.messages import MESSAGES
from neuron.wire import ApiError


def declare_models(api: NinjaAPI, plane: DataPlane) -> None:
    @api.get("/v1/models", tags=["OpenAI", "Anthropic"])
    async def list_models(request: Request) -> dict[str, Any]:
        plane.authorize(request)
        models = model_list.list_models(plane.fleet.snapshot)
        if not speaks_anthropic(request):
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
        return model_list.anthropic_model(found) if speaks_anthropic(request) else found

    @api.get("/health", tags=["Fleet"])
    async def health(request: Request) -> dict[str, Any]:
        return model_list.health(plane.fleet.snapshot, plane.missing, plane.nodes.breakers)


def declare_probes(api: NinjaAPI, plane: DataPlane) -> None:
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


def speaks_anthropic(request: HttpRequest) -> bool:
    """Whether to answer in Anthropic's dialect: by the path, or by the header that only its clients send."""
    return request.path.startswith(MESSAGES.path) or "anthropic-version" in request.headers
