"""Checked access to the parameters of requests.

What the protocol requires must be valid, else RpcError is raised. What it lets clients omit may be invalid.
"""

from __future__ import annotations

import os
import pathlib
from typing import Any

from helexa_acp.rpc.framing import INVALID_PARAMS, RpcError


def invalid(message: str) -> RpcError:
    """Return the error for invalid parameters."""
    return RpcError(INVALID_PARAMS, message)


def as_params(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid("params must be an object")
    return value


def string(params: dict[str, Any], key: str) -> str:
    value = params.get(key)
    if not isinstance(value, str):
        raise invalid(f"{key} must be a string")
    return value


def optional_string(params: dict[str, Any], key: str) -> str | None:
    value = params.get(key)
    if value is not None and not isinstance(value, str):
        raise invalid(f"{key} must be a string or null")
    return value


def absolute(params: dict[str, Any], key: str = "cwd") -> str:
    """Return a normalised absolute path."""
    path = string(params, key)
    if not pathlib.Path(path).is_absolute() or "\0" in path:
        raise invalid(f"{key} must be an absolute path, not {path[:200]!r}")
    return os.path.normpath(path)


def directories(params: dict[str, Any]) -> list[str]:
    """Return the additional directories. Invalid items are skipped, which the protocol permits."""
    value = params.get("additionalDirectories")
    items = value if isinstance(value, list) else []
    return [
        os.path.normpath(i)
        for i in items
        if isinstance(i, str) and pathlib.Path(i).is_absolute() and "\0" not in i
    ]


def exist(cwd: str, additional: list[str]) -> None:
    """Check that the directories of a new session exist."""
    for key, path in [("cwd", cwd), *(("additionalDirectories", path) for path in additional)]:
        if not pathlib.Path(path).is_dir():
            raise invalid(f"{key}: there is no directory {path[:200]!r}")


def system_prompt(params: dict[str, Any]) -> tuple[str, ...]:
    """Return the mode, append or override, and the text of the client's own system prompt.

    Empty if it sends none.
    """
    value = params.get("systemPrompt")
    if value is None:
        return ()
    if not isinstance(value, dict):
        raise invalid("systemPrompt must be an object")
    if value.get("mode") not in {"append", "override"}:
        raise invalid(f"systemPrompt.mode: {value.get('mode')!r} is neither append nor override")
    blocks = value.get("content")
    if not isinstance(blocks, list) or not blocks:
        raise invalid("systemPrompt.content must be a list of text blocks")
    for place, block in enumerate(blocks):
        if (
            not isinstance(block, dict)
            or block.get("type") != "text"
            or not isinstance(block.get("text"), str)
        ):
            raise invalid(f"systemPrompt.content[{place}] must be a text block")
    return value["mode"], "\n\n".join(block["text"] for block in blocks)


def mcp_servers(params: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the servers; none if they are missing, as some clients omit them."""
    value = params.get("mcpServers") or []
    if not isinstance(value, list):
        raise invalid("mcpServers must be a list")
    for place, server in enumerate(value):
        if not isinstance(server, dict) or not isinstance(server.get("name"), str):
            raise invalid(f"mcpServers[{place}] must be an object with a name")
        need = "url" if server.get("type") in {"http", "sse"} else "command"
        if not isinstance(server.get(need), str):
            raise invalid(f"mcpServers[{place}].{need} must be a string")
    return value
