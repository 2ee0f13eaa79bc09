"""What a worker knows of the fleet now: its current `FleetSnapshot`, and a way to wait for the next one."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import MappingProxyType

from fleet.snapshot import Configuration, FleetSnapshot, NodeView


class FleetState:
    """Holds the snapshot. Every change replaces it and wakes all who wait."""

    def __init__(self) -> None:
        self.snapshot = FleetSnapshot()
        self._changed = asyncio.Event()

    def set_configuration(self, configuration: Configuration) -> None:
        """Use a new configuration. Nodes that it lacks are dropped; new ones start unhealthy."""
        old = self.snapshot.nodes
        nodes = {
            name: replace(old[name], config=config) if name in old else NodeView(config)
            for name, config in configuration.nodes.items()
        }
        self._publish(FleetSnapshot(configuration, MappingProxyType(nodes)))

    def set_node(self, node: NodeView) -> None:
        if node.name not in self.snapshot.configuration.nodes:
            return  # it was removed while its last event was on the way
        self._publish(self.snapshot.with_node(node))

    def set_unreachable(self, name: str, reason: str) -> None:
        """Mark a node that does not answer: nothing is routed to it until its next event."""
        node = self.snapshot.nodes.get(name)
        if node is not None:
            self.set_node(replace(node, healthy=False, reason=reason))

    def _publish(self, snapshot: FleetSnapshot) -> None:
        if snapshot != self.snapshot:
            self.snapshot = snapshot
            self._changed.set()
            self._changed = asyncio.Event()

    async def changed(self, timeout_s: float) -> None:
        """Wait for the next change, for at most `timeout_s`."""
        changed = self._changed
        try:
            async with asyncio.timeout(timeout_s):
                await changed.wait()
        except TimeoutError:
            return
