"""The tools that every session has."""

from __future__ import annotations

from helexa_acp.tools.edit import Edit, Write
from helexa_acp.tools.fetch import Fetch
from helexa_acp.tools.plan import Plan
from helexa_acp.tools.read import List, Read
from helexa_acp.tools.search import Search
from helexa_acp.tools.shell import Shell
from helexa_acp.tools.tool import Tool


def builtin_tools() -> dict[str, Tool]:
    tools: tuple[Tool, ...] = (Read(), Write(), Edit(), List(), Search(), Shell(), Fetch(), Plan())
    return {tool.spec.name: tool for tool in tools}
