"""neuron's HTTP API: the ninja API of all operations, and the application that serves it."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from ninja import NinjaAPI

from cortex_site.base.tracing import tracer
from cortex_site.base.version import VERSION
from neuron.api import chat_completions, completions, embeddings, node, ranking, tokenize
from neuron.api.application import NeuronApplication
from neuron.api.bodies.openapi import COMPONENTS
from neuron.api.errors import add_error_handlers
from neuron.api.relay import RequestRelay
from neuron.daemon import Daemon


def build_api(daemon: Daemon) -> NinjaAPI:
    """All operations of a neuron, with every error in OpenAI's envelope."""
    api = NinjaAPI(title="neuron", version=VERSION, docs_url=None, openapi_url=None)
    for module in (node, chat_completions, completions, embeddings, ranking, tokenize):
        api.add_router("", module.router(daemon))
    add_error_handlers(api)

    async def openapi(request: HttpRequest) -> Any:
        schema = api.get_openapi_schema(path_prefix="")
        schema["components"]["schemas"] |= COMPONENTS
        return schema

    api.get("/openapi.json", include_in_schema=False)(openapi)
    return api


def build_app(daemon: Daemon) -> NeuronApplication:
    """The application that `neuron serve` runs; its lifespan is the daemon's."""
    relay = RequestRelay(daemon.registry, daemon.config)
    sends = tracer(daemon.config.tracing, "neuron")
    return NeuronApplication(build_api(daemon), daemon.config, relay, daemon.running, tracer=sends)
