"""Deferral of schemas: where MCP servers have many tools, models are offered these by name, in one tool.

All schemas would stand at the start of every request. This way a request is short, and its start stays the
same, so that a server's prefix cache holds. A model gets a schema when it needs it, and calls through the
same tool; hooks, permissions and cards see the tool that is meant.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from helexa_acp.agent.reply import PendingCall
from helexa_acp.provider.tool_arguments import BadArgumentsError, parse_arguments
from helexa_acp.provider.types import ToolSpec
from helexa_acp.tools import schema
from helexa_acp.tools.errors import ToolError
from helexa_acp.tools.mcp.call import McpTool
from helexa_acp.tools.tool import Outcome, Tool, spec
from helexa_acp.tools.truncation import one_line
from helexa_acp.v1.updates import text_content

NAME = "more_tools"
MAX_OFFERED_CHARS = 8_000  # of descriptions and schemas of MCP tools, about 2000 tokens
MAX_SUMMARY_CHARS = 60


def offered(tools: Mapping[str, Tool]) -> tuple[ToolSpec, ...]:
    """Return what a model is offered of these tools."""
    from_servers = [tool.spec for tool in tools.values() if isinstance(tool, McpTool)]
    if sum(map(_size, from_servers)) <= MAX_OFFERED_CHARS:
        return tuple(tool.spec for tool in tools.values())
    own = (tool.spec for tool in tools.values() if not isinstance(tool, McpTool))
    return (*own, _collection(from_servers))


def unwrapped(call: PendingCall, tools: Mapping[str, Tool]) -> PendingCall | Outcome:
    """Return the call that is meant, or what a model is told of a tool. Raises ToolError."""
    if call.name != NAME:
        return call
    try:
        args = parse_arguments(call.arguments)
    except BadArgumentsError as error:
        raise ToolError(str(error)) from error
    schema.check(_collection([]).parameters, args)
    tool = tools.get(args["name"])
    if not isinstance(tool, McpTool):
        raise ToolError(f"there is no tool {args['name']!r} among those of {NAME}")
    if "arguments" not in args:
        return _described(tool.spec)
    return replace(call, name=args["name"], arguments=json.dumps(args["arguments"]))


def _size(tool: ToolSpec) -> int:
    return len(tool.description) + len(json.dumps(tool.parameters))


def _collection(specs: list[ToolSpec]) -> ToolSpec:
    names = "".join(f"\n{tool.name}: {one_line(tool.description, MAX_SUMMARY_CHARS)}" for tool in specs)
    arguments: dict[str, Any] = {"type": "object", "description": "as the tool's schema asks"}
    return spec(
        NAME,
        f"Call one of the tools below. Without arguments it tells what the tool does and takes.{names}",
        ("name",),
        name={"type": "string"},
        arguments=arguments,
    )


def _described(tool: ToolSpec) -> Outcome:
    text = f"{tool.description}\n\nSchema of its arguments: {json.dumps(tool.parameters)}"
    return Outcome(text, [text_content(text)])
