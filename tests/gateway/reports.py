"""Reports of what went wrong with other gateways, and what it takes to replay them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import anthropic

from tests.gateway.conftest import House
from tests.stubs.fake_node import STREAM_HEAD, chunk, framed, sse

Json = dict[str, Any]
USER = {"role": "user", "content": "Hi"}
FUNCTION = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}
TOOLS = {
    "/v1/chat/completions": [{"type": "function", "function": FUNCTION}],
    "/v1/messages": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
}
END = (chunk({}, "stop"), sse(b"[DONE]"))


@dataclass(frozen=True)
class Report:
    numbers: str
    words: str
    replay: Callable[[House], Awaitable[None]]


REPORTS: list[Report] = []


def report(numbers: str, words: str):
    """Keep a report with the function that replays it."""

    def keep(replay):
        REPORTS.append(Report(numbers, words, replay))
        return replay

    return keep


def tell(house: House, *events: bytes, ends: bool = True) -> None:
    """Let the node stream these events."""

    async def answer(request, writer):
        if request.path == "/tokenize":
            body = json.dumps({"count": len(request.body), "max_model_len": 4096, "tokens": []}).encode()
            writer.write(b"HTTP/1.1 200 X\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            return
        writer.write(STREAM_HEAD + b"".join(framed(event) for event in events))
        if ends:
            writer.write(b"0\r\n\r\n")
        else:
            writer.close()

    house.node.answer = answer


def call(index: int = 0, ident: str | None = "c", name: str | None = "f", arguments: str = "") -> bytes:
    """A piece of a streamed call."""
    function = {"name": name, "arguments": arguments} if name else {"arguments": arguments}
    made: Json = {"index": index, "function": function}
    return chunk({"tool_calls": [made | ({"id": ident, "type": "function"} if ident else {})]})


async def claude(house: House, **fields: Any) -> Any:
    """The message that Anthropic's SDK makes of a stream."""
    async with anthropic.AsyncAnthropic(base_url=str(house.client.base_url), api_key="none") as client:
        ask = {"model": "m", "max_tokens": 99, "messages": [USER], "tools": TOOLS["/v1/messages"]} | fields
        async with client.messages.stream(**ask) as stream:
            return await stream.get_final_message()


async def kinds(house: House) -> list[str]:
    """The types of the events of a Messages stream."""
    body = {"model": "m", "max_tokens": 9, "stream": True, "messages": [USER]}
    text = (await house.client.post("/v1/messages", json=body)).text
    return [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]


async def sent(house: House, path: str, **fields: Any) -> list[Json]:
    """The messages that the node gets of a request."""
    response = await house.client.post(path, json={"model": "m", "stream": False} | fields)
    assert response.status_code == 200, response.text
    return house.node.requests[-1].json["messages"]
