"""The tool `mcp_resource`, which lists and reads the resources of the MCP servers that have some."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from helexa_acp.tools.errors import ToolError
from helexa_acp.tools.mcp.call import reason
from helexa_acp.tools.mcp.contents import resource_text
from helexa_acp.tools.tool import Outcome, Permission, PermissionRule, PreparedCall, ToolContext, spec
from helexa_acp.tools.truncation import clip
from helexa_acp.v1.updates import text_content

if TYPE_CHECKING:
    import mcp

RESOURCE_TIMEOUT_S = 60.0
MAX_LISTED = 500


class McpResourceTool:
    """Reads from `clients`, the connected servers that have resources, by name."""

    kind = "fetch"
    read_only = False

    def __init__(self, clients: dict[str, mcp.Client]) -> None:
        self._clients = clients
        self.spec = spec(
            "mcp_resource",
            "Read a resource of an MCP server by its uri, or without uri list the resources of the server.",
            ("server",),
            server={"type": "string", "enum": sorted(clients)},
            uri={"type": "string"},
        )

    async def prepare(self, args: dict[str, Any], ctx: ToolContext) -> PreparedCall:
        server, uri = args["server"], args.get("uri")
        client = self._clients[server]

        async def run() -> Outcome:
            try:
                async with asyncio.timeout(RESOURCE_TIMEOUT_S):
                    text = clip(await ctx.cancel.race(_read(client, uri) if uri else _list(client)))
            except TimeoutError:
                raise ToolError(f"{server} did not answer for {RESOURCE_TIMEOUT_S:.0f} s") from None
            except Exception as error:
                raise ToolError(reason(error)) from error
            return Outcome(text, [text_content(text)])

        name = f"{server}: resources"
        title = f"{server}: read {uri}" if uri else f"{server}: list the resources"
        return PreparedCall(title, run, (Permission(name, uri or "", (PermissionRule(name, "any"),)),))


async def _read(client: mcp.Client, uri: str) -> str:
    result = await client.read_resource(uri)
    return "\n".join(resource_text(resource) for resource in result.contents) or "[empty]"


async def _list(client: mcp.Client) -> str:
    lines: list[str] = []
    cursor: str | None = None
    while len(lines) < MAX_LISTED:
        page = await client.list_resources(cursor=cursor)
        lines += [_line(resource) for resource in page.resources]
        cursor = page.next_cursor
        if not cursor:
            break
    return "\n".join(lines[:MAX_LISTED]) or "[none]"


def _line(resource: Any) -> str:
    return f"{resource.uri}  {resource.title or resource.name}" + (
        f": {resource.description}" if resource.description else ""
    )
