"""A node that takes next to no CPU time: `python -m bench.gateway.mock --fd N [--models M]`

Precomputed bytes, paced by timers. To a gateway it is a neuron with one loaded model, to the peers an OpenAI
server. A request says how it is answered: `max_tokens` chunks, `seed` microseconds apart; 0 is everything at
once. Each chunk carries its number and when it was written (`time.monotonic_ns`, one clock for all processes
of a machine).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import re
import socket
import time
from functools import partial
from typing import cast

import uvloop

from cortex_site.base.scheduling import wake_promptly
from neuron.wire import Health, ModelInfo, ModelLoad, NodeState

MODEL = "bench"
ON_A_NODE = 4  # models
PING_S = 2.0

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKS = re.compile(rb'"max_(?:completion_)?tokens": ?(\d+)')
_GAP_US = re.compile(rb'"seed": ?(\d+)')
_STREAM = re.compile(rb'"stream": ?true')
_USAGE_ASKED = re.compile(rb'"include_usage": ?true')


def _event(choice: str) -> bytes:
    head = f'"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk","created":1,"model":"{MODEL}"'
    return f'data: {{{head},"choices":[{choice}]}}\n\n'.encode()


def framed(data: bytes) -> bytes:
    """`data` as one chunk of a chunked HTTP body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


_CHUNK = _event('{"index":0,"delta":{"content":"@%05d.%019d@"},"finish_reason":null}')
FINISH = _event('{"index":0,"delta":{},"finish_reason":"stop"}')
USAGE = {"prompt_tokens": 20, "completion_tokens": 3, "total_tokens": 23}
USAGE_EVENT = _event("")[:-3] + b',"usage":' + json.dumps(USAGE).encode() + b"}\n\n"
DONE = b"data: [DONE]\n\n"
PING = framed(b": ping\n\n")
ANSWER_TEXT = "An instant answer of the mock node."


def chunk(number: int, written_ns: int) -> bytes:
    return _CHUNK % (number, written_ns)


def _json(value: object) -> bytes:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


ANSWER_BODY = json.dumps(
    {
        "id": "chatcmpl-0123456789abcdef",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": ANSWER_TEXT}, "finish_reason": "stop"}
        ],
        "usage": USAGE,
    }
).encode()
ANSWER = _json(ANSWER_BODY)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"


def models(count: int) -> list[str]:
    """The names of so many models."""
    return [MODEL, *(f"{MODEL}-{number}" for number in range(1, count))]


def models_of(node: int, count: int) -> list[str]:
    """Those of so many models that a node has: a few."""
    names = models(count)
    return [
        names[(node + number * len(names) // ON_A_NODE) % len(names)]
        for number in range(min(count, ON_A_NODE))
    ]


def _health(names: list[str]) -> Health:
    loads = [ModelLoad(id=name, max_running=1024) for name in names]
    return Health(status="ok", uptime_s=1, pid=1, rss_mb=1, devices=[], models=loads)


def state(names: list[str]) -> bytes:
    """The first event of `/events`, framed, of a node with these models."""
    infos = [
        ModelInfo(id=name, source="mock", state="loaded", context=32_768, memory_mb=1, capabilities=["chat"])
        for name in names
    ]
    now = NodeState(seq=1, health=_health(names), models=infos)
    return framed(b"event: state\ndata: " + now.model_dump_json().encode() + b"\n\n")


_LISTED = {
    "id": MODEL,
    "object": "model",
    "created": 1,
    "owned_by": "vllm",
    "root": MODEL,
    "max_model_len": 32_768,
}
_PAGES = {
    b"/health": _json(_health([MODEL]).model_dump_json().encode()),
    b"/v1/models": _json({"object": "list", "data": [_LISTED]}),
    b"/version": _json({"version": "0.11.0"}),
}


class Node(asyncio.Protocol):
    """One connection from a gateway."""

    def __init__(self, count: int) -> None:
        self._num_models = count
        self._data = b""
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        data = self._data + data if self._data else data
        while (end := data.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(data, 0, end)
            size = end + 4 + (int(length[1]) if length else 0)
            if len(data) < size:
                break
            self._answer(data[:size])
            data = data[size:]
        self._data = data

    def _answer(self, request: bytes) -> None:
        if request.startswith(b"POST /v1/chat/completions"):
            if _STREAM.search(request):
                self._stream(request)
            else:
                self._transport.write(ANSWER)
            return
        path = request.split(b" ", 2)[1].partition(b"?")[0]
        if path == b"/events":
            here = self._transport.get_extra_info("sockname")[0]
            number = int(here.rpartition(".")[2]) - 1
            self._transport.write(STREAM_HEAD + state(models_of(number, self._num_models)))
            self._ping()
        else:
            self._transport.write(_PAGES.get(path, _NOT_FOUND))

    def _ping(self) -> None:
        self._transport.write(PING)
        self._timer = self._loop.call_later(PING_S, self._ping)

    def _stream(self, request: bytes) -> None:
        chunks, gap = _CHUNKS.search(request), _GAP_US.search(request)
        self._number, self._count = 0, int(chunks[1]) if chunks else 1
        self._gap_s = int(gap[1]) / 1e6 if gap else 0.0
        usage = framed(USAGE_EVENT) if _USAGE_ASKED.search(request) else b""
        self._end = framed(FINISH) + usage + framed(DONE) + b"0\r\n\r\n"
        if not self._gap_s:
            now = time.monotonic_ns()
            chunked = b"".join(framed(chunk(i, now)) for i in range(self._count))
            self._transport.write(STREAM_HEAD + chunked + self._end)
            return
        self._due = self._loop.time()
        self._transport.write(STREAM_HEAD)
        self._tick()

    def _tick(self) -> None:
        if self._number == self._count:
            self._transport.write(self._end)
            self._timer = None
            return
        self._transport.write(framed(chunk(self._number, time.monotonic_ns())))
        self._number += 1
        self._due += self._gap_s  # from when it was due: a late timer does not shift those after it
        self._timer = self._loop.call_at(self._due, self._tick)


async def serve(sock: socket.socket, count: int = 1) -> None:
    """Be a node with so many models."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(partial(Node, count), sock=sock, backlog=2048)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="listening socket, inherited")
    parser.add_argument("--models", type=int, default=1)
    arguments = parser.parse_args()
    sock = socket.socket(fileno=arguments.fd)
    wake_promptly()  # whatever else is on its core, the gateway's database too
    gc.disable()  # it makes no cycles, and a collection would be a gap in every stream
    uvloop.run(serve(sock, arguments.models))


if __name__ == "__main__":
    main()
