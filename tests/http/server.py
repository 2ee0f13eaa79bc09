"""A server of a few small endpoints on a real port, and what its clients read."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import Any

import httptools
import uvicorn
from django.http import HttpResponse
from ninja import NinjaAPI

from cortex_site.http.application import Application
from cortex_site.http.bounds import RequestBounds
from cortex_site.http.protocol import ServerProtocol
from cortex_site.http.request import Request
from cortex_site.http.response import StreamResponse

BODY_LIMIT = 1000
PATIENCE_S = 0.2
BOUNDS = RequestBounds(BODY_LIMIT)


def make_app(bounds: RequestBounds = BOUNDS, **options: Any) -> Application:
    api = NinjaAPI(urls_namespace="server-protocol", openapi_url=None)

    @api.post("/echo")
    async def echo(request: Request) -> HttpResponse:
        return HttpResponse(request.body)

    @api.post("/stream")
    async def stream(request: Request) -> StreamResponse:
        async def produce(sink) -> None:
            for _ in range(3):
                await sink(b"data: x\n\n")
                await asyncio.sleep(0)

        return StreamResponse(produce, headers={}, on_close=lambda: None)

    return Application(api, bounds=bounds, **options)


class Answers:
    """What a client makes of the bytes it got."""

    def __init__(self, data: bytes, *, ended: bool) -> None:
        self.statuses: list[int] = []
        self.closes: list[bool] = []  # what each says of the connection
        self.whole = 0
        self.ended = ended  # the connection, by the server
        self._parser = httptools.HttpResponseParser(self)
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.statuses.append(0)
        self.closes.append(False)

    def on_header(self, name: bytes, value: bytes) -> None:
        if (name, value) == (b"connection", b"close"):
            self.closes[-1] = True

    def on_headers_complete(self) -> None:
        self.statuses[-1] = self._parser.get_status_code()

    def on_message_complete(self) -> None:
        self.whole += 1


@asynccontextmanager
async def listening(app: Application):
    sock = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            ws="none",
            http=ServerProtocol,
            proxy_headers=False,
            timeout_keep_alive=PATIENCE_S,
            timeout_graceful_shutdown=1,
        )
    )
    task = asyncio.create_task(server.serve(sockets=[sock]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield sock.getsockname()[1], server
    finally:
        server.should_exit = True
        await task


def request(method: bytes, path: bytes, headers: list[bytes], body: bytes) -> bytes:
    lines = [method + b" " + path + b" HTTP/1.1", b"host: x", *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
