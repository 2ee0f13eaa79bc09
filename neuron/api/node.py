"""The node's own operations: its state, and the verbs on its models and devices."""

from __future__ import annotations

import asyncio
import platform
from contextlib import aclosing
from typing import Any

from django.http import HttpRequest
from ninja import Router

from cortex_site.base.version import VERSION
from cortex_site.http.response import StreamResponse, Write
from neuron import hub, sse
from neuron.api.request import log_fields
from neuron.daemon import Daemon
from neuron.preflight import preflight
from neuron.transfers import TRANSFERS
from neuron.wire import (
    PROTOCOL,
    CacheReset,
    Discovery,
    Download,
    DownloadEnd,
    Health,
    Leave,
    ModelInfo,
    ModelLog,
    ModelSpec,
    NodeLog,
    Preflight,
    PreflightRequest,
    UnloadRequest,
)


def router(daemon: Daemon) -> Router:
    node = Router(tags=["node"])
    _add_state(node, daemon)
    _add_news(node, daemon)
    _add_verbs(node, daemon)
    return node


def _add_state(node: Router, daemon: Daemon) -> None:
    @node.get("/discovery", response=Discovery)
    async def discovery(request: HttpRequest) -> Discovery:
        """The host and its devices, or why they cannot be used."""
        return daemon.discovery()

    @node.get("/health", response=Health)
    async def health(request: HttpRequest) -> Health:
        """The daemon, its device workers, and how busy each loaded model is."""
        return daemon.health()

    @node.get("/version")
    async def version(request: HttpRequest) -> dict[str, Any]:
        return {"version": VERSION, "protocol": PROTOCOL, "python": platform.python_version()}

    @node.get("/models", response=list[ModelInfo])
    async def models(request: HttpRequest) -> list[ModelInfo]:
        """All models: loaded, loading, unloading or failed."""
        return daemon.registry.list()

    @node.get("/models/{path:model_id}/endpoint")
    async def endpoint(request: HttpRequest, model_id: str) -> dict[str, str]:
        """The URL under which the model answers."""
        return {"url": daemon.registry.endpoint(model_id)}

    @node.get("/models/{path:model_id}/log", response=ModelLog)
    async def log(request: HttpRequest, model_id: str, lines: int = 200) -> ModelLog:
        """The last lines that the model's own server wrote; else what neuron logged of it."""
        return ModelLog(lines=list(daemon.log(model_id)[-max(1, lines) :]))

    @node.get("/models/{path:model_id}", response=ModelInfo)
    async def model(request: HttpRequest, model_id: str) -> ModelInfo:
        """One model, with what its chat template takes."""
        return daemon.registry.model(model_id)


def _add_news(node: Router, daemon: Daemon) -> None:
    @node.get("/downloads", response=list[Download])
    async def downloads(request: HttpRequest) -> list[Download]:
        """Downloads of models' files: those under way, then the last ones that are over."""
        return TRANSFERS.list()

    @node.get("/logs", response=NodeLog)
    async def logs(request: HttpRequest, after: int | None = None, match: str = "") -> NodeLog:
        """The last lines that the daemon and its workers logged and that contain `match`, or those since."""
        return NodeLog(**daemon.last_lines.part(after=after, match=match)._asdict())

    @node.get("/events")
    async def events(request: HttpRequest) -> StreamResponse:
        """Server-sent events: a `NodeState` now, and another after each change."""

        async def produce(write: Write) -> None:
            async with aclosing(daemon.events.subscribe()) as news:
                async for event in news:
                    await write(event)

        return StreamResponse(produce, headers=sse.HEADERS)


def _add_verbs(node: Router, daemon: Daemon) -> None:
    @node.post("/models/load")
    async def load(request: HttpRequest, spec: ModelSpec) -> dict[str, Any]:
        """Answers when the model is loaded; at once when it is loaded already. Says what it passed over."""
        log_fields(request)["model"] = spec.model_id
        await daemon.registry.load(spec)
        found = (model for model in daemon.registry.list() if model.id == spec.model_id)
        warnings = [warning for model in found for warning in model.warnings]
        return {"status": "loaded", "model_id": spec.model_id} | ({"warnings": warnings} if warnings else {})

    @node.post("/models/read-ahead")
    async def read_ahead(request: HttpRequest, spec: ModelSpec) -> dict[str, str]:
        """Answers at once; meanwhile the files of a model that will soon be loaded are read."""
        log_fields(request)["model"] = spec.model_id
        await daemon.registry.read_ahead(spec)
        return {"status": "reading", "model_id": spec.model_id}

    @node.post("/models/preflight", response=Preflight)
    async def what_a_load_would_find(request: HttpRequest, body: PreflightRequest) -> Preflight:
        """The files and formats of a model or repository; nothing is downloaded, loaded or kept."""
        return await preflight(body.source, daemon.config.models_dir)

    @node.post("/models/download")
    async def download(request: HttpRequest, spec: ModelSpec) -> dict[str, str]:
        """Answers at once; meanwhile the model's files come to this node. `GET /downloads` says how far."""
        log_fields(request)["model"] = spec.model_id
        daemon.download(spec)
        return {"status": "downloading", "model_id": spec.model_id}

    @node.post("/downloads/cancel")
    async def cancel_download(request: HttpRequest, body: DownloadEnd) -> dict[str, str]:
        """Answers at once; the download ends with its next piece. Files that have come whole are kept."""
        log_fields(request)["model"] = body.source
        await asyncio.to_thread(hub.cancel, body.source)
        return {"status": "cancelling", "source": body.source}

    @node.post("/models/unload")
    async def unload(request: HttpRequest, body: UnloadRequest) -> dict[str, str]:
        """Answers when the model's memory is free; running requests have `grace_s` to end.

        The status is `asleep` if host memory keeps it, else `unloaded`.
        """
        log_fields(request)["model"] = body.model_id
        await daemon.registry.unload(body.model_id, body)
        states = {model.id: model.state for model in daemon.registry.list()}
        status = "asleep" if states.get(body.model_id) == "asleep" else "unloaded"
        return {"status": status, "model_id": body.model_id}

    @node.post("/models/reset")
    async def reset(request: HttpRequest, body: CacheReset) -> dict[str, str]:
        """Forgets what the model's KV cache keeps of requests that ended; those under way continue."""
        log_fields(request)["model"] = body.model_id
        await daemon.registry.reset_cache(body.model_id)
        return {"status": "reset", "model_id": body.model_id}

    @node.post("/devices/{index}/drain")
    async def drain(request: HttpRequest, index: int, body: Leave) -> dict[str, Any]:
        """Answers when no model is left on the device; running requests have `grace_s` to end."""
        await daemon.registry.drain_device(index, body)
        return {"status": "drained", "index": index}

    @node.post("/devices/{index}/restart")
    async def restart(request: HttpRequest, index: int, body: Leave) -> dict[str, Any]:
        """Answers when the device has a new worker process and its models are loaded again."""
        await daemon.registry.restart_device(index, body)
        return {"status": "restarted", "index": index}
