"""A node on a loopback socket that does what a test tells it, wrong HTTP included."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from neuron.wire import PROTOCOL, Health, ModelFailure, ModelInfo, ModelLoad, NodeState


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int = 0  # the node's number of it
    gone: asyncio.Event = field(default_factory=asyncio.Event)  # the gateway hung up

    @property
    def json(self):
        return json.loads(self.body)


Answer = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]

HELLO = ["Hello", " there", "."]
USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 3,
    "total_tokens": 10,
    "prompt_tokens_details": {"cached_tokens": 4},
}


def sse(payload) -> bytes:
    return b"data: " + (payload if isinstance(payload, bytes) else json.dumps(payload).encode()) + b"\n\n"


def chunk(delta=None, finish=None, **extra) -> bytes:
    choices = [{"index": 0, "delta": delta or {}, "finish_reason": finish}]
    return sse({"id": "c1", "object": "chat.completion.chunk", "model": "m", "choices": choices} | extra)


def head(status=200, content_type="application/json", **headers) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"content-type: {content_type}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def framed(data: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%s\r\n" % (len(data), data)


STREAM_HEAD = head(content_type="text/event-stream", transfer_encoding="chunked")


async def answer_hello(request: Request, writer: asyncio.StreamWriter) -> None:
    """A correct answer, streamed or not."""
    if not request.json.get("stream"):
        message = {"role": "assistant", "content": "".join(HELLO)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        body = json.dumps({"id": "c1", "model": "m", "choices": [choice], "usage": USAGE}).encode()
        writer.write(head(content_length=len(body)) + body)
        return
    writer.write(STREAM_HEAD + framed(chunk({"role": "assistant", "content": ""})))
    for word in HELLO:
        writer.write(framed(chunk({"content": word})))
        await writer.drain()
    writer.write(framed(chunk({}, "stop")))
    if request.json.get("stream_options", {}).get("include_usage"):
        writer.write(framed(sse({"id": "c1", "choices": [], "usage": USAGE})))
    writer.write(framed(sse(b"[DONE]")) + b"0\r\n\r\n")


def say_often(word: str, times: int) -> Answer:
    """A stream of so many chunks of one word, each sent when the one before is."""

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        for _ in range(times):
            writer.write(framed(chunk({"content": word})))
            await writer.drain()
        writer.write(framed(chunk({}, "stop")) + framed(sse(b"[DONE]")) + b"0\r\n\r\n")

    return answer


def refuse(status: int, code: str, message: str = "no", **headers) -> Answer:
    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        body = json.dumps({"error": {"message": message, "type": "t", "code": code, "param": None}}).encode()
        writer.write(head(status, content_length=len(body), **headers) + body)

    return answer


class FakeNode:
    """`answer` serves chat completions and may be replaced at any time; `requests` holds what came."""

    def __init__(self, name: str = "fake", tls: ssl.SSLContext | None = None) -> None:
        self.name = name
        self._tls = tls
        self.answer: Answer = answer_hello
        self.requests: list[Request] = []
        self.models: dict[str, ModelInfo] = {}
        self.loads: dict[str, ModelLoad] = {}
        self._changed = asyncio.Condition()
        self._seq = 0
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0
        self.protocol = PROTOCOL
        self.accepted = 0  # connections

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """As if killed: every connection is cut."""
        if self._server is None:
            return
        self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        self._server = None

    def refuse_connections(self) -> None:
        """Those that are open stay open."""
        assert self._server is not None
        self._server.close()

    async def set_model(
        self,
        model: str,
        state: str = "loaded",
        *,
        error: str | None = None,
        progress=None,
        capabilities=("chat",),
        **load,
    ) -> None:
        failure = ModelFailure(code="model_broken", message=error) if error else None
        self.models[model] = ModelInfo(
            id=model,
            source=model,
            state=state,
            context=4096,
            memory_mb=100,
            format="q4_k",
            bits_per_weight=4.5,
            progress=progress,
            capabilities=list(capabilities),
            error=failure,
        )
        self.loads[model] = ModelLoad(id=model, **load)
        await self._publish()

    async def drop_model(self, model: str) -> None:
        self.models.pop(model)
        self.loads.pop(model)
        await self._publish()

    async def _publish(self) -> None:
        async with self._changed:
            self._seq += 1
            self._changed.notify_all()

    def _state(self) -> bytes:
        loads = list(self.loads.values())
        health = Health(status="ok", uptime_s=1, pid=1, rss_mb=1, devices=[], models=loads)
        state = NodeState(
            seq=self._seq, protocol=self.protocol, health=health, models=list(self.models.values())
        )
        return framed(b"event: state\ndata: " + state.model_dump_json().encode() + b"\n\n")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._connections.add(task)
        self.accepted += 1
        number = self.accepted
        try:
            while request := await _read_request(reader):
                request.connection = number
                await self._respond(request, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            with suppress(RuntimeError):
                writer.transport.abort()

    async def _respond(self, request, reader, writer) -> None:
        if request.path == "/events":
            writer.write(head(content_type="text/event-stream", transfer_encoding="chunked"))
            while True:
                seen = self._seq
                writer.write(self._state())
                await writer.drain()
                async with self._changed:
                    await self._changed.wait_for(lambda seen=seen: self._seq != seen)
        self.requests.append(request)
        watcher = asyncio.create_task(_watch(reader, request))
        try:
            await self.answer(request, writer)
            await writer.drain()
        except ConnectionError:  # a write may meet the hang-up before the watcher does
            request.gone.set()
            raise
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)


async def _watch(reader: asyncio.StreamReader, request: Request) -> None:
    """The gateway sends nothing while it waits; end of file is a hang-up."""
    while not reader.at_eof():
        await asyncio.sleep(0.01)
    request.gone.set()


async def _read_request(reader: asyncio.StreamReader) -> Request | None:
    raw = await reader.readuntil(b"\r\n\r\n")
    first, *lines = raw.decode().split("\r\n")
    method, path, _ = first.split(" ")
    headers = dict(line.lower().split(": ", 1) for line in lines if line)
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(method, path, headers, body)
