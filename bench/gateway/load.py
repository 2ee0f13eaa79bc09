"""Loads one gateway, as a process of its own: `python -m bench.gateway.load JSON` (see `Job`).

Prints one JSON object. Checks every byte that arrives. CPU seconds are those of the job's `pids`, read at
both ends of the measured window.
"""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal, cast

import httptools
import msgspec
import uvloop
from h2.exceptions import ProtocolError

from bench.figures import quantiles
from bench.gateway.check import StreamCheck, answer_problem
from bench.gateway.http2 import Http2Wire
from bench.gateway.mock import MODEL
from bench.gateway.mock import models as mock_models
from bench.machine import core_busy_s, cpu_s
from cortex_site.base.scheduling import wake_promptly

GRACE_S = 5.0  # a stream may end so much later than its node's
LATE_S = 0.25  # the window of paced streams ends so long before the first of them does

Dialect = Literal["chat", "messages", "responses"]
PATHS: dict[Dialect, str] = {"chat": "chat/completions", "messages": "messages", "responses": "responses"}


class Job(msgspec.Struct, frozen=True):
    """What load to make, and on which server.

    Requests name `models` models in turn, of the mock node, and the keys of the file `keys` if there is one.
    `dialect` is what they are written in.

    closed   `connections` ask for JSON answers, each for the next one at once
    streams  `connections` streams at `gap_us` per chunk, begun over one gap, for `seconds`
    first    `connections` ask for an instant stream each `gap_us`: time to the first byte
    idle     `connections` streams are opened, one chunk each, and held until stdin ends
    """

    kind: Literal["closed", "streams", "first", "idle"]
    port: int
    connections: int
    seconds: float = 0.0
    warm_s: float = 1.0  # before the measured window
    warm_requests: int = 0  # as well, of `closed`
    gap_us: int = 20_000
    key: str = ""
    verbatim: bool = True
    models: int = 1
    keys: str = ""
    dialect: Dialect = "chat"
    http2: bool = False
    pids: list[int] = []
    core: int | None = None  # the gateway's


SYSTEM = "You are a helpful assistant. Answer briefly and to the point."
QUESTION = {"role": "user", "content": "Which port does neuron listen on, and how would I change it?"}


