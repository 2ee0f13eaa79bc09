"""A small MCP server for the tests, over stdio or HTTP (`python mcp_server.py PORT`)."""

from __future__ import annotations

import sys

from mcp.server import MCPServer

server = MCPServer("tests")


@server.tool()
def add(a: int, b: int) -> str:
    """Add two numbers."""
    return str(a + b)


@server.tool()
def fail() -> str:
    """Fail."""
    raise ValueError("it went wrong")


@server.tool()
def find(words: str) -> str:
    """Find something."""
    return f"found {words}"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", port=int(sys.argv[1]))
    else:
        server.run("stdio")
