"""Watching one node's state: a neuron pushes its own, another server is polled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from types import MappingProxyType

from fleet.foreign.models import (
    MAX_BYTES,
    PATH,
    TOO_MANY_REQUESTS,
    ModelsError,
    ServedModel,
    read_answer,
)
from fleet.gateway.http.bounds import PoolBounds
from fleet.gateway.http.errors import UpstreamError
from fleet.gateway.http.pool import Pool
from fleet.gateway.record import metrics
from fleet.snapshot import ModelView, NodeConfig, NodeView
from fleet.translation.sse import SseSplitter
from neuron.wire import PROTOCOL, NodeState

# A neuron sends at least a comment every few seconds: one that is silent for longer is away.
EVENT_BOUNDS = PoolBounds(connect_s=3.0, first_byte_s=5.0, idle_s=15.0, max_connections=2)
MISSED_S = 1.0  # until a server that did not answer is asked again
REST_S = 30.0  # until one that answered 429 is


@dataclass(frozen=True, slots=True)
class WatchPolicy:
    """How servers that push nothing are polled."""

    interval_s: float = 5.0
    misses: int = 3  # in a row, before a server counts as away


async def watch_neuron(
    config: NodeConfig, pool: Pool, in_flight: Callable[[], int]
) -> AsyncIterator[NodeView]:
    """The node's view after each of its events, until its stream ends. Raises `UpstreamError`."""
    response = await pool.request("GET", "/events", lines=b"accept: text/event-stream\r\n")
    try:
        if response.status != 200:
            raise UpstreamError("protocol", f"GET /events answered {response.status}")
        events = SseSplitter()
        async for chunk in response.chunks():
            for event in events.feed(chunk):
                state = NodeState.model_validate_json(event.data)
                if state.protocol != PROTOCOL:
                    message = f"it speaks protocol {state.protocol}, this cortex speaks {PROTOCOL}"
                    raise UpstreamError("protocol", message)
                metrics.show_state(config.name, state)
                yield view_of(config, state, in_flight())
    finally:
        response.close()


async def watch_server(config: NodeConfig, pool: Pool, policy: WatchPolicy) -> AsyncIterator[NodeView]:
    """The server's view after each poll of its list of models; no completion is ever run.

    Raises `UpstreamError` when the server has missed as many polls in a row as `policy` allows.
    """
    misses, known = 0, None
    while True:
        try:
            served = await _ask(config, pool)
        except UpstreamError:
            misses += 1
            if misses >= policy.misses:
                raise
            await asyncio.sleep(MISSED_S)
            continue
        misses, known = 0, known if served is None else served
        if known is not None:
            yield _view(config, known)
        await asyncio.sleep(policy.interval_s if served is not None else REST_S)


async def _ask(config: NodeConfig, pool: Pool) -> list[ServedModel] | None:
    """The models that a server lists; None when it asks to be asked less often. Raises `UpstreamError`."""
    response = await pool.request("GET", config.path(PATH), lines=b"accept: application/json\r\n")
    try:
        is_body_read = response.status != TOO_MANY_REQUESTS  # of that answer the status says it all
        body = await response.read(MAX_BYTES) if is_body_read else b""
        return read_answer(response.status, body, config.models)
    except ModelsError as error:
        raise UpstreamError("protocol", str(error)) from error
    finally:
        response.close()


def _view(config: NodeConfig, served: list[ServedModel]) -> NodeView:
    models = {
        model.id: ModelView(
            id=model.id,
            state="loaded",
            context=model.context,
            capabilities=model.capabilities,
            max_running=config.max_requests or 0,
        )
        for model in served
    }
    return NodeView(config, healthy=True, reason=None, models=MappingProxyType(models))


def view_of(config: NodeConfig, state: NodeState, in_flight: int = 0) -> NodeView:
    """The part of a node's state that the snapshot keeps."""
    loads = {load.id: load for load in state.health.models}
    models = {}
    for info in state.models:
        load = loads.get(info.id)
        models[info.id] = ModelView(
            id=info.id,
            state=info.state,
            context=info.context,
            memory_mb=info.memory_mb,
            format=info.format,
            bits_per_weight=info.bits_per_weight,
            progress=info.progress,
            capabilities=tuple(info.capabilities),
            error=info.error.message if info.error else None,
            # A negative count would attract every request.
            running=max(0, load.running) if load else 0,
            waiting=max(0, load.waiting) if load else 0,
            max_running=max(0, load.max_running) if load else 0,
            tok_s_prefill=max(0.0, load.tok_s_prefill) if load else 0.0,
            kv_free=_share(load.kv_pages_free, load.kv_pages_total) if load else None,
            prefixes=frozenset(load.prefixes if load else ()),
        )
    return NodeView(config, healthy=True, reason=None, models=MappingProxyType(models), in_flight=in_flight)


def _share(free: int, total: int) -> float | None:
    return min(1.0, max(0.0, free / total)) if total > 0 else None
