"""The provider: an OpenAI chat server on loopback that answers from a script and keeps what it was asked."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any, Self

from bench.agents.script import Place, Reply, Script, calls_of, place_of, words_of

BYTES_PER_TOKEN = 4  # the field's rule of thumb; the figures are ratios
MODEL = "scripted"
WINDOW = 128_000


@dataclass(slots=True)
class Asked:
    """A request for a completion."""

    body: dict[str, Any]
    place: Place | None
    prompt: str  # as a chat template renders it: system and tools first, then the rest
    num_cached: int  # characters at its start that an earlier request began with, too
    first_text_at: float | None = None  # time.monotonic
    hung_up: bool = False

    @property
    def tokens(self) -> int:
        return len(self.prompt) // BYTES_PER_TOKEN


@dataclass
class Endpoint:
    """Serves one task at a time: `folder` is where it is done."""

    script: Script = field(default_factory=Script)
    folder: str = ""
    asked: list[Asked] = field(default_factory=list)
    first_words: asyncio.Event = field(default_factory=asyncio.Event)
    _refused: dict[Place, int] = field(default_factory=dict)
    _prompts: list[str] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    def begin(self, script: Script, folder: str) -> None:
        self.script, self.folder = script, folder
        self.asked, self._refused, self._prompts = [], {}, []
        self.first_words.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                body = await _body(reader, head)
                await self._answer(head.split()[1].decode(), body, writer)
        except (OSError, EOFError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, path: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        if path.endswith("/models"):
            model = {"id": MODEL, "object": "model", "context_length": WINDOW, "max_model_len": WINDOW}
            await _json(writer, 200, {"object": "list", "data": [model]})
        elif path.endswith("/chat/completions"):
            await self._complete(json.loads(body), writer)
        else:
            await _json(writer, 404, {"error": {"message": f"no {path} here", "type": "not_found"}})

    async def _complete(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        asked = self._note(body)
        reply = self.script.at(asked.place) if asked.place else Reply("A title")
        if asked.place and self._refused.get(asked.place, 0) < reply.refusals:
            self._refused[asked.place] = self._refused.get(asked.place, 0) + 1
            await _json(writer, 503, {"error": {"message": "overloaded, try again", "type": "overloaded"}})
            return
        if not body.get("stream"):
            await _json(writer, 200, _whole(reply, body, asked, self.folder))
            return
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        try:
            async for event in self._events(reply, asked):
                data = f"data: {event}\n\n".encode()
                writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                await writer.drain()
                if writer.transport.is_closing():
                    raise ConnectionResetError
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        except OSError:
            asked.hung_up = True
            raise

    def _note(self, body: dict[str, Any]) -> Asked:
        prompt = rendered(body)
        cached = max((same_start(prompt, old) for old in self._prompts), default=0)
        self._prompts.append(prompt)
        asked = Asked(body, place_of(body), prompt, cached)
        self.asked.append(asked)
        return asked

    async def _events(self, reply: Reply, asked: Asked) -> AsyncGenerator[str, None]:
        yield _chunk({"role": "assistant", "content": ""})
        words = words_of(reply, asked.body)
        size = max(1, -(-len(words) // reply.pieces))
        for at in range(0, len(words), size):
            if at:
                await asyncio.sleep(reply.gap_s)
            elif asked.place:
                asked.first_text_at = time.monotonic()
            yield _chunk({"content": words[at : at + size]})
            if asked.place:
                self.first_words.set()
        for index, (name, args) in enumerate(calls_of(reply, asked.body, self.folder)):
            yield _chunk({"tool_calls": [_call(asked, index, name, args)]})
        yield _chunk({}, "tool_calls" if reply.calls else "stop")
        yield json.dumps({**_ENVELOPE, "choices": [], "usage": _usage(asked)})
        yield "[DONE]"


_ENVELOPE = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": MODEL}


def _chunk(delta: dict[str, Any], reason: str | None = None) -> str:
    return json.dumps({**_ENVELOPE, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})


def _call(asked: Asked, index: int, name: str, args: str) -> dict[str, Any]:
    place = asked.place or Place("", 0, 0)
    id_ = f"call{place.turn}{place.round}{index}"
    return {"index": index, "id": id_, "type": "function", "function": {"name": name, "arguments": args}}


def _usage(asked: Asked) -> dict[str, Any]:
    cached = asked.num_cached // BYTES_PER_TOKEN
    return {
        "prompt_tokens": asked.tokens,
        "completion_tokens": 10,
        "total_tokens": asked.tokens + 10,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def _whole(reply: Reply, body: dict[str, Any], asked: Asked, folder: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": words_of(reply, body)}
    calls = [_call(asked, i, *call) for i, call in enumerate(calls_of(reply, body, folder))]
    message |= {"tool_calls": calls} if calls else {}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}
    return {**_ENVELOPE, "object": "chat.completion", "choices": [choice], "usage": _usage(asked)}


def rendered(body: dict[str, Any]) -> str:
    """Return the prompt in the order of the usual chat templates, by which a prefix cache works."""
    messages = body.get("messages", [])
    lines = [_line(message) for message in messages]
    tools = [json.dumps(tool, ensure_ascii=False) for tool in body.get("tools") or []]
    first = 1 if messages and messages[0]["role"] in {"system", "developer"} else 0
    return "\n".join([*lines[:first], *tools, *lines[first:]])


def same_start(one: str, other: str) -> int:
    """Return how many characters at their start two texts have in common."""
    low, high = 0, min(len(one), len(other))
    while low < high:  # one[:low] is in common
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _line(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content)
    calls = [call["function"] for call in message.get("tool_calls") or []]
    told = "".join(f"\n{call['name']} {call['arguments']}" for call in calls)
    return f"<{message['role']}>{content or ''}{told}"


async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    headers = dict(
        line.lower().split(": ", 1) for line in head.decode("latin-1").split("\r\n")[1:] if ": " in line
    )
    if "chunked" in headers.get("transfer-encoding", ""):
        return await _chunked(reader)
    return await reader.readexactly(int(headers.get("content-length", 0)))


async def _chunked(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int((await reader.readline()).split(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return body


async def _json(writer: asyncio.StreamWriter, status: int, value: Any) -> None:
    data = json.dumps(value).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n"
    retry = "retry-after: 1\r\n" if status == 503 else ""
    writer.write(f"{head}{retry}\r\n".encode() + data)
    await writer.drain()
