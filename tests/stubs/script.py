"""A model that follows a script: it calls the tools it is told to, one a turn, then says its last words."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from typing import Any

from tests.stubs.fake_node import STREAM_HEAD, USAGE, Answer, Request, chunk, framed, head, sse

Call = tuple[str, dict[str, Any]]  # name and arguments


def follow(calls: Sequence[Call], words: str = "All done.", *, reasoning: str = "") -> Answer:
    """The next call is the one after as many as the conversation has results of; a request without the
    script's tools (a title, a probe of the connection) gets the last words at once.
    """

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.path == "/tokenize":
            _write(writer, {"count": USAGE["prompt_tokens"], "max_model_len": 4096, "tokens": []})
            return
        body = request.json
        offered = {tool["function"]["name"] for tool in body.get("tools", ())}
        turn = sum(message["role"] == "tool" for message in body["messages"])
        is_call = turn < len(calls) and calls[turn][0] in offered
        message = _message(calls[turn] if is_call else None, words, turn, reasoning)
        finish = "tool_calls" if is_call else "stop"
        if body.get("stream"):
            _stream(writer, message, finish)
        else:
            choice = {"index": 0, "message": {"role": "assistant"} | message, "finish_reason": finish}
            whole = {"id": f"c{turn}", "object": "chat.completion", "created": 1, "model": body["model"]}
            _write(writer, whole | {"choices": [choice], "usage": USAGE})

    return answer


def _message(call: Call | None, words: str, turn: int, reasoning: str) -> dict[str, Any]:
    thoughts = {"reasoning_content": reasoning} if reasoning else {}
    if call is None:
        return thoughts | {"content": words}
    function = {"name": call[0], "arguments": json.dumps(call[1])}
    entry = {"id": f"call_{turn}", "type": "function", "function": function}
    return thoughts | {"content": None, "tool_calls": [entry]}


def _write(writer: asyncio.StreamWriter, payload: object) -> None:
    body = json.dumps(payload).encode()
    writer.write(head(content_length=len(body)) + body)


def _stream(writer: asyncio.StreamWriter, message: dict[str, Any], finish: str) -> None:
    """Text word by word, arguments in fragments of seven characters."""
    writer.write(STREAM_HEAD + framed(chunk({"role": "assistant", "content": ""})))
    if thoughts := message.get("reasoning_content"):
        writer.write(framed(chunk({"reasoning_content": thoughts})))
    for word in re.findall(r"\s*\S+", message["content"] or ""):
        writer.write(framed(chunk({"content": word})))
    for entry in message.get("tool_calls", ()):
        arguments = entry["function"]["arguments"]
        begun = entry | {"index": 0, "function": entry["function"] | {"arguments": ""}}
        writer.write(framed(chunk({"tool_calls": [begun]})))
        for at in range(0, len(arguments), 7):
            part = {"index": 0, "function": {"arguments": arguments[at : at + 7]}}
            writer.write(framed(chunk({"tool_calls": [part]})))
    writer.write(framed(chunk({}, finish)) + framed(_usage()))
    writer.write(framed(sse(b"[DONE]")) + b"0\r\n\r\n")


def _usage() -> bytes:
    return sse({"id": "c1", "object": "chat.completion.chunk", "model": "m", "choices": [], "usage": USAGE})
