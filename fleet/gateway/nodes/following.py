"""How a worker learns of one node's state: a neuron tells of itself, another server is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from types import MappingProxyType

from fleet.gateway.http.bounds import PoolBounds
from fleet.gateway.http.errors import UpstreamError
from fleet.gateway.http.pool import Pool
from fleet.gateway.http.response import UpstreamResponse
from fleet.gateway.record import metrics
from fleet.served import MAX_BYTES, NOT_SUPPORTED, TOO_OFTEN, Served, read_models, unlisted
from fleet.snapshot import ModelView, NodeConfig, NodeView
from fleet.translation.sse import SseSplitter
from neuron.wire import PROTOCOL, NodeState

# A node sends at least a comment every few seconds; one that is silent for longer is not there.
EVENT_BOUNDS = PoolBounds(connect_s=3.0, first_byte_s=5.0, idle_s=15.0, max_connections=2)
MISSED_S = 1.0  # a server that did not answer is asked again after this
REST_S = 30.0  # one that was asked too often, after this


@dataclass(frozen=True, slots=True)
class Asking:
    """How servers are watched."""

    interval_s: float = 5.0
    misses: int = 3  # in a row make a server unhealthy


async def follow_neuron(
    config: NodeConfig, pool: Pool, in_flight: Callable[[], int]
) -> AsyncIterator[NodeView]:
    """The node's view with each of its events, until its stream ends."""
    response = await pool.request("GET", "/events", headers={"accept": "text/event-stream"})
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


async def follow_server(config: NodeConfig, pool: Pool, asking: Asking) -> AsyncIterator[NodeView]:
    """The server's view by its list of models, until it has missed so often; no completion is ever run."""
    misses, known = 0, None
    while True:
        try:
            served = await _ask(config, pool)
        except UpstreamError:
            misses += 1
            if misses >= asking.misses:
                raise
            await asyncio.sleep(MISSED_S)
            continue
        misses, known = 0, known if served is None else served
        if known is not None:
            yield _view(config, known)
        await asyncio.sleep(asking.interval_s if served is not None else REST_S)


async def _ask(config: NodeConfig, pool: Pool) -> list[Served] | None:
    """What it lists; None when it was asked too often, which is no reason to think worse of it."""
    response = await pool.request("GET", config.path("/v1/models"), headers={"accept": "application/json"})
    try:
        return await _understand(config, response)
    except ValueError as error:
        raise UpstreamError("protocol", str(error)) from error
    finally:
        response.close()


async def _understand(config: NodeConfig, response: UpstreamResponse) -> list[Served] | None:
    if response.status == 200:
        return read_models(await response.read(MAX_BYTES), config.models)
    if response.status == TOO_OFTEN:
        return None
    if response.status in NOT_SUPPORTED and config.models:
        return unlisted(config.models)
    if response.status in {401, 403}:
        raise UpstreamError("protocol", f"does not accept the API key (GET /v1/models: {response.status})")
    raise UpstreamError("protocol", f"GET /v1/models answered {response.status}")


def _view(config: NodeConfig, served: list[Served]) -> NodeView:
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
    """What the snapshot keeps of a node's state."""
    loads = {load.id: load for load in state.health.models}
    models = {}
    for info in state.models:
        load = loads.get(info.id)
        models[info.id] = ModelView(
            id=info.id,
            state=info.state,
            context=info.context,
            memory_mb=info.memory_mb,
            progress=info.progress,
            capabilities=tuple(info.capabilities),
            error=info.error.message if info.error else None,
            # What cannot be must not draw requests: a negative count would be less than nothing to do.
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
