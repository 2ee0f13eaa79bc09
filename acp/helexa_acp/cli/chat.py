"""`helexa-acp chat`: a session in this terminal, with the same agent that an editor gets.

Agent and terminal are two peers of the protocol in one process, so this module knows nothing of the agent's
loop. Ctrl-C cancels the turn; end of input ends the session.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from pathlib import Path
from typing import Any

from helexa_acp.agent.server import Agent
from helexa_acp.config import Config, load_config
from helexa_acp.rpc.connection import RpcConnection
from helexa_acp.rpc.framing import METHOD_NOT_FOUND, RpcError, decode
from helexa_acp.v1.visible import visible


class Loopback:
    """A writer that hands each line to the other connection."""

    def __init__(self) -> None:
        self.other: RpcConnection | None = None

    def write(self, line: bytes) -> None:
        message = decode(line)
        if self.other is not None and message is not None:
            self.other.receive(message)

    async def drain(self) -> None:
        await asyncio.sleep(0)


class ChatClient:
    """The client of one session, on the terminal's standard input and output."""

    def __init__(self, config: Config) -> None:
        to_agent = Loopback()
        to_client = Loopback()
        self.agent = Agent(config, to_client)
        self.connection = RpcConnection(to_agent, self._on_request, self._on_notification)
        to_agent.other = self.agent.connection
        to_client.other = self.connection
        self._last = ""  # the kind of what was written last

    async def run(self) -> int:
        await self.connection.request("initialize", {"protocolVersion": 1, "clientCapabilities": {}})
        session = await self.connection.request("session/new", {"cwd": str(Path.cwd()), "mcpServers": []})
        session_id = session["sessionId"]
        cancel = {"sessionId": session_id}
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self.connection.notify, "session/cancel", cancel)
        try:
            while (text := await _line("\n> ")) is not None:
                if text:
                    await self._prompt(session_id, text)
        finally:
            await self.agent.aclose()
            await self.connection.close()
        _write("\n")
        return 0

    async def _prompt(self, session_id: str, text: str) -> None:
        prompt = [{"type": "text", "text": text}]
        try:
            answer = await self.connection.request(
                "session/prompt", {"sessionId": session_id, "prompt": prompt}
            )
        except RpcError as error:
            _write(f"\n! {error}\n")
            return
        self._last = ""
        _write("\n" if answer["stopReason"] == "end_turn" else f"\n({answer['stopReason']})\n")

    async def _on_notification(self, method: str, params: Any) -> None:
        if method != "session/update":
            return
        update = params["update"]
        match update["sessionUpdate"]:
            case "agent_message_chunk" | "agent_thought_chunk" as kind:
                self._flow(kind, update["content"].get("text", ""))
            case "tool_call" if update.get("status") == "in_progress":  # a wait for the endpoint
                self._block(f"* {update['title']}")
            case "tool_call_update" if "title" in update:
                self._block(f"* {update['title']}")
            case "tool_call_update" if update.get("status") == "failed":
                self._block("  failed")
            case "plan":
                marks = {"completed": "x", "in_progress": ">", "pending": " "}
                for entry in update["entries"]:
                    self._block(f"  [{marks[entry['status']]}] {entry['content']}")

    def _flow(self, kind: str, text: str) -> None:
        if kind != self._last:
            _write("\n(thinking) " if kind == "agent_thought_chunk" else "\n")
        self._last = kind
        _write(visible(text))

    def _block(self, line: str) -> None:
        self._last = "block"
        _write(f"\n{line}")

    async def _on_request(self, method: str, params: Any) -> Any:
        if method != "session/request_permission":
            raise RpcError(METHOD_NOT_FOUND, f"this terminal has no {method}")
        for item in params["toolCall"].get("content", []):
            match item:
                case {"type": "diff"}:
                    _write(_diff(item))
                case {"type": "content", "content": {"type": "text", "text": text}}:
                    _write(f"\n{text}")
        options = params["options"]
        choices = "".join(f"\n  {place} {option['name']}" for place, option in enumerate(options, 1))
        _write(f"\n? {params['toolCall']['title']}{choices}")
        answer = await _line("\n? ")
        place = int(answer) if answer and answer.isdecimal() else 0
        if not 1 <= place <= len(options):
            return {"outcome": {"outcome": "cancelled"}}
        return {"outcome": {"outcome": "selected", "optionId": options[place - 1]["optionId"]}}


def main(argv: list[str]) -> int:
    if argv:
        sys.stderr.write("helexa-acp chat takes no arguments\n")
        return 2
    with contextlib.suppress(KeyboardInterrupt):
        return asyncio.run(ChatClient(load_config()).run())
    return 130


def _diff(item: dict[str, Any]) -> str:
    import difflib  # noqa: PLC0415 - only when there is something to compare

    old = (item.get("oldText") or "").splitlines()
    new = item["newText"].splitlines()
    return "\n" + "\n".join(difflib.unified_diff(old, new, item["path"], item["path"], lineterm=""))


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


async def _line(prompt: str) -> str | None:
    """Return a line without its end, or None at the end of input."""
    _write(prompt)
    line = await asyncio.to_thread(sys.stdin.readline)
    return line.strip() if line else None
