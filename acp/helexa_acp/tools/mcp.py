"""The MCP servers of a session, by way of the official `mcp` library.

Each server has a task of its own, which connects, waits and disconnects. A server that fails or hangs costs
its tools and a notice, never the session. `session/new` does not wait for the connections; the first prompt
does, for a limited time.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from helexa_acp.provider.types import ImagePart, ToolSpec
from helexa_acp.tools.errors import ToolError
from helexa_acp.tools.tool import Outcome, Permission, PermissionRule, PreparedCall, Tool, ToolContext
from helexa_acp.tools.truncation import clip
from helexa_acp.v1.updates import image_content, text_content

if TYPE_CHECKING:
    import mcp

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 30.0
FIRST_PROMPT_WAIT_S = 10.0
CALL_TIMEOUT_S = 600.0
MAX_TOOLS = 200
MAX_NAME_CHARS = 64

Notify = Callable[[str, str, str], None]


class McpServers:
    """Owns the tasks of the servers. `notify` takes the severity, title and description of a notice."""

    def __init__(self, cwd: str, notify: Notify) -> None:
        self._tools: dict[int, dict[str, Tool]] = {}  # by the server's position in the list
        self._cwd = cwd
        self._notify = notify
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._ready: list[asyncio.Event] = []

    @property
    def tools(self) -> dict[str, Tool]:
        """The tools of the connected servers. Of two tools with one name, the first server's counts."""
        found: dict[str, Tool] = {}
        for place in sorted(self._tools):
            found |= {name: tool for name, tool in self._tools[place].items() if name not in found}
        return found

    def start(self, servers: list[dict[str, Any]]) -> None:
        for place, server in enumerate(servers):
            ready = asyncio.Event()
            self._ready.append(ready)
            self._tasks.append(asyncio.create_task(self._own(place, server, ready)))

    async def settle(self) -> None:
        """Wait for the servers that are still connecting, at most FIRST_PROMPT_WAIT_S."""
        waiting = [asyncio.create_task(ready.wait()) for ready in self._ready if not ready.is_set()]
        if waiting:
            await asyncio.wait(waiting, timeout=FIRST_PROMPT_WAIT_S)
        for task in waiting:
            task.cancel()

    async def aclose(self) -> None:
        """Disconnect; cancel the tasks of servers that do not end."""
        self._stop.set()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=5)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _own(self, place: int, server: dict[str, Any], ready: asyncio.Event) -> None:
        name = server["name"]
        try:
            await self._serve(place, server, ready)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - no server may end the session
            log.warning("MCP server %s: %r", name, error)
            self._notify("error", f"MCP server {name} is not available", _reason(error))
        finally:
            ready.set()
            self._tools.pop(place, None)

    async def _serve(self, place: int, server: dict[str, Any], ready: asyncio.Event) -> None:
        if server.get("type") == "sse":
            raise ToolError("the sse transport is not supported; use http")
        client = await asyncio.to_thread(_client, server, self._cwd)
        async with asyncio.timeout(CONNECT_TIMEOUT_S) as limit, client:
            tools = await _list(client)
            limit.reschedule(None)
            self._tools[place] = {}
            for tool in tools:
                offered = McpTool(client, server["name"], tool)
                self._tools[place].setdefault(offered.spec.name, offered)
            ready.set()
            await self._stop.wait()


def _client(server: dict[str, Any], cwd: str) -> mcp.Client:
    """Return a client that is not connected yet. Blocks for the import of `mcp`, most of a second."""
    import mcp  # noqa: PLC0415
    from mcp.client.streamable_http import streamable_http_client  # noqa: PLC0415

    if server.get("type") == "http":
        import httpx2  # noqa: PLC0415 - the HTTP client of `mcp`

        headers = _pairs(server.get("headers"))
        http = httpx2.AsyncClient(headers=headers, timeout=httpx2.Timeout(30, read=CALL_TIMEOUT_S))
        return mcp.Client(streamable_http_client(server["url"], http_client=http))
    env = _pairs(server.get("env"))
    args = [str(arg) for arg in server.get("args") or []]
    return mcp.Client(mcp.StdioServerParameters(command=server["command"], args=args, env=env, cwd=cwd))


def _pairs(items: Any) -> dict[str, str]:
    """Return the values by name. Invalid items are skipped, which the protocol permits."""
    pairs = {}
    for item in items if isinstance(items, list) else []:
        match item:
            case {"name": str(name), "value": str(value)}:
                pairs[name] = value
    return pairs


async def _list(client: mcp.Client) -> list[Any]:
    tools: list[Any] = []
    cursor: str | None = None
    while len(tools) < MAX_TOOLS:
        page = await client.list_tools(cursor=cursor)
        tools += page.tools
        cursor = page.next_cursor
        if not cursor:
            break
    return tools[:MAX_TOOLS]


def tool_name(server: str, tool: str) -> str:
    """Return a name for the tool that every wire accepts."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", f"mcp__{server}__{tool}")[:MAX_NAME_CHARS]


class McpTool:
    """A tool of a connected server."""

    kind = "other"
    read_only = False  # a server's own claims are not trusted

    def __init__(self, client: mcp.Client, server: str, tool: Any) -> None:
        self._client = client
        self._server = server
        self._tool = tool.name
        schema = tool.input_schema if isinstance(tool.input_schema, dict) else {}
        self.spec = ToolSpec(
            tool_name(server, tool.name),
            clip(tool.description or tool.name, 4000),
            {"type": "object", **schema},
        )

    async def prepare(self, args: dict[str, Any], ctx: ToolContext) -> PreparedCall:
        async def run() -> Outcome:
            ctx.files.command_begins()
            try:
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    result = await ctx.cancel.race(self._client.call_tool(self._tool, args))
            except TimeoutError:
                raise ToolError(f"{self._server} did not answer for {CALL_TIMEOUT_S:.0f} s") from None
            except Exception as error:
                raise ToolError(_reason(error)) from error
            return _outcome(result)

        name = f"{self._server}: {self._tool}"  # in full, as two tools may share the name for the wires
        return PreparedCall(name, run, (Permission(name, "", (PermissionRule(name, "any"),)),))


def _outcome(result: Any) -> Outcome:
    texts: list[str] = []
    images: list[ImagePart] = []
    for block in result.content:
        match block.type:
            case "text":
                texts.append(block.text)
            case "image":
                images.append(ImagePart(block.mime_type, block.data))
            case "resource" if hasattr(block.resource, "text"):
                texts.append(block.resource.text)
            case kind:
                texts.append(f"[a block of type {kind}]")
    text = clip("\n".join(texts))
    content = [text_content(text)] if text else []
    content += [image_content(image.mime_type, image.data) for image in images]
    return Outcome(text, content, images=tuple(images), is_error=bool(result.is_error))


def _reason(error: BaseException) -> str:
    """Return the message of the innermost error: the library wraps errors in groups."""
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return str(error) or type(error).__name__
