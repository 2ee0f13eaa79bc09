# cython: language_level=3, boundscheck=False, wraparound=False, annotation_typing=False
"""The nodes this worker talks to: per node a connection pool, and a task that follows its `/events`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from fleet.affinity import Affinity
from fleet.breaker import Breaker, State
from fleet.gateway.http.bounds import PoolBounds
from fleet.gateway.http.errors import UpstreamError
from fleet.gateway.http.pool import Pool
from fleet.gateway.nodes.adapter import RequestAdapter
from fleet.gateway.nodes.fleet_state import FleetState
from fleet.gateway.nodes.watcher import EVENT_BOUNDS, WatchPolicy, watch_neuron, watch_server
from fleet.gateway.record import metrics
from fleet.snapshot import NodeConfig, NodeView
from fleet.translation.sse import SseTooLarge

log = logging.getLogger("cortex.nodes")

_NOBODY: frozenset[str] = frozenset()
RECONNECT_S = (0.2, 0.5, 1.0, 2.0)  # the last one goes on


class Node:
    """One node: `pool` for requests, and the follower of its state. `close` ends both."""

    def __init__(
        self,
        config: NodeConfig,
        fleet: FleetState,
        bounds: PoolBounds,
        asking: WatchPolicy,
        ca: Path | None,
    ) -> None:
        self.config = config
        self.pool = Pool(config.base, bounds, token=config.token, ca=ca)
        self.breaker = Breaker()
        self.adapter = RequestAdapter(config)
        self.heard = asyncio.Event()  # what it has, or that it is away
        self._fleet = fleet
        self._asking = asking
        self._control = Pool(config.base, EVENT_BOUNDS, token=config.token, ca=ca)
        self._task = asyncio.create_task(self._follow(), name=f"follow-{config.name}")

    def _views(self) -> AsyncIterator[NodeView]:
        if self.config.is_foreign:
            return watch_server(self.config, self._control, self._asking)
        return watch_neuron(self.config, self._control, lambda: self.pool.in_flight)

    async def _follow(self) -> None:
        failures = 0
        while True:
            try:
                async for node in self._views():
                    failures = 0
                    self._show(node)
                reason = "the node ended its event stream"
            except (UpstreamError, ValidationError, SseTooLarge) as error:
                reason = str(error).splitlines()[0]
            self._mark_away(reason)
            await asyncio.sleep(RECONNECT_S[min(failures, len(RECONNECT_S) - 1)])
            failures += 1

    def _show(self, node: NodeView) -> None:
        before = self._fleet.snapshot.nodes.get(self.config.name)
        self._fleet.set_node(node)
        self.heard.set()
        metrics.show_node(node)
        if before is None or not before.healthy:
            if self.breaker.unauthorized:
                self.breaker.succeeded()  # what lets the follower in may let requests in
            log.info("node is up", extra={"node": node.name})

    def _mark_away(self, reason: str) -> None:
        before = self._fleet.snapshot.nodes.get(self.config.name)
        self._fleet.set_unreachable(self.config.name, reason)
        self.heard.set()
        if before is not None and before.healthy:
            log.warning("node is away", extra={"node": self.config.name, "reason": reason})
            metrics.NODE_UP.labels(self.config.name).set(0)
            metrics.clear_models(self.config.name)

    async def close(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._control.close()
        self.pool.close()


class Nodes:
    """All of them, kept in step with the configuration."""

    def __init__(
        self,
        fleet: FleetState,
        bounds: PoolBounds,
        asking: WatchPolicy,
        *,
        workers: int = 1,
        ca: Path | None = None,
    ) -> None:
        self._fleet = fleet
        self._bounds = bounds
        self._asking = asking
        self._ca = ca  # that they are verified by, besides the system's authorities
        self._workers = workers  # that share what a node takes at once
        self._nodes: dict[str, Node] = {}
        self._troubled: set[str] = set()  # nodes whose breaker is more than closed
        self.affinity = Affinity()

    def get(self, name: str) -> Node | None:
        """None when it has just been removed."""
        return self._nodes.get(name)

    def node(self, name: str) -> Node:
        """Raises `KeyError` when it has just been removed."""
        return self._nodes[name]

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
        self._troubled.add(name)
        self.breaker(name).denied(time.monotonic())

    @property
    def are_well(self) -> bool:
        """No node has failed or been busy lately."""
        return not self._troubled

    def troubled(self, model: str) -> tuple[frozenset[str], frozenset[str]]:
        """Nodes that admit no request now, and nodes that are busy with this model."""
        if not self._troubled:
            return _NOBODY, _NOBODY
        now = time.monotonic()
        breakers = {name: self.breaker(name) for name in self._troubled}
        closed = frozenset(name for name, breaker in breakers.items() if not breaker.admits(now))
        busy = frozenset(name for name, breaker in breakers.items() if breaker.is_busy(model, now))
        if not closed and not busy:
            self._troubled = {
                name
                for name, breaker in breakers.items()
                if breaker.state(now) != "closed" or breaker.failures
            }
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
        wanted = self._fleet.snapshot.configuration.nodes
        for name, node in list(self._nodes.items()):
            if wanted.get(name) != node.config:
                await self._nodes.pop(name).close()
            if name not in wanted:
                metrics.forget_node(name)
        for name, config in wanted.items():
            if name not in self._nodes:
                bounds = self._bounds_of(config)
                self._nodes[name] = Node(config, self._fleet, bounds, self._asking, self._ca)

    async def heard(self, within_s: float) -> None:
        """Returns when each has said what it has, or was found away; after `within_s` in any case."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await asyncio.gather(*(node.heard.wait() for node in self._nodes.values()))

    def _bounds_of(self, config: NodeConfig) -> PoolBounds:
        """The gateway's, with what the node has of its own."""
        ours = self._bounds
        return replace(
            ours,
            first_byte_s=config.first_byte_timeout_s or ours.first_byte_s,
            idle_s=config.idle_timeout_s or ours.idle_s,
            max_connections=min(ours.max_connections, self._share(config) or ours.max_connections),
        )

    def _share(self, config: NodeConfig) -> int:
        """This worker's part of what a node takes at once; 0: no limit."""
        return max(1, config.max_requests // self._workers) if config.max_requests else 0

    async def close(self) -> None:
        nodes, self._nodes = list(self._nodes.values()), {}
        await asyncio.gather(*(node.close() for node in nodes))
