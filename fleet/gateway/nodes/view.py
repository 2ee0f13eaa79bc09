"""This worker's current `FleetSnapshot`, and a way to wait for the next one."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import MappingProxyType

from fleet.snapshot import Configuration, FleetSnapshot, NodeView


class FleetView:
    """Holds the snapshot; every change makes a new one and wakes whoever waits."""

    def __init__(self) -> None:
        self.snapshot = FleetSnapshot()
        self._changed = asyncio.Event()

    def set_configuration(self, configuration: Configuration) -> None:
        """New configuration; views of nodes that are gone go, new nodes start unhealthy."""
        old = self.snapshot.nodes
        nodes = {
            name: replace(old[name], config=config) if name in old else NodeView(config)
            for name, config in configuration.nodes.items()
        }
        self._publish(FleetSnapshot(configuration, MappingProxyType(nodes)))

    def set_node(self, node: NodeView) -> None:
        if node.name not in self.snapshot.config.nodes:
            return  # removed while its last event was on the way
        self._publish(self.snapshot.with_node(node))

    def set_unreachable(self, name: str, reason: str) -> None:
        """The node does not answer: nothing is routed to it until it says something again."""
        node = self.snapshot.nodes.get(name)
        if node is not None:
            self.set_node(replace(node, healthy=False, reason=reason))

    def _publish(self, snapshot: FleetSnapshot) -> None:
        if snapshot != self.snapshot:
            self.snapshot = snapshot
            self._changed.set()
            self._changed = asyncio.Event()

    async def changed(self, timeout_s: float) -> None:
        """Returns at the next change, or after `timeout_s`."""
        changed = self._changed
        try:
            async with asyncio.timeout(timeout_s):
                await changed.wait()
        except TimeoutError:
            return
