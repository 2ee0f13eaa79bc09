"""A client of HTTP/2 and the server's connection, joined without sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import uvicorn
from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings
from uvicorn.server import ServerState

from cortex_site.http.application import Application
from cortex_site.http.protocol import ServerProtocol
from tests.stubs.fake_transport import FakeTransport

Headers = Iterable[tuple[str, str]]
HEAD = [(":method", "POST"), (":scheme", "http"), (":authority", "x")]


class Http2Client:
    """What it sends arrives at once, what it is sent when it looks: `events` has all of that."""

    def __init__(
        self, app: Application, *, patience_s: float = 60.0, reads: bool = False, **settings: int
    ) -> None:
        config = uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            ws="none",
            http=ServerProtocol,
            proxy_headers=False,
            timeout_keep_alive=patience_s,
        )
        config.load()
        self.server = ServerState()
        self.app = app
        protocol = ServerProtocol(config=config, server_state=self.server, app_state={})
        self.transport = FakeTransport(protocol)
        protocol.connection_made(self.transport)
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding="latin-1"))
        named = {SettingCodes[name.upper()]: value for name, value in settings.items()}
        self.h2.local_settings = Settings(client=True, initial_values=named)
        self.events: list[events.Event] = []
        self._reads = reads  # whether it gives room for more as it reads

    async def begin(self) -> Http2Client:
        """Begin with prior knowledge, and learn the server's settings."""
        self.h2.initiate_connection()
        self.send()
        await self.settle(1)
        return self

    def send(self, data: bytes = b"") -> None:
        data = data or self.h2.data_to_send()
        if data and not self.transport.is_closing():
            self.transport.get_protocol().data_received(data)

    def look(self) -> None:
        """Read what has come, and say what HTTP/2 says to that."""
        data = bytes(self.transport.written)
        self.transport.written.clear()
        self.events += (come := self.h2.receive_data(data))
        for event in come:
            if self._reads and isinstance(event, events.DataReceived):
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        self.send()

    async def settle(self, turns: int = 20) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
            self.look()

    def ask(
        self, path: str, body: bytes = b"", *, method: str = "POST", ends: bool = True, extra: Headers = ()
    ) -> int:
        """Send a request, or the beginning of one, and return its stream."""
        stream = self.h2.get_next_available_stream_id()
        head = {":method": method, ":scheme": "http", ":authority": "x", ":path": path}
        fields = [(name, value) for name, value in head.items() if name not in dict(extra)]
        self.h2.send_headers(stream, [*fields, *extra], end_stream=ends and not body)
        while body:
            piece, body = body[: self.h2.max_outbound_frame_size], body[self.h2.max_outbound_frame_size :]
            self.h2.send_data(stream, piece, end_stream=ends and not body)
        self.send()
        return stream

    def of(self, kind: type[events.Event], stream: int | None = None) -> list[Any]:
        return [
            event
            for event in self.events
            if isinstance(event, kind) and stream in {None, getattr(event, "stream_id", None)}
        ]

    def status(self, stream: int) -> int | None:
        answers = self.of(events.ResponseReceived, stream)
        return int(dict(answers[0].headers)[":status"]) if answers else None

    def body(self, stream: int) -> bytes:
        return b"".join(event.data for event in self.of(events.DataReceived, stream))

    def is_whole(self, stream: int) -> bool:
        return bool(self.of(events.StreamEnded, stream))

    async def end(self) -> None:
        """Hang up. Nothing may be left of the connection then."""
        self.transport.close()
        tasks = list(self.server.tasks)
        if tasks:
            await asyncio.wait(tasks)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not self.server.connections
        assert not self.server.tasks
        assert self.app.held.total == 0
