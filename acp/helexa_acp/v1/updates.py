"""The bodies of `session/update` in protocol version 1, and what cards contain."""

from __future__ import annotations

from typing import Any

from helexa_acp.v1.content import text_block

Update = dict[str, Any]


def user_chunk(message_id: str, block: dict[str, Any]) -> Update:
    return {"sessionUpdate": "user_message_chunk", "messageId": message_id, "content": block}


def message_chunk(message_id: str, text: str) -> Update:
    return {"sessionUpdate": "agent_message_chunk", "messageId": message_id, "content": text_block(text)}


def thought_chunk(message_id: str, text: str) -> Update:
    return {"sessionUpdate": "agent_thought_chunk", "messageId": message_id, "content": text_block(text)}


def tool_call(card: dict[str, Any]) -> Update:
    return {"sessionUpdate": "tool_call", **card}


def tool_call_update(card_id: str, **changes: Any) -> Update:
    return {"sessionUpdate": "tool_call_update", "toolCallId": card_id, **changes}


def plan(entries: list[dict[str, Any]]) -> Update:
    return {"sessionUpdate": "plan", "entries": entries}


def commands(available: list[dict[str, Any]]) -> Update:
    return {"sessionUpdate": "available_commands_update", "availableCommands": available}


def mode(mode_id: str) -> Update:
    return {"sessionUpdate": "current_mode_update", "currentModeId": mode_id}


def config_options(options: list[dict[str, Any]]) -> Update:
    return {"sessionUpdate": "config_option_update", "configOptions": options}


def session_info(title: str | None, updated_at: str) -> Update:
    return {"sessionUpdate": "session_info_update", "title": title, "updatedAt": updated_at}


def usage(used: int, size: int, cost: dict[str, float], limits: list[dict[str, Any]]) -> Update:
    """Return the usage of the context window. The cost is left out if it is in several currencies.

    `limits` are the endpoint's rate limits, for which the protocol has no field.
    """
    body: Update = {"sessionUpdate": "usage_update", "used": used, "size": size}
    if len(cost) == 1:
        ((currency, amount),) = cost.items()
        body["cost"] = {"amount": round(amount, 6), "currency": currency}
    return {**body, "_meta": {"rateLimits": limits}} if limits else body


def notice(severity: str, title: str, description: str) -> Update:
    body: Update = {"sessionUpdate": "notice", "severity": severity, "title": title}
    return {**body, "description": description} if description else body


def compaction(compaction_id: str, status: str, *, summary: str = "", error: str = "") -> Update:
    body: Update = {"sessionUpdate": "compaction_update", "compactionId": compaction_id, "status": status}
    if summary:
        body["summary"] = [text_block(summary)]
    return {**body, "error": error} if error else body


def summary_chunk(compaction_id: str, text: str) -> Update:
    return {
        "sessionUpdate": "compaction_summary_chunk",
        "compactionId": compaction_id,
        "content": text_block(text),
    }


def text_content(text: str) -> dict[str, Any]:
    return {"type": "content", "content": text_block(text)}


def image_content(mime_type: str, data: str) -> dict[str, Any]:
    return {"type": "content", "content": {"type": "image", "mimeType": mime_type, "data": data}}


def link_content(uri: str, name: str, **more: str) -> dict[str, Any]:
    return {"type": "content", "content": {"type": "resource_link", "uri": uri, "name": name, **more}}


def diff_content(path: str, old: str | None, new: str) -> dict[str, Any]:
    return {"type": "diff", "path": path, "oldText": old, "newText": new}


def terminal_content(terminal_id: str) -> dict[str, Any]:
    return {"type": "terminal", "terminalId": terminal_id}


def location(path: str, line: int | None = None) -> dict[str, Any]:
    return {"path": path, "line": line} if line else {"path": path}
