"""The client: its capabilities, and the agent's calls to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from helexa_acp.rpc.connection import RpcConnection
from helexa_acp.rpc.framing import INTERNAL_ERROR, RpcError
from helexa_acp.v1.subagents import shown_in
from helexa_acp.v1.visible import visible, visible_card

if TYPE_CHECKING:
    from helexa_acp.v1.updates import Update


def _at(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


class Client:
    """A connected client. Capabilities that are missing or malformed count as absent."""

    def __init__(self, connection: RpcConnection, capabilities: Any = None) -> None:
        self._connection = connection
        self.can_read = _at(capabilities, "fs", "readTextFile") is True
        self.can_write = _at(capabilities, "fs", "writeTextFile") is True
        self.has_terminal = _at(capabilities, "terminal") is True
        self.has_notices = isinstance(_at(capabilities, "session", "notices"), dict)
        self.has_compaction = isinstance(_at(capabilities, "session", "compaction"), dict)
        self.has_subagents = isinstance(_at(capabilities, "subagents"), dict)  # unstable
        self.can_fill_forms = isinstance(_at(capabilities, "elicitation", "form"), dict)
        self.can_open_urls = isinstance(_at(capabilities, "elicitation", "url"), dict)
        self.has_terminal_auth = _at(capabilities, "auth", "terminal") is True

    def understands(self, update: Update) -> bool:
        """Return whether the client has declared the capability that the update needs, if it needs one."""
        kind = update["sessionUpdate"]
        if kind == "notice":
            return self.has_notices
        if kind == "subagent_update" or (kind == "agent_message_chunk" and shown_in(update)):
            return self.has_subagents
        return self.has_compaction or not kind.startswith("compaction")

    def update(self, session_id: str, update: Update) -> None:
        """Send an update of a session, or of a sub-agent's in it if the client knows of those."""
        if update["sessionUpdate"] in {"tool_call", "tool_call_update"}:
            update = visible_card(update)
        if self.has_subagents:
            session_id = shown_in(update) or session_id
        self._connection.notify("session/update", {"sessionId": session_id, "update": update})

    async def drain(self) -> None:
        await self._connection.drain()

    async def ask(
        self, session_id: str, tool_call: dict[str, Any], options: list[dict[str, Any]]
    ) -> str | None:
        """Return the id of the option that the user chose, or None if the client cancelled the turn instead.

        Raises RpcError.
        """
        params = {
            "sessionId": session_id,
            "toolCall": visible_card(tool_call),
            "options": visible_card(options),
        }
        outcome = _at(await self._connection.request("session/request_permission", params), "outcome")
        if _at(outcome, "outcome") != "selected":
            return None
        chosen = _at(outcome, "optionId")
        return chosen if isinstance(chosen, str) else None

    async def fill_form(
        self, session_id: str, message: str, schema: dict[str, Any], card_id: str | None = None
    ) -> tuple[str, dict[str, Any] | None]:
        """Ask the user to fill in a form. Return accept, decline or cancel, and what was filled in.

        Raises RpcError.
        """
        params = {"sessionId": session_id, "mode": "form", "message": message, "requestedSchema": schema}
        return await self._elicit({**params, "toolCallId": card_id} if card_id else params)

    async def open_url(
        self, session_id: str, message: str, url: str, elicitation_id: str
    ) -> tuple[str, dict[str, Any] | None]:
        """Ask the user to open a page, as `fill_form` asks for a form. Raises RpcError."""
        params = {"sessionId": session_id, "mode": "url", "message": message, "url": url}
        return await self._elicit({**params, "elicitationId": elicitation_id})

    async def _elicit(self, params: dict[str, Any]) -> tuple[str, dict[str, Any] | None]:
        shown = {**params, "message": visible(params["message"])}
        result = await self._connection.request("elicitation/create", shown)
        action, content = _at(result, "action"), _at(result, "content")
        if action not in {"accept", "decline"}:
            return "cancel", None
        return action, content if action == "accept" and isinstance(content, dict) else None

    async def read_text(self, session_id: str, path: str) -> str:
        """Return the text of a file as the editor has it. Raises RpcError."""
        result = await self._connection.request("fs/read_text_file", {"sessionId": session_id, "path": path})
        return _string(result, "content")

    async def write_text(self, session_id: str, path: str, content: str) -> None:
        """Write a file through the editor. Raises RpcError."""
        params = {"sessionId": session_id, "path": path, "content": content}
        await self._connection.request("fs/write_text_file", params)

    async def create_terminal(self, session_id: str, argv: list[str], cwd: str, limit_bytes: int) -> str:
        """Return the id of a terminal that runs a program. Raises RpcError."""
        params = {
            "sessionId": session_id,
            "command": argv[0],
            "args": argv[1:],
            "cwd": cwd,
            "outputByteLimit": limit_bytes,
        }
        return _string(await self._connection.request("terminal/create", params), "terminalId")

    async def terminal(self, verb: str, session_id: str, terminal_id: str) -> dict[str, Any]:
        """Return the result of `output`, `wait_for_exit`, `kill` or `release`. Raises RpcError."""
        params = {"sessionId": session_id, "terminalId": terminal_id}
        result = await self._connection.request(f"terminal/{verb}", params)
        return result if isinstance(result, dict) else {}


def _string(result: Any, key: str) -> str:
    value = _at(result, key)
    if not isinstance(value, str):
        raise RpcError(INTERNAL_ERROR, f"the client's answer has no {key}")
    return value
