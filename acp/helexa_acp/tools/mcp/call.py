"""The tools of an MCP server."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

from helexa_acp.provider.types import ToolSpec
from helexa_acp.tools.errors import ToolError
from helexa_acp.tools.mcp.contents import outcome_of
from helexa_acp.tools.tool import Outcome, Permission, PermissionRule, PreparedCall, ToolContext
from helexa_acp.tools.truncation import clip, one_line

if TYPE_CHECKING:
    import mcp

CALL_TIMEOUT_S = 600.0
MAX_NAME_CHARS = 64
MAX_PROGRESS_UPDATES = 200


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
        name = f"{self._server}: {self._tool}"  # in full, as two tools may share the name for the wires

        async def run() -> Outcome:
            ctx.files.command_begins()
            progress = _Progress(name, ctx)
            try:
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    call = self._client.call_tool(self._tool, args, progress_callback=progress.show)
                    result = await ctx.cancel.race(call)
            except TimeoutError:
                raise ToolError(f"{self._server} did not answer for {CALL_TIMEOUT_S:.0f} s") from None
            except Exception as error:
                raise ToolError(reason(error)) from error
            progress.end()
            return outcome_of(result)

        return PreparedCall(name, run, (Permission(name, "", (PermissionRule(name, "any"),)),))


class _Progress:
    """The progress that a server reports of a call, in the title of its card."""

    def __init__(self, name: str, ctx: ToolContext) -> None:
        self._name = name
        self._show = ctx.show
        self._title = name
        self._num_left = MAX_PROGRESS_UPDATES

    async def show(self, progress: float, total: float | None, message: str | None) -> None:
        part = f"{progress / total:.0%}" if total else f"{progress:g}"
        title = one_line(f"{self._name}: {part} {message or ''}")
        if title != self._title and self._num_left:
            self._num_left -= 1
            self._title = title
            self._show(title=title)

    def end(self) -> None:
        if self._title != self._name:
            self._show(title=self._name)


def reason(error: BaseException) -> str:
    """Return the message of the innermost error: the library wraps errors in groups."""
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return str(error) or type(error).__name__
