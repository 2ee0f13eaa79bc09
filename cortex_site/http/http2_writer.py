from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from django.http.response import HttpResponseBase
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import FlowControlError, FrameTooLargeError
from hyperframe.frame import GoAwayFrame
from uvicorn.server import ServerState

from cortex_site.http.flow import Flow
from cortex_site.http.http2_stream import Http2Stream
from cortex_site.http.response_head import ResponseHeads

LINGER_S = 2.0  # a client that is to go has this long to read why


class Http2Writer:
    """Sends what a connection has to say, as far as client and socket have room: its streams' `Line`."""

    def __init__(self, h2: H2Connection, transport: asyncio.Transport, server: ServerState) -> None:
        self.flow = Flow(transport)
        self.num_frames = 0  # of answers, sent so far
        self._h2 = h2
        self._transport = transport
        self._heads = ResponseHeads(server)

    # --- answers ---

    def send_head(self, stream: Http2Stream, response: HttpResponseBase, *, size: int | None) -> None:
        if stream.is_closing():
            return
        fields = self._heads.fields(response, size)
        self._h2.send_headers(stream.id, fields, end_stream=stream.is_ending)
        if stream.is_ending:
            stream.all_is_sent()
        self.num_frames += 1
        self.flush()

    def send_whole(self, stream: Http2Stream, chunk: bytes) -> bool:
        if self.flow.write_paused:
            return False
        try:
            self._h2.send_data(stream.id, chunk)  # it looks at the room itself, before all else
        except (FlowControlError, FrameTooLargeError):
            return False
        self.num_frames += 1
        self._transport.write(self._h2.data_to_send())
        return True

    def send(self, stream: Http2Stream) -> None:
        if not self.flow.write_paused:
            while self._send_frame(stream):
                pass

    def _send_frame(self, stream: Http2Stream) -> bool:
        """Send a frame of an answer. Return whether another one can be sent now."""
        if stream.is_closing() or stream.is_answered:
            return False
        h2, unsent = self._h2, stream.unsent
        room = h2.local_flow_control_window(stream.id)
        size = min(len(unsent), room, h2.max_outbound_frame_size)
        if size < 1 and (unsent or not stream.is_ending):
            return False
        is_rest = size == len(unsent)
        h2.send_data(stream.id, bytes(unsent[:size]), end_stream=is_rest and stream.is_ending)
        del unsent[:size]
        self.num_frames += 1
        self.flush()
        if is_rest:
            stream.all_is_sent()
        return not (is_rest or self.flow.write_paused)

    def send_waiting(self, streams: Iterable[Http2Stream]) -> None:
        """Send what waited for room, a frame of each in turn."""
        waiting = deque(stream for stream in streams if stream.unsent or stream.is_ending)
        while waiting and not self.flow.write_paused:
            stream = waiting.popleft()
            if self._send_frame(stream):
                waiting.append(stream)

    def reset(self, stream: Http2Stream, code: ErrorCodes) -> None:
        if not stream.is_closing():
            self._h2.reset_stream(stream.id, code)
            self.flush()
        stream.end()

    async def drained(self) -> None:
        await self.flow.drain()

    @property
    def is_paused(self) -> bool:
        return self.flow.write_paused

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    # --- the connection ---

    def flush(self) -> None:
        """Send what h2 has made of frames."""
        if data := self._h2.data_to_send():
            self._transport.write(data)

    def say_goodbye(self, last_stream: int) -> None:
        """Let the client send later requests elsewhere. After a GOAWAY of its own h2 is mute."""
        self.flush()
        self._transport.write(GoAwayFrame(0, last_stream_id=last_stream).serialize())

    def hang_up(self, code: ErrorCodes, last_stream: int) -> None:
        """Say goodbye, and close."""
        self._h2.close_connection(code, last_stream_id=last_stream)
        self.close()

    def close(self) -> None:
        """Close, once what is said so far is read; who does not read is left."""
        self.flush()
        self._transport.close()
        asyncio.get_running_loop().call_later(LINGER_S, self._transport.abort)