def request(
    job: Job, *, stream: bool, chunks: int = 16, gap_us: int = 0, model: str = MODEL, key: str = ""
) -> bytes:
    body = json.dumps({"model": model, "stream": stream, **_asked(job.dialect, chunks, gap_us)}).encode()
    lines = [
        f"POST /v1/{PATHS[job.dialect]} HTTP/1.1",
        f"host: 127.0.0.1:{job.port}",
        "content-type: application/json",
        "user-agent: bench",
        "accept: */*",
        f"content-length: {len(body)}",
    ]
    if key := key or job.key:
        lines.append(f"authorization: Bearer {key}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _asked(dialect: Dialect, chunks: int, gap_us: int) -> dict[str, Any]:
    match dialect:
        case "messages":
            return {"max_tokens": chunks, "system": SYSTEM, "messages": [QUESTION]}
        case "responses":
            return {"max_output_tokens": chunks, "instructions": SYSTEM, "input": [QUESTION], "store": False}
        case "chat":
            messages = [{"role": "system", "content": SYSTEM}, QUESTION]
            return {"max_tokens": chunks, "messages": messages, "seed": gap_us}


def different_requests(job: Job) -> Iterator[bytes]:
    """Requests for JSON answers, without end: each next one has another key and another model."""
    keys = Path(job.keys).read_text().split() if job.keys else [job.key]
    models = mock_models(job.models)
    count = max(len(keys), len(models))
    pairs = islice(zip(cycle(models), cycle(keys), strict=False), count)
    different = [request(job, stream=False, model=model, key=key) for model, key in pairs]
    return cycle(different)


class Window:
    """The measured part of a run, between `open` and `close`: CPU seconds and wall time."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self.is_open = False

    def _read(self) -> tuple[float, float, float, float]:
        busy = core_busy_s(self._job.core) if self._job.core is not None else 0.0
        return time.monotonic(), cpu_s(self._job.pids), busy, time.process_time()

    def open(self) -> None:
        self._start = self._read()
        self.is_open = True

    def close(self) -> None:
        self.is_open = False
        self._end = self._read()

    def figures(self) -> dict[str, Any]:
        """The window's figures. `foreign` is the share of the gateway's core that other processes had,
        `generator` our share of our own."""
        seconds, cpu, busy, own = (b - a for a, b in zip(self._start, self._end, strict=True))
        return {
            "seconds": seconds,
            "cpu_s": cpu,
            "foreign": max(0.0, busy - cpu) / seconds,
            "generator": own / seconds,
        }


class Client(asyncio.Protocol):
    """One connection. `ask` sends a request; `on_end` is called once its answer is whole or broken."""

    def __init__(self, job: Job, problems: Counter[str]) -> None:
        self._job = job
        self._problems = problems
        self._parser: httptools.HttpResponseParser | Http2Wire | None = None
        self._http2 = Http2Wire(self, job.port) if job.http2 else None
        self._body: list[bytes] = []
        self.check: StreamCheck | None = None
        self.on_end: Callable[[Client], None] = lambda _: None
        self.on_delays: Callable[[list[int]], None] = lambda _: None
        self.sent_ns = self.first_ns = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._http2 is not None:
            self.transport.write(self._http2.opening())

    @property
    def is_busy(self) -> bool:
        return self._parser is not None

    def ask(self, data: bytes, stream_of: int | None = None) -> None:
        """`stream_of` is the number of chunks that a streamed answer has."""
        self._parser, self._body, self.first_ns = self._http2 or httptools.HttpResponseParser(self), [], 0
        self.sent_ns = now = time.monotonic_ns()
        verbatim = self._job.verbatim
        self.check = None if stream_of is None else StreamCheck(stream_of, verbatim=verbatim, started_ns=now)
        if self.transport.is_closing():
            self._end("the gateway closed the connection between two requests")
        elif self._http2 is not None:
            self.transport.write(self._http2.request(data.partition(b"\r\n\r\n")[2], self._job.key))
        else:
            self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        if self._http2 is not None:
            self._read_http2(self._http2, data)
            return
        if self._parser is None:
            self._problems["bytes that nobody asked for"] += 1
            self.transport.abort()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(f"not HTTP: {error}")

    def _read_http2(self, wire: Http2Wire, data: bytes) -> None:
        try:
            if answer := wire.feed_data(data):
                self.transport.write(answer)
        except ProtocolError as error:
            self._end(f"not HTTP/2: {error}")

    def on_body(self, body: bytes) -> None:
        now = time.monotonic_ns()
        self.first_ns = self.first_ns or now
        if self.check is not None:
            self.on_delays(self.check.feed(body, now))
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if self.check is None:
            self._end(answer_problem(status, b"".join(self._body), verbatim=self._job.verbatim))
        else:
            self._end(self.check.problem() if status == 200 else f"status {status}")

    def connection_lost(self, exc: Exception | None) -> None:
        if self.is_busy:
            self._end("the connection was lost within the answer")

    def _end(self, problem: str) -> None:
        self._parser = None
        if problem:
            self._problems[problem] += 1
        self.on_end(self)

    def give_up(self) -> None:
        """Count an answer that has not ended as broken."""
        if self._parser is not None:
            if self.check is not None:
                self.check.note_silence(time.monotonic_ns())
            self._end("not ended in time")


@asynccontextmanager
async def connected(job: Job, problems: Counter[str]) -> AsyncIterator[list[Client]]:
    """The job's connections. They are cut at the end, with whatever is still arriving."""
    loop = asyncio.get_running_loop()
    clients: list[Client] = []
    try:
        for _ in range(job.connections):
            _, client = await loop.create_connection(lambda: Client(job, problems), "127.0.0.1", job.port)
            clients.append(client)
        yield clients
    finally:
        for client in clients:
            client.transport.abort()
        await asyncio.sleep(0)


async def closed(job: Job, clients: list[Client]) -> dict[str, Any]:
    window, data, times = Window(job), different_requests(job), list[float]()

    left = job.warm_requests

    def again(client: Client) -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            warm.set()
        if window.is_open:
            times.append((time.monotonic_ns() - client.sent_ns) / 1e6)
        if not stopped and not client.transport.is_closing():
            client.ask(next(data))

    stopped, warm = False, asyncio.Event()
    for client in clients:
        client.on_end = again
        client.ask(next(data))
    await asyncio.sleep(job.warm_s)
    await warm.wait()
    window.open()
    await asyncio.sleep(job.seconds)
    window.close()
    stopped = True
    await asyncio.sleep(0.2)
    figures = window.figures()
    return figures | {
        "requests": len(times),
        "rps": len(times) / figures["seconds"],
        "cpu_us": figures["cpu_s"] / max(1, len(times)) * 1e6,
        "latency_ms": quantiles(times),
    }


async def streams(job: Job, clients: list[Client]) -> dict[str, Any]:
    gap_s = job.gap_us / 1e6
    count = round(job.seconds / gap_s)
    window, data = Window(job), request(job, stream=True, chunks=count, gap_us=job.gap_us)
    delays = list[int]()
    loop, all_ended, left = asyncio.get_running_loop(), asyncio.Event(), job.connections

    def note(some: list[int]) -> None:
        if window.is_open:
            delays.extend(some)

    def ended(_: Client) -> None:
        nonlocal left
        left -= 1
        if not left:
            all_ended.set()

    start = loop.time() + 0.05
    for index, client in enumerate(clients):
        client.on_delays, client.on_end = note, ended
        loop.call_at(start + index * gap_s / len(clients), client.ask, data, count)
    await asyncio.sleep(job.warm_s)
    window.open()
    await asyncio.sleep(job.seconds - job.warm_s - LATE_S)
    window.close()
    try:
        await asyncio.wait_for(all_ended.wait(), LATE_S + GRACE_S)
    except TimeoutError:
        for client in clients:
            client.give_up()
    figures = window.figures()
    return figures | {
        "chunks": len(delays),
        "chunks_per_s": len(delays) / figures["seconds"],
        "cpu_s_per_million": figures["cpu_s"] / max(1, len(delays)) * 1e6,
        "delay_ms": quantiles([delay / 1e6 for delay in delays]),
        "stalls": sum(client.check.stalls for client in clients if client.check),
    }


async def first(job: Job, clients: list[Client]) -> dict[str, Any]:
    chunks, times = 4, list[float]()
    window, data = Window(job), request(job, stream=True, chunks=4)
    skipped = 0

    def ended(client: Client) -> None:
        if window.is_open:
            times.append((client.first_ns - client.sent_ns) / 1e6)

    async def ask_again_and_again(client: Client, due: float) -> None:
        nonlocal skipped
        client.on_end = ended
        while not client.transport.is_closing():
            await asyncio.sleep(due - loop.time())
            if client.is_busy:
                skipped += 1
            else:
                client.ask(data, chunks)
            due += job.gap_us / 1e6

    loop = asyncio.get_running_loop()
    start = loop.time()
    tasks = [
        asyncio.create_task(ask_again_and_again(client, start + i * job.gap_us / 1e6 / len(clients)))
        for i, client in enumerate(clients)
    ]
    await asyncio.sleep(job.warm_s)
    window.open()
    await asyncio.sleep(job.seconds)
    window.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0.2)
    return window.figures() | {
        "requests": len(times),
        "skipped": skipped,  # the answer before was not there when the next request was due
        "first_ms": quantiles(times),
    }


async def idle(job: Job, clients: list[Client]) -> dict[str, Any]:
    data = request(job, stream=True, chunks=2, gap_us=600_000_000)
    for client in clients:
        client.ask(data, 2)
        await asyncio.sleep(0.002)
    deadline = time.monotonic() + GRACE_S
    while not all(client.first_ns for client in clients):
        if time.monotonic() > deadline:
            break
        await asyncio.sleep(0.05)
    print(json.dumps({"open": sum(bool(client.first_ns) for client in clients)}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    return {}


KINDS = {"closed": closed, "streams": streams, "first": first, "idle": idle}


async def run(job: Job) -> dict[str, Any]:
    problems: Counter[str] = Counter()
    async with connected(job, problems) as clients:
        figures = await KINDS[job.kind](job, clients)
        return figures | {"broken": sum(problems.values()), "problems": dict(problems)}


def main() -> None:
    job = msgspec.json.decode(sys.argv[1], type=Job)
    wake_promptly()  # whatever else is on its core, the gateway's database too
    gc.disable()  # a collection would be a gap in every stream
    print(json.dumps(uvloop.run(run(job))))


if __name__ == "__main__":
    main()
