"""The nodes this worker talks to: per node a connection pool, and a task that follows its `/events`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from types import MappingProxyType

from pydantic import ValidationError

from fleet.affinity import Affinity
from fleet.breaker import Breaker, State
from fleet.gateway import metrics
from fleet.gateway.connection import Limits, UpstreamError
from fleet.gateway.upstream import Pool
from fleet.gateway.view import FleetView
from fleet.snapshot import ModelView, NodeConfig, NodeView
from fleet.translation.sse import SseSplitter, SseTooLarge
from neuron.wire import NodeState

log = logging.getLogger("cortex.nodes")

# A node sends at least a comment every few seconds; one that is silent for longer is not there.
EVENT_LIMITS = Limits(connect_s=3.0, first_byte_s=5.0, idle_s=15.0, max_connections=2)
_NOBODY: frozenset[str] = frozenset()
RECONNECT_S = (0.2, 0.5, 1.0, 2.0)  # the last one goes on


class Node:
    """One node: `pool` for requests, and the follower of its state. `close` ends both."""

    def __init__(self, config: NodeConfig, view: FleetView, limits: Limits) -> None:
        self.config = config
        self.pool = Pool(config.endpoint, limits, token=config.token)
        self.breaker = Breaker()
        self._view = view
        self._events = Pool(config.endpoint, EVENT_LIMITS, token=config.token)
        self._task = asyncio.create_task(self._follow(), name=f"events-{config.name}")

    async def _follow(self) -> None:
        failures = 0
        while True:
            try:
                async for state in self._states():
                    failures = 0
                    self._show(state)
                reason = "the node ended its event stream"
            except (UpstreamError, ValidationError, SseTooLarge) as error:
                reason = str(error).splitlines()[0]
            self._mark_away(reason)
            await asyncio.sleep(RECONNECT_S[min(failures, len(RECONNECT_S) - 1)])
            failures += 1

    async def _states(self) -> AsyncIterator[NodeState]:
        response = await self._events.request("GET", "/events", headers={"accept": "text/event-stream"})
        try:
            if response.status != 200:
                raise UpstreamError("protocol", f"GET /events answered {response.status}")
            events = SseSplitter()
            async for chunk in response.chunks():
                for event in events.feed(chunk):
                    yield NodeState.model_validate_json(event.data)
        finally:
            response.close()

    def _show(self, state: NodeState) -> None:
        before = self._view.snapshot.nodes.get(self.config.name)
        node = view_of(self.config, state, self.pool.in_flight)
        self._view.set_node(node)
        metrics.show_node(node)
        metrics.show_state(node.name, state)
        if before is None or not before.healthy:
            log.info("node is up", extra={"node": node.name})

    def _mark_away(self, reason: str) -> None:
        before = self._view.snapshot.nodes.get(self.config.name)
        self._view.set_unreachable(self.config.name, reason)
        if before is not None and before.healthy:
            log.warning("node is away", extra={"node": self.config.name, "reason": reason})
            metrics.NODE_UP.labels(self.config.name).set(0)

    async def close(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._events.close()
        self.pool.close()


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
            running=load.running if load else 0,
            waiting=load.waiting if load else 0,
            max_running=load.max_running if load else 0,
            tok_s_prefill=load.tok_s_prefill if load else 0.0,
            kv_free=load.kv_pages_free / load.kv_pages_total if load and load.kv_pages_total else None,
            prefixes=frozenset(load.prefixes if load else ()),
        )
    return NodeView(config, healthy=True, reason=None, models=MappingProxyType(models), in_flight=in_flight)


class Nodes:
    """All of them, kept in step with the configuration."""

    def __init__(self, view: FleetView, limits: Limits) -> None:
        self._view = view
        self._limits = limits
        self._nodes: dict[str, Node] = {}
        self._troubled: set[str] = set()  # nodes whose breaker is more than closed
        self.affinity = Affinity()

    def pool(self, name: str) -> Pool:
        """Raises `KeyError` when the node has just been removed."""
        return self._nodes[name].pool

    def breaker(self, name: str) -> Breaker:
        """Of a node that has just been removed: a new one, that nobody keeps."""
        node = self._nodes.get(name)
        return node.breaker if node else Breaker()

    def mark_failed(self, name: str) -> None:
        self._troubled.add(name)
        self.breaker(name).failed(time.monotonic())

    def mark_busy(self, name: str, model: str, retry_after_s: float) -> None:
        self._troubled.add(name)
        self.breaker(name).refused_for_now(model, time.monotonic(), retry_after_s)

    def mark_unauthorized(self, name: str) -> None:
        """Until the configuration names the node differently, which makes it a new one."""
        self._troubled.add(name)
        self.breaker(name).unauthorized = True

    def troubled(self, model: str) -> tuple[frozenset[str], frozenset[str]]:
        """Nodes that admit no request now, and nodes that are busy with this model."""
        if not self._troubled:
            return _NOBODY, _NOBODY
        now = time.monotonic()
        breakers = {name: self.breaker(name) for name in self._troubled}
        closed = frozenset(name for name, breaker in breakers.items() if not breaker.admits(now))
        busy = frozenset(name for name, breaker in breakers.items() if breaker.is_busy(model, now))
        if not closed and not busy:
            self._troubled = {name for name, breaker in breakers.items() if breaker.failures}
        return closed, busy

    @property
    def breakers(self) -> dict[str, State]:
        """Every node's breaker as it stands now."""
        now = time.monotonic()
        return {name: node.breaker.state(now) for name, node in self._nodes.items()}

    def in_flight(self, name: str) -> int:
        node = self._nodes.get(name)
        return node.pool.in_flight if node else 0

    async def update(self) -> None:
        """Start what the configuration names newly, end what it no longer names or names differently."""
        wanted = self._view.snapshot.config.nodes
        for name, node in list(self._nodes.items()):
            if wanted.get(name) != node.config:
                await self._nodes.pop(name).close()
        for name, config in wanted.items():
            if name not in self._nodes:
                self._nodes[name] = Node(config, self._view, self._limits)

    async def close(self) -> None:
        nodes, self._nodes = list(self._nodes.values()), {}
        await asyncio.gather(*(node.close() for node in nodes))
