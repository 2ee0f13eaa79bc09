"""The agent that `helexa-acp check` examines: a child process and the JSON-RPC spoken with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any, Self

LINE_LIMIT = 64 * 1024 * 1024


class BrokenRule(Exception):  # noqa: N818 - a finding about the agent, not an error of ours
    pass


class AgentUnderTest:
    """A running agent, seen by a client without capabilities that allows every call it is asked about.

    `prompt` is what each turn asks of the agent's model. `seen` holds every message received, in order.
    """

    def __init__(self, argv: list[str], cwd: Path, prompt: str, timeout_s: float) -> None:
        self.cwd = cwd
        self.timeout_s = timeout_s
        self.seen: list[dict[str, Any]] = []
        self.noise: list[bytes] = []  # lines that are not JSON-RPC
        self._argv = argv
        self._prompt = prompt
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

    @property
    def updates(self) -> list[dict[str, Any]]:
        return [m["params"]["update"] for m in self.seen if m.get("method") == "session/update"]

    # The protocol's own steps

    async def initialize(self) -> dict[str, Any]:
        result = await self.call("initialize", protocolVersion=1, clientCapabilities={})
        return result if isinstance(result, dict) else {}

    async def new_session(self) -> str:
        result = await self.call("session/new", cwd=str(self.cwd), mcpServers=[])
        return str(result["sessionId"])

    async def started(self) -> str:
        """Initialize, and return the id of a new session."""
        await self.initialize()
        return await self.new_session()

    def begin_prompt(self, session_id: str) -> int:
        """Send the prompt, and return the id of its request."""
        return self.begin("session/prompt", self.prompt_params(session_id))

    async def prompted(self, session_id: str) -> dict[str, Any]:
        """Send the prompt, and return the message that answers it."""
        return await self.answer_to(self.begin_prompt(session_id))

    def prompt_params(self, session_id: str) -> dict[str, Any]:
        return {"sessionId": session_id, "prompt": [{"type": "text", "text": self._prompt}]}

    # JSON-RPC

    async def call(self, method: str, **params: Any) -> Any:
        """Return the result of a request. Raises BrokenRule for an error."""
        message = await self.answer_to(self.begin(method, params))
        if "error" in message:
            raise BrokenRule(f"{method} failed: {message['error'].get('message')}")
        return message["result"]

    async def error_of(self, method: str, params: Any) -> int:
        """Return the code of the error that a request must get. Raises BrokenRule for a result."""
        message = await self.answer_to(self.begin(method, params))
        if "error" not in message:
            raise BrokenRule(f"{method} succeeded where an error was due")
        code = message["error"].get("code")
        return code if isinstance(code, int) else 0

    def begin(self, method: str, params: Any) -> int:
        self._next_id += 1
        self.send(id=self._next_id, method=method, params=params)
        return self._next_id

    async def answer_to(self, id_: Any) -> dict[str, Any]:
        while True:
            message = await self.receive()
            if "method" not in message and message.get("id") == id_:
                return message

    async def receive(self) -> dict[str, Any]:
        """Return the next answer or notification, after answering the agent's own requests before it."""
        while True:
            line = await self._line()
            message = _message(line)
            if message is None:
                self.noise.append(line)
                continue
            self.seen.append(message)
            if "method" not in message or "id" not in message:
                return message
            self._answer(message)

    def send(self, **message: Any) -> None:
        self.send_line(json.dumps({"jsonrpc": "2.0", **message}).encode())

    def send_line(self, line: bytes) -> None:
        if self.process.stdin is None:
            raise BrokenRule("the agent has no standard input")
        self.process.stdin.write(line + b"\n")

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

    def _answer(self, request: dict[str, Any]) -> None:
        if request["method"] != "session/request_permission":
            self.send(id=request["id"], error={"code": -32601, "message": "not offered"})
            return
        allow = next((o for o in request["params"]["options"] if o["kind"] == "allow_once"), None)
        outcome = {"outcome": "cancelled"}
        if allow is not None:
            outcome = {"outcome": "selected", "optionId": allow["optionId"]}
        self.send(id=request["id"], result={"outcome": outcome})


def _message(line: bytes) -> dict[str, Any] | None:
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) and message.get("jsonrpc") == "2.0" else None
