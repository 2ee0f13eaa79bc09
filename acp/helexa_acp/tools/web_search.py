"""The tool `web_search`: a SearXNG server, or a tool of an MCP server, whichever the configuration names."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import httpx

from helexa_acp.cancellation import Cancelled
from helexa_acp.extensions import WebSearch
from helexa_acp.tools.errors import ToolError
from helexa_acp.tools.fetch import host_of, read_body
from helexa_acp.tools.tool import Outcome, Permission, PermissionRule, PreparedCall, Tool, ToolContext, spec
from helexa_acp.tools.truncation import clip, one_line
from helexa_acp.v1.updates import text_content

TIMEOUT_S = 30.0
MAX_BYTES = 2 * 1024 * 1024
MAX_QUERY_CHARS = 1000
MAX_SNIPPET_CHARS = 400
FORMAT_HINT = "; SearXNG needs json among the search.formats of its settings"

_SPEC = spec(
    "web_search",
    "Search the web. fetch reads a page that it finds.",
    ("query",),
    query={"type": "string"},
)


def web_search_tool(search: WebSearch, mcp_tools: Callable[[], Mapping[str, Tool]]) -> Tool:
    """Return the tool; `mcp_tools` returns those of the servers that are connected by then."""
    return SearxngTool(search) if search.url else McpSearchTool(search, mcp_tools)


class SearxngTool:
    kind = "fetch"
    read_only = False
    spec = _SPEC

    def __init__(self, search: WebSearch) -> None:
        self._search = search

    async def prepare(self, args: dict[str, Any], ctx: ToolContext) -> PreparedCall:
        query = _query(args)

        async def run() -> Outcome:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    found = await ctx.cancel.race(_ask(self._search, query))
            except (httpx.HTTPError, TimeoutError) as error:
                raise ToolError(f"{self._search.url}: {error or type(error).__name__}") from error
            except Cancelled:
                raise ToolError("cancelled") from None
            text = clip(_listed(found, self._search.max_results))
            return Outcome(text, [text_content(text)])

        host = host_of(self._search.url)
        rule = PermissionRule("web_search", "exact", host)
        return PreparedCall(_title(query), run, (Permission("web_search", host, (rule,)),))


class McpSearchTool:
    kind = "fetch"
    read_only = False
    spec = _SPEC

    def __init__(self, search: WebSearch, mcp_tools: Callable[[], Mapping[str, Tool]]) -> None:
        self._search = search
        self._mcp_tools = mcp_tools

    async def prepare(self, args: dict[str, Any], ctx: ToolContext) -> PreparedCall:
        query = _query(args)
        tool = self._mcp_tools().get(self._search.tool)
        if tool is None:
            raise ToolError(f"the web cannot be searched: no connected MCP server has {self._search.tool!r}")
        prepared = await tool.prepare({**self._search.parameters, self._search.argument: query}, ctx)
        return replace(prepared, title=f"{_title(query)} ({prepared.title})")


def _query(args: dict[str, Any]) -> str:
    query = str(args["query"]).strip()
    if not 0 < len(query) <= MAX_QUERY_CHARS:
        raise ToolError(f"query must be 1 to {MAX_QUERY_CHARS} characters")
    return query


def _title(query: str) -> str:
    return f"Search the web: {one_line(query, 80)}"


async def _ask(search: WebSearch, query: str) -> dict[str, Any]:
    """Return the server's answer. Raises ToolError, httpx.HTTPError."""
    parameters = {**search.parameters, "q": query, "format": "json"}
    async with (
        httpx.AsyncClient(timeout=TIMEOUT_S, headers=search.headers) as client,
        client.stream("GET", f"{search.url.rstrip('/')}/search", params=parameters) as answer,
    ):
        if not answer.is_success:
            hint = FORMAT_HINT if answer.status_code == httpx.codes.FORBIDDEN else ""
            raise ToolError(f"the search server answered {answer.status_code}{hint}")
        body = await read_body(answer, MAX_BYTES + 1)
    if len(body) > MAX_BYTES:
        raise ToolError(f"the search server's answer is longer than {MAX_BYTES} bytes")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ToolError("the search server's answer is not JSON") from error
    return found if isinstance(found, dict) else {}


def _listed(found: dict[str, Any], max_results: int) -> str:
    """Return what was found, for the model. Malformed results are left out."""
    results = found.get("results")
    lines: list[str] = []
    for result in results if isinstance(results, list) else []:
        match result:
            case {"url": str(url), "title": str(title)} if len(lines) < max_results:
                snippet = one_line(str(result.get("content") or ""), MAX_SNIPPET_CHARS)
                lines.append(f"{len(lines) + 1}. {one_line(title)}\n   {url}\n   {snippet}".rstrip())
    return "\n".join(lines) or "[nothing found]"
