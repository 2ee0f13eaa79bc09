"""Agent and client in one process, for many short conversations. The schema judges every line of the agent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from acp_testing.clients import SCHEMA
from acp_testing.schema import WireJudge
from helexa_acp.agent.server import Agent
from helexa_acp.agent.session import Home
from helexa_acp.agent.sessions import Sessions
from helexa_acp.config import Config, parse_config
from helexa_acp.provider.endpoints import Endpoints
from helexa_acp.provider.http import HttpProvider
from helexa_acp.provider.quirks import QuirkBook
from helexa_acp.provider.wires.registry import ADAPTERS
from helexa_acp.rpc.framing import decode
from helexa_acp.storage.store import SessionStore

TIMEOUT_S = 20

Serve = Callable[[httpx.Request], httpx.Response]
Answer = Callable[
    [dict[str, Any]], dict[str, Any]
]  # from the agent's request to the client's result or error


class Conversation:
    """A client, and an agent whose one endpoint is `serve`; `answer` answers the agent's requests."""

    def __init__(self, data: Path, serve: Serve, answer: Answer, wire: str = "openai-chat") -> None:
        self.messages: list[dict[str, Any]] = []
        self._answer = answer
        self._judge = WireJudge(SCHEMA)
        self._waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._next_id = 0
        endpoint = {"name": "e", "base_url": "http://e/v1", "wire_api": wire, "default_model": "m"}
        self._config = parse_config({"endpoints": [endpoint]}, source="test", env={})
        self._home = _home(data, self._config, serve)
        self.agent = Agent(self._config, self)

    async def start(self, capabilities: dict[str, Any]) -> None:
        await self.request("initialize", protocolVersion=1, clientCapabilities=capabilities)
        self.agent._sessions = Sessions(self._config, self.agent.client, self._home)

    async def aclose(self) -> None:
        await self.agent.aclose()

    def write(self, line: bytes) -> None:
        """Take a line of the agent."""
        message = self._judge.judge(line)
        self.messages.append(message)
        if "method" not in message:
            future = self._waiting.pop(json.dumps(message["id"]), None)
            if future is not None:
                future.set_result(message)
        elif "id" in message:
            reply = {"jsonrpc": "2.0", "id": message["id"], **self._answer(message)}
            asyncio.get_running_loop().call_soon(self.send_line, json.dumps(reply).encode())

    async def drain(self) -> None:
        await asyncio.sleep(0)

    def send_line(self, line: bytes) -> None:
        message = decode(line)
        if message is not None:
            self.agent.connection.receive(message)

    def notify(self, method: str, **params: Any) -> None:
        self.send_line(json.dumps({"jsonrpc": "2.0", "method": method, "params": params}).encode())

    def begin(self, method: str, params: Any) -> asyncio.Future[dict[str, Any]]:
        self._next_id += 1
        id_ = f"ours {self._next_id}"
        body = {"jsonrpc": "2.0", "id": id_, "method": method, "params": params}
        self._judge.client_sent(body)
        future = asyncio.get_running_loop().create_future()
        self._waiting[json.dumps(id_)] = future
        self.send_line(json.dumps(body).encode())
        return future

    async def answered(self, future: asyncio.Future[dict[str, Any]]) -> dict[str, Any]:
        async with asyncio.timeout(TIMEOUT_S):
            return await future

    async def request(self, method: str, **params: Any) -> Any:
        message = await self.answered(self.begin(method, params))
        assert "error" not in message, message
        return message["result"]

    async def new_session(self, cwd: Path) -> str:
        return (await self.request("session/new", cwd=str(cwd), mcpServers=[]))["sessionId"]

    @property
    def updates(self) -> list[dict[str, Any]]:
        return [m["params"]["update"] for m in self.messages if m.get("method") == "session/update"]

    def asked(self, method: str) -> list[dict[str, Any]]:
        return [m["params"] for m in self.messages if m.get("method") == method]


def _home(data: Path, config: Config, serve: Serve) -> Home:
    def make(endpoint: Any, book: QuirkBook) -> HttpProvider:
        client = lambda: httpx.AsyncClient(transport=httpx.MockTransport(serve))  # noqa: E731
        return HttpProvider(endpoint, ADAPTERS[endpoint.wire_api](), book, client=client, backoff_s=0)

    endpoints = Endpoints(config, QuirkBook(None), None, make)
    return Home(data, data / "config", SessionStore(data / "sessions"), endpoints)
