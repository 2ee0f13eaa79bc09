"""The real program as a child process. The schema judges every line that it writes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from acp_testing.clients import SCHEMA, agent_command
from acp_testing.schema import WireJudge

TIMEOUT_S = 30

FULL_CLIENT = {
    "fs": {"readTextFile": True, "writeTextFile": True},
    "terminal": True,
    "auth": {"terminal": True},
    "session": {"notices": {}, "compaction": {}, "configOptions": {"boolean": {}}},
}

Answer = Callable[[dict[str, Any]], Any]


class RpcFailureError(Exception):
    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["message"])
        self.error = error


class AgentProcess:
    """`answers` maps each method of the client to its result; an Exception becomes a JSON-RPC error."""

    def __init__(self, env: dict[str, str], *, judged: bool = True, schema: Path = SCHEMA) -> None:
        self.env = env
        self.messages: list[dict[str, Any]] = []  # everything the agent wrote, in order
        self.answers: dict[str, Answer] = {"session/request_permission": choose("allow_once")}
        self.stderr = b""
        self._judge = WireJudge(schema) if judged else None
        self._next_id = 100
        self._waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._tasks: list[asyncio.Task[Any]] = []
        self._changed = asyncio.Event()
        self.failure: BaseException | None = None
        self._offered: list[dict[str, Any]] = []  # options in the answer to session/new

    async def __aenter__(self) -> Self:
        self.process = await asyncio.create_subprocess_exec(
            *agent_command(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self.env,
            limit=64 * 1024 * 1024,
            start_new_session=True,
        )
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._read_stderr())]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.process.stdin.close()
        try:
            async with asyncio.timeout(60):
                await self.process.wait()
                await asyncio.gather(*self._tasks)
        except TimeoutError:
            os.killpg(self.process.pid, signal.SIGKILL)
            await self.process.wait()
            raise AssertionError(f"the agent did not end at end of input: {self.stderr[-2000:]!r}") from None
        if self.failure is not None:
            raise self.failure

    @property
    def updates(self) -> list[dict[str, Any]]:
        return [m["params"]["update"] for m in self.messages if m.get("method") == "session/update"]

    def kinds(self) -> list[str]:
        return [update["sessionUpdate"] for update in self.updates]

    def calls(self, method: str) -> list[dict[str, Any]]:
        return [m for m in self.messages if m.get("method") == method]

    def text(self) -> str:
        return "".join(
            u["content"]["text"] for u in self.updates if u["sessionUpdate"] == "agent_message_chunk"
        )

    def send_raw(self, data: bytes) -> None:
        self.process.stdin.write(data)

    def send(self, message: dict[str, Any]) -> None:
        body = {"jsonrpc": "2.0", **message}
        if self._judge:
            self._judge.client_sent(body)
        self.send_raw(json.dumps(body).encode() + b"\n")

    def notify(self, method: str, **params: Any) -> None:
        self.send({"method": method, "params": params})

    def begin(
        self, method: str, params: dict[str, Any] | None = None, id_: Any = None
    ) -> asyncio.Future[Any]:
        if id_ is None:
            self._next_id += 1
            id_ = self._next_id
        future = asyncio.get_running_loop().create_future()
        self._waiting[json.dumps(id_)] = future
        self.send({"id": id_, "method": method, "params": params or {}})
        return future

    async def request(self, method: str, **params: Any) -> Any:
        return await self.result(self.begin(method, params))

    async def result(self, future: asyncio.Future[Any]) -> Any:
        async with asyncio.timeout(TIMEOUT_S):
            message = await future
        if "error" in message:
            raise RpcFailureError(message["error"])
        return message["result"]

    async def initialize(self, capabilities: dict[str, Any] | None = None) -> dict[str, Any]:
        return await self.request(
            "initialize",
            protocolVersion=1,
            clientCapabilities=capabilities or {},
            clientInfo={"name": "tests", "version": "1"},
        )

    async def new_session(self, cwd: Path, **more: Any) -> str:
        answer = await self.request("session/new", cwd=str(cwd), mcpServers=[], **more)
        self._offered = answer.get("configOptions", [])
        return answer["sessionId"]

    def model_names(self) -> dict[str, str]:
        """The names of the models in the picker by value, as last shown: by an update or the answer itself."""
        shown = [u["configOptions"] for u in self.updates if u["sessionUpdate"] == "config_option_update"]
        options = [self._offered, *shown][-1]
        groups = next((option["options"] for option in options if option["id"] == "model"), [])
        return {model["value"]: model["name"] for group in groups for model in group["options"]}

    async def prompt(self, session_id: str, text: str) -> str:
        return (await self.request("session/prompt", **prompt(session_id, text)))["stopReason"]

    async def until(self, found: Callable[[], Any]) -> Any:
        async with asyncio.timeout(TIMEOUT_S):
            while not (result := found()):
                if self.failure is not None:
                    raise self.failure
                self._changed.clear()
                await self._changed.wait()
        return result

    async def _read(self) -> None:
        try:
            while line := await self.process.stdout.readline():
                message = self._judge.judge(line) if self._judge else json.loads(line)
                self.messages.append(message)
                self._handle(message)
                self._changed.set()
        except BaseException as error:  # noqa: BLE001 - a judgement that failed must reach the test
            self.failure = error
            self._changed.set()
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(error)
        finally:
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(EOFError("the agent closed its output"))
                    future.exception()

    def _handle(self, message: dict[str, Any]) -> None:
        if "method" not in message:
            future = self._waiting.pop(json.dumps(message["id"]), None)
            if future is not None and not future.done():
                future.set_result(message)
        elif "id" in message:
            answer = self.answers.get(message["method"])
            if answer is None:
                error = {"code": -32601, "message": "not here"}
                self.send({"id": message["id"], "error": error})
                return
            result = answer(message["params"])
            if result is HOLD:
                return
            if isinstance(result, Exception):
                self.send({"id": message["id"], "error": {"code": -32603, "message": str(result)}})
            else:
                self.send({"id": message["id"], "result": result})

    async def _read_stderr(self) -> None:
        while chunk := await self.process.stderr.read(65536):
            self.stderr += chunk


HOLD = object()  # stands for an answer that never comes


def prompt(session_id: str, text: str) -> dict[str, Any]:
    return {"sessionId": session_id, "prompt": [{"type": "text", "text": text}]}


def choose(option: str) -> Answer:
    return lambda _: {"outcome": {"outcome": "selected", "optionId": option}}


def fold(updates: list[dict[str, Any]]) -> list[Any]:
    """Return what a client shows in the end: messages and cards by id, completed compactions, the last plan."""
    shown: dict[str, Any] = {}
    for update in updates:
        match update["sessionUpdate"]:
            case "agent_message_chunk" | "agent_thought_chunk" | "user_message_chunk" as kind:
                key = f"{kind} {update['messageId']}"
                before = shown.get(key, "")
                content = update["content"]
                shown[key] = before + (content.get("text") or repr(content))
            case "tool_call" | "tool_call_update":
                card = shown.setdefault(f"card {update['toolCallId']}", {})
                card.update({k: v for k, v in update.items() if k != "sessionUpdate"})
            case "compaction_summary_chunk":
                entry = shown.setdefault(f"compaction {update['compactionId']}", {"summary": ""})
                entry["summary"] += update["content"]["text"]
            case "compaction_update":
                entry = shown.setdefault(f"compaction {update['compactionId']}", {"summary": ""})
                entry["status"] = update["status"]
                if "summary" in update:
                    entry["summary"] = "".join(block["text"] for block in update["summary"])
            case "plan":
                shown["plan"] = update["entries"]
    plan = shown.pop("plan", None)
    kept = [
        (key, value)
        for key, value in shown.items()
        if not key.startswith("compaction") or value["status"] == "completed"
    ]
    return [*kept, ("plan", plan)]


def without_user(shown: list[Any]) -> list[Any]:
    """Leave out the user's messages, which only a replay sends: live, the client has them already."""
    return [entry for entry in shown if not entry[0].startswith("user")]
