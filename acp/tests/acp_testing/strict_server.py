"""An HTTP server that speaks all three wires and is as strict as the strictest of their real servers."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Self


class StrictServer:
    """On each wire it answers a prompt with a thought and a call whose id is "same", and its result with text."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/v1"
        self._port = port
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.problems: list[str] = []
        self.quirk: str | None = None  # a field that the chat wire refuses

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split()[1].removeprefix("/v1/")
            length = next(
                (int(x.split(":")[1]) for x in head.split("\r\n") if x.lower().startswith("content-length")),
                0,
            )
            body = json.loads(await reader.readexactly(length)) if length else {}
            status, kind, data = self._answer(path, body)
            writer.write(
                f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(data)}\r\n"
                "connection: close\r\n\r\n".encode()
                + data
            )
            await writer.drain()
        finally:
            writer.close()

    def _answer(self, path: str, body: dict[str, Any]) -> tuple[int, str, bytes]:
        if path == "models":
            return (
                200,
                "application/json",
                b'{"data": [{"id": "m", "context_length": 50000, "loaded": false}]}',
            )
        handlers = {"chat/completions": self._chat, "responses": self._responses, "messages": self._anthropic}
        if path not in handlers:
            return 404, "application/json", b"{}"
        self.asked.append((path, body))
        if self.quirk and self.quirk in body:
            error = {"error": {"message": f"Unrecognized request argument supplied: {self.quirk}"}}
            return 400, "application/json", json.dumps(error).encode()
        try:
            events = handlers[path](body)
        except AssertionError as error:
            self.problems.append(f"{path}: {error}")
            return 400, "application/json", json.dumps({"error": {"message": str(error)}}).encode()
        data = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
        return 200, "text/event-stream", data.encode()

    def _chat(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        messages = body["messages"]
        assert [m["role"] for m in messages].count("system") == 1
        assert messages[0]["role"] == "system"
        seen: set[str] = set()
        waiting: list[str] = []
        for message in messages:
            if message["role"] == "tool":
                assert message["tool_call_id"] in waiting, "a result without its call"
                waiting.remove(message["tool_call_id"])
                continue
            assert not waiting, "a call without its result"
            waiting = [call["id"] for call in message.get("tool_calls", [])]
            assert not seen & set(waiting), "an id twice"
            assert set(message) <= {"role", "content", "tool_calls"}, f"foreign fields: {set(message)}"
            seen |= set(waiting)
        chunk = lambda **delta: {"choices": [{"index": 0, "delta": delta}]}  # noqa: E731
        end = lambda reason: {"choices": [{"delta": {}, "finish_reason": reason}]}  # noqa: E731
        if messages[-1]["role"] == "tool":
            return [chunk(content="chat says hi"), end("stop")]
        call = {"index": 0, "id": "same", "function": {"name": "list", "arguments": "{}"}}
        return [chunk(reasoning_content="chat thinks"), chunk(tool_calls=[call]), end("tool_calls")]

    def _responses(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        items = body["input"]
        calls = [item["call_id"] for item in items if item["type"] == "function_call"]
        results = [item["call_id"] for item in items if item["type"] == "function_call_output"]
        assert len(set(calls)) == len(calls), "an id twice"
        assert sorted(calls) == sorted(results), "calls and results differ"
        for item in items:
            if item["type"] == "reasoning":
                assert item.get("encrypted_content") == "secret", "a thought from elsewhere"
        done = lambda item: {"type": "response.output_item.done", "output_index": 0, "item": item}  # noqa: E731
        completed = {"type": "response.completed", "response": {"status": "completed", "output": []}}
        if items[-1]["type"] == "function_call_output":
            text = {"type": "response.output_text.delta", "output_index": 0, "delta": "responses says hi"}
            return [text, completed]
        thought = {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "hm"}]}
        call = {"type": "function_call", "id": "fc", "call_id": "same", "name": "list", "arguments": "{}"}
        return [
            done({**thought, "encrypted_content": "secret"}),
            {**done(call), "output_index": 1},
            completed,
        ]

    def _anthropic(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        assert body["max_tokens"] > 0
        turns = body["messages"]
        assert turns[0]["role"] == "user"
        seen: set[str] = set()
        waiting: set[str] = set()
        for before, turn in zip([None, *turns], turns, strict=False):
            assert before is None or before["role"] != turn["role"], "roles must alternate"
            results = {b["tool_use_id"] for b in turn["content"] if b["type"] == "tool_result"}
            assert results == waiting, "calls and results differ"
            waiting = {b["id"] for b in turn["content"] if b["type"] == "tool_use"}
            assert not seen & waiting, "an id twice"
            seen |= waiting
            for block in turn["content"]:
                assert block["type"] != "thinking" or block["signature"] == "sig", "a thought from elsewhere"
        marks = json.dumps(body).count('"cache_control"')
        assert marks <= 4, f"{marks} cache marks"
        start = lambda index, **block: {"type": "content_block_start", "index": index, "content_block": block}  # noqa: E731
        stop = {"type": "message_stop"}
        if any(block["type"] == "tool_result" for block in turns[-1]["content"]):
            text = {"type": "text_delta", "text": "anthropic says hi"}
            return [{"type": "content_block_delta", "index": 0, "delta": text}, stop]
        return [
            start(0, type="thinking", thinking="hm", signature="sig"),
            {"type": "content_block_stop", "index": 0},
            start(1, type="tool_use", id="same", name="list", input={}),
            {"type": "content_block_stop", "index": 1},
            {"type": "message_delta", "delta": {"stop_reason": "tool_use"}},
            stop,
        ]
