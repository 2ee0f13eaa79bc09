"""The connection to one MCP server, by way of the official `mcp` library, and what the server has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helexa_acp.tools.errors import ToolError
from helexa_acp.tools.mcp.call import CALL_TIMEOUT_S, McpTool
from helexa_acp.tools.mcp.host import McpHost
from helexa_acp.tools.mcp.prompts import MAX_PROMPTS, McpPrompt
from helexa_acp.tools.mcp.stdio import StdioServer

if TYPE_CHECKING:
    import mcp
    import mcp_types

MAX_TOOLS = 200


@dataclass(frozen=True, slots=True)
class McpOffer:
    """What a connected server has for the session."""

    client: mcp.Client
    tools: dict[str, McpTool] = field(default_factory=dict)
    prompts: list[McpPrompt] = field(default_factory=list)
    has_resources: bool = False


def stdio_server(server: dict[str, Any], cwd: str) -> StdioServer | None:
    """Return the program of a server over stdio, None for a server over HTTP. Raises ToolError."""
    kind = server.get("type")
    if kind == "sse":
        raise ToolError("the sse transport is not supported; use http")
    if kind == "http":
        return None
    from mcp.client.stdio import get_default_environment  # noqa: PLC0415 - takes most of a second

    env = {**get_default_environment(), **_pairs(server.get("env"))}
    return StdioServer(server["name"], server["command"], list(map(str, server.get("args") or [])), env, cwd)


def client_for(server: dict[str, Any], program: StdioServer | None, host: McpHost) -> mcp.Client:
    """Return a client that is not connected yet."""
    import mcp  # noqa: PLC0415
    import mcp_types  # noqa: PLC0415

    name = server["name"]

    async def list_roots(context: Any) -> mcp_types.ListRootsResult:
        paths = map(Path, host.directories())
        roots = [{"uri": path.as_uri(), "name": path.name} for path in paths]
        return mcp_types.ListRootsResult.model_validate({"roots": roots})

    async def elicit(context: Any, params: Any) -> mcp_types.ElicitResult | mcp_types.ErrorData:
        return await host.elicit(name, params)

    async def sample(context: Any, params: Any) -> mcp_types.CreateMessageResult | mcp_types.ErrorData:
        return await host.sample(name, params)

    can_ask = host.can_fill_forms or host.can_open_urls
    return mcp.Client(
        program.transport() if program else _http_transport(server),
        list_roots_callback=list_roots,
        sampling_callback=sample,
        elicitation_callback=elicit if can_ask else None,
    )


def _http_transport(server: dict[str, Any]) -> Any:
    import httpx2  # noqa: PLC0415 - the HTTP client of `mcp`
    from mcp.client.streamable_http import streamable_http_client  # noqa: PLC0415

    headers = _pairs(server.get("headers"))
    http = httpx2.AsyncClient(headers=headers, timeout=httpx2.Timeout(30, read=CALL_TIMEOUT_S))
    return streamable_http_client(server["url"], http_client=http)


def _pairs(items: Any) -> dict[str, str]:
    """Return the values by name. Invalid items are skipped, which the protocol permits."""
    pairs = {}
    for item in items if isinstance(items, list) else []:
        match item:
            case {"name": str(name), "value": str(value)}:
                pairs[name] = value
    return pairs


async def ask_offer(client: mcp.Client, server: str) -> McpOffer:
    """Return what a connected server has."""
    capabilities = client.server_capabilities
    tools: dict[str, McpTool] = {}
    if capabilities.tools is not None:
        for tool in await _all(client.list_tools, "tools", MAX_TOOLS):
            offered = McpTool(client, server, tool)
            tools.setdefault(offered.spec.name, offered)
    prompts = []
    if capabilities.prompts is not None:
        listed = await _all(client.list_prompts, "prompts", MAX_PROMPTS)
        prompts = [McpPrompt(client, server, prompt) for prompt in listed]
    return McpOffer(client, tools, prompts, capabilities.resources is not None)


async def _all(fetch: Callable[..., Awaitable[Any]], name: str, limit: int) -> list[Any]:
    """Return the items of all pages, up to the limit."""
    found: list[Any] = []
    cursor: str | None = None
    while len(found) < limit:
        page = await fetch(cursor=cursor)
        found += getattr(page, name)
        cursor = page.next_cursor
        if not cursor:
            break
    return found[:limit]
