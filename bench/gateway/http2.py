"""The load generator's side of HTTP/2: one request at a time on each connection, as with HTTP/1.1."""

from __future__ import annotations

from typing import Protocol

from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import ProtocolError

ROOM = 1 << 28  # bytes of answers; none of them waits for more


class Reader(Protocol):
    def on_body(self, body: bytes) -> None: ...
    def on_message_complete(self) -> None: ...


class Http2Wire:
    """A connection, with the interface of httptools' parser for what it reads. Knows no socket."""

    def __init__(self, reader: Reader, port: int) -> None:
        self._reader = reader
        self._port = port
        self._status = 0
        self._h2 = H2Connection(H2Configuration(client_side=True, header_encoding="latin-1"))

    def opening(self) -> bytes:
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(ROOM)
        return self._h2.data_to_send()

    def request(self, body: bytes, key: str) -> bytes:
        stream = self._h2.get_next_available_stream_id()
        head = {
            ":method": "POST",
            ":scheme": "http",
            ":authority": f"127.0.0.1:{self._port}",
            ":path": "/v1/chat/completions",
            "content-type": "application/json",
            "authorization": f"Bearer {key}",
        }
        self._h2.send_headers(stream, list(head.items()))
        self._h2.increment_flow_control_window(ROOM, stream)
        self._h2.send_data(stream, body, end_stream=True)
        return self._h2.data_to_send()

    def feed_data(self, data: bytes) -> bytes:
        """Return what is to be sent. Raises `ProtocolError`."""
        for event in self._h2.receive_data(data):
            match event:
                case events.ResponseReceived():
                    self._status = int(dict(event.headers)[":status"])
                case events.DataReceived() if event.data:
                    self._reader.on_body(event.data)
                case events.StreamEnded():
                    self._reader.on_message_complete()
                case events.StreamReset() | events.ConnectionTerminated():
                    raise ProtocolError("the stream was reset, or the connection ended")
        return self._h2.data_to_send()

    def get_status_code(self) -> int:
        return self._status
