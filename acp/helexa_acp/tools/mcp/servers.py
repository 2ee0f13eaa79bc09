"""The MCP servers of a session.

Each server has a task of its own, which connects, waits and disconnects. A server that fails or hangs costs
its tools and a notice, never the session. `session/new` does not wait for the connections; prompts do, for a
limited time that all prompts of the session share.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from helexa_acp.tools.mcp.call import reason
from helexa_acp.tools.mcp.connection import McpOffer, ask_offer, client_for, stdio_server
from helexa_acp.tools.mcp.host import McpHost
from helexa_acp.tools.mcp.prompts import McpPrompt
from helexa_acp.tools.mcp.resources import McpResourceTool
from helexa_acp.tools.mcp.stdio import StdioServer
from helexa_acp.tools.tool import Tool

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 30.0
PATIENCE_S = 10.0  # in all, for servers that are still connecting when a prompt arrives
STOP_TIMEOUT_S = 0.5


class McpServers:
    """Owns the tasks of the servers. `patience_s` is how long prompts may still wait for connections."""

    def __init__(self, cwd: str, patience_s: float = PATIENCE_S) -> None:
        self._cwd = cwd
        self._offers: dict[int, tuple[str, McpOffer]] = {}  # by the server's position in the list
        self._stop = asyncio.Event()
        self._connecting: dict[asyncio.Task[None], asyncio.Event] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.patience_s = patience_s

    @property
    def tools(self) -> dict[str, Tool]:
        """The tools of the connected servers. Of two tools with one name, the first server's counts."""
        found: dict[str, Tool] = {}
        for _, offer in self._in_order():
            found |= {name: tool for name, tool in offer.tools.items() if name not in found}
        readable = {name: offer.client for name, offer in self._in_order() if offer.has_resources}
        if readable:
            resources = McpResourceTool(readable)
            found[resources.spec.name] = resources
        return found

    @property
    def prompts(self) -> list[McpPrompt]:
        return [prompt for _, offer in self._in_order() for prompt in offer.prompts]

    def start(self, servers: list[dict[str, Any]], host: McpHost) -> None:
        for place, server in enumerate(servers):
            ready = asyncio.Event()
            task = asyncio.create_task(self._own(place, server, ready, host))
            self._connecting[task] = ready
            self._tasks.append(task)

    async def settle(self) -> None:
        """Wait for the servers that are still connecting, as long as the session has patience left."""
        waiting = [asyncio.create_task(e.wait()) for e in self._connecting.values() if not e.is_set()]
        if not waiting or self.patience_s <= 0:
            for task in waiting:
                task.cancel()
            return
        began = time.monotonic()
        try:
            await asyncio.wait(waiting, timeout=self.patience_s)
        finally:
            self.patience_s -= time.monotonic() - began
            for task in waiting:
                task.cancel()

    async def aclose(self) -> None:
        """Disconnect. Servers that are still connecting, or do not end in time, are cancelled."""
        self._stop.set()
        for task, ready in self._connecting.items():
            if not ready.is_set():
                task.cancel()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=STOP_TIMEOUT_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _in_order(self) -> list[tuple[str, McpOffer]]:
        return [self._offers[place] for place in sorted(self._offers)]

    async def _own(self, place: int, server: dict[str, Any], ready: asyncio.Event, host: McpHost) -> None:
        name = server["name"]
        program: StdioServer | None = None
        try:
            program = await asyncio.to_thread(stdio_server, server, self._cwd)
            await self._serve(place, server, program, ready, host)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - no server may end the session
            log.warning("MCP server %s: %r", name, error)
            words = program.last_words if program else ""
            why = f"{reason(error)} (its last words: {words})" if words else reason(error)
            host.notice("error", f"MCP server {name} is not available", why)
        finally:
            ready.set()
            if self._offers.pop(place, None) and not self._stop.is_set():
                host.servers_changed()

    async def _serve(
        self,
        place: int,
        server: dict[str, Any],
        program: StdioServer | None,
        ready: asyncio.Event,
        host: McpHost,
    ) -> None:
        async with (
            asyncio.timeout(CONNECT_TIMEOUT_S) as limit,
            client_for(server, program, host) as client,
        ):
            self._offers[place] = (server["name"], await ask_offer(client, server["name"]))
            limit.reschedule(None)
            ready.set()
            host.servers_changed()
            await self._stop.wait()
