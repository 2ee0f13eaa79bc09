"""An agent under examination: a child process and the JSON-RPC spoken with it, every line remembered."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any, Self

LINE_LIMIT = 64 * 1024 * 1024


class BrokenRule(Exception):  # noqa: N818 - a finding about the agent, not a fault of ours
    pass


class Peer:
    """Plays a client without any capability, which allows every call it is asked about."""

    def __init__(self, argv: list[str], timeout_s: float) -> None:
        self._argv = argv
        self.timeout_s = timeout_s
        self.seen: list[dict[str, Any]] = []
        self.noise: list[bytes] = []  # lines that are not JSON-RPC
        self._next_id = 0

    async def __aenter__(self) -> Self:
        self.process = await asyncio.create_subprocess_exec(
            *self._argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=LINE_LIMIT,
            start_new_session=True,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()

    def send_line(self, line: bytes) -> None:
        if self.process.stdin is None:
            raise BrokenRule("the agent has no standard input")
        self.process.stdin.write(line + b"\n")

    def send(self, **message: Any) -> None:
        self.send_line(json.dumps({"jsonrpc": "2.0", **message}).encode())

    async def receive(self) -> dict[str, Any]:
        """The next message; permission requests are answered, others of the agent's requests refused."""
        while True:
            line = await self._line()
            try:
                message = json.loads(line)
            except ValueError:
                self.noise.append(line)
                continue
            if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
                self.noise.append(line)
                continue
            self.seen.append(message)
            if "method" in message and "id" in message:
                self._answer(message)
                continue
            return message

    async def _line(self) -> bytes:
        if self.process.stdout is None:
            raise BrokenRule("the agent has no standard output")
        try:
            async with asyncio.timeout(self.timeout_s):
                line = await self.process.stdout.readline()
        except TimeoutError:
            raise BrokenRule(f"no answer within {self.timeout_s:.0f} s") from None
        if not line:
            raise BrokenRule("the agent closed its output")
        return line

    def _answer(self, message: dict[str, Any]) -> None:
        if message["method"] == "session/request_permission":
            allow = next((o for o in message["params"]["options"] if o["kind"] == "allow_once"), None)
            outcome = (
                {"outcome": "selected", "optionId": allow["optionId"]} if allow else {"outcome": "cancelled"}
            )
            self.send(id=message["id"], result={"outcome": outcome})
        else:
            self.send(id=message["id"], error={"code": -32601, "message": "not offered"})

    async def answer_to(self, id_: Any) -> dict[str, Any]:
        while True:
            message = await self.receive()
            if "method" not in message and message.get("id") == id_:
                return message

    def begin(self, method: str, params: Any) -> int:
        self._next_id += 1
        self.send(id=self._next_id, method=method, params=params)
        return self._next_id

    async def call(self, method: str, **params: Any) -> Any:
        """The result; an error is a broken rule."""
        message = await self.answer_to(self.begin(method, params))
        if "error" in message:
            raise BrokenRule(f"{method} failed: {message['error'].get('message')}")
        return message["result"]

    async def error_of(self, method: str, params: Any) -> int:
        """The code of the error that must come."""
        message = await self.answer_to(self.begin(method, params))
        if "error" not in message:
            raise BrokenRule(f"{method} succeeded, an error was due")
        code = message["error"].get("code")
        return code if isinstance(code, int) else 0

    async def initialize(self) -> dict[str, Any]:
        result = await self.call("initialize", protocolVersion=1, clientCapabilities={})
        return result if isinstance(result, dict) else {}

    async def new_session(self, cwd: Path) -> str:
        result = await self.call("session/new", cwd=str(cwd), mcpServers=[])
        return str(result["sessionId"])

    def updates(self) -> list[dict[str, Any]]:
        return [
            message["params"]["update"] for message in self.seen if message.get("method") == "session/update"
        ]
