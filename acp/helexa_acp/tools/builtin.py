"""The tools of every session."""

from __future__ import annotations

from collections.abc import Callable

from helexa_acp.tools.ask import AskTool
from helexa_acp.tools.background_tool import BackgroundTool
from helexa_acp.tools.edit import EditTool, WriteTool
from helexa_acp.tools.fetch import FetchTool
from helexa_acp.tools.plan import PlanTool
from helexa_acp.tools.read import ListTool, ReadTool
from helexa_acp.tools.search import SearchTool
from helexa_acp.tools.shell import ShellTool
from helexa_acp.tools.tool import Tool


def builtin_tools(
    is_offered: Callable[[str], bool] = lambda name: True, search: Tool | None = None
) -> dict[str, Tool]:
    """Return the tools by name, without those that are not offered; `search` is that of the web."""
    tools: tuple[Tool, ...] = (
        ReadTool(),
        WriteTool(),
        EditTool(),
        ListTool(),
        SearchTool(),
        ShellTool(has_background=is_offered("background")),
        BackgroundTool(),
        FetchTool(),
        PlanTool(),
        AskTool(),
        *([search] if search else []),
    )
    return {tool.spec.name: tool for tool in tools if is_offered(tool.spec.name)}
