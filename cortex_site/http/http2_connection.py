"""HTTP/2 (RFC 9113): a client's connection whose streams are requests to an `Application`.

The frames are h2's. Here is what it leaves to a server: the sockets, whose turn it is to send, and bounds of
what a client may cost. A client that gives no room, and one that takes its requests back, holds no more than
`Http2Bounds` and the transport's high-water mark say.
"""

from __future__ import annotations

import asyncio
from collections import deque

from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from uvicorn.protocols.utils import get_remote_addr
from uvicorn.server import ServerState

from cortex_site.http.answering import Rest
from cortex_site.http.application import Application
from cortex_site.http.bounds import Http2Bounds
from cortex_site.http.deadline import Deadline
from cortex_site.http.http2_answer import Http2Answer
from cortex_site.http.http2_head import read_head
from cortex_site.http.http2_stream import Http2Stream
from cortex_site.http.http2_writer import Http2Writer
from cortex_site.http.parsed_request import BadRequestError, ParsedRequest, too_large
from cortex_site.http.request import Request

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: h2c\r\n\r\n"
WINDOW = 1 << 20  # bytes of bodies that may be on their way; what arrives is held, and counted
SLICE = 1 << 13  # bytes that are read in one turn of the loop: it takes some 10 ms if they are all frames
SMALL = 256  # bytes; a smaller piece of a body counts as a frame that carries nothing
MAX_EMPTY_FRAMES = 10_000  # that carry nothing, while no answer is sent
MAX_UNREAD_BYTES = 1 << 20  # of answers to such frames
RESETS_S = 60.0  # in which `max_resets` are counted
LAST_CALL_S = 1.0  # after a stop, a request that was on its way is still answered

Upgraded = tuple[ParsedRequest, bytes]  # a request, and the value of its `http2-settings`


class Http2Connection(asyncio.Protocol):
    """One client connection. Its requests are answered side by side, each by callbacks or by a task."""

    def __init__(
        self,
        application: Application,
        bounds: Http2Bounds,
        server: ServerState,
        loop: asyncio.AbstractEventLoop,
        patience_s: float,
    ) -> None:
        self._application = application
        self._bounds = bounds
        self._held = application.held
        self._server = server
        self.tasks = server.tasks
        self._loop = loop
        self._patience_s = patience_s
        self._idle = Deadline(loop, self._end_if_idle)
        self._h2 = H2Connection(
            # Answers' headers are ours: lower case, and none of them is the connection's.
            H2Configuration(
                client_side=False, validate_outbound_headers=False, normalize_outbound_headers=False
            )
        )
        self._streams: dict[int, Http2Stream] = {}
        self._whole: list[Http2Stream] = []  # requests that came in this turn, and were not taken back in it
        self._last_taken = 0  # the last stream that is answered
        self._unread = b""  # what waits for its turn
        self._num_empty = 0  # frames that carry nothing, since the last of an answer
        self._num_answered = 0  # frames of answers, when that was looked at
        self._resets: deque[float] = deque(maxlen=bounds.max_resets)  # when they came
        self._resets_too_much = False
        self._stopping = False
        self._takes_no_more = False  # requests

    # --- the connection ---

    def begin(
        self, transport: asyncio.Transport, upgraded: tuple[ParsedRequest, bytes] | None = None
    ) -> None:
        """Take over a connection: from its first byte on, or after a request that offered HTTP/2.

        The latter comes with the value of its `http2-settings`. Raises `ProtocolError` if they are none.
        """
        self._announce(upgraded[1] if upgraded else None)
        if upgraded is not None:
            transport.write(SWITCHING)
        self._transport = transport
        self._writer = Http2Writer(self._h2, transport, self._server)
        self._client = get_remote_addr(transport)
        self._server.connections.add(self)  # type: ignore[arg-type]  # uvicorn lists its own classes
        transport.set_protocol(self)
        self._writer.flush()
        if upgraded is None:
            self._idle.set(self._loop.time() + self._patience_s)
            return
        request = upgraded[0]
        self._streams[1] = stream = Http2Stream(self._writer, 1, request._replace(version="2"))
        self._last_taken = 1
        self._hold(stream, len(request.body))
        stream.body_parts.append(request.body)
        self._take(stream)
        self._begin_whole()

    def _announce(self, upgrade: bytes | None) -> None:
        bounds, h2 = self._bounds, self._h2
        codes = {
            SettingCodes.MAX_CONCURRENT_STREAMS: bounds.max_streams,
            SettingCodes.INITIAL_WINDOW_SIZE: WINDOW,
            SettingCodes.MAX_HEADER_LIST_SIZE: bounds.max_head_bytes,
        }
        h2.local_settings = Settings(client=False, initial_values=codes)
        h2.decoder.max_header_list_size = bounds.max_head_bytes
        if upgrade is None:
            h2.initiate_connection()
        else:
            h2.initiate_upgrade_connection(upgrade)
        h2.increment_flow_control_window(WINDOW)
        # h2 ends the connection for a stream too many; one more lets us refuse just that (RFC 9113, 5.1.2).
        codes[SettingCodes.MAX_CONCURRENT_STREAMS] += 1
        h2.local_settings = Settings(client=False, initial_values=codes)

    def data_received(self, data: bytes) -> None:
        if self._unread:
            self._unread += data
        else:
            self._unread = data
            self._read_on()

    def _read_on(self) -> None:
        """Read a slice, and the rest in later turns of the loop: small frames are many, and slow to read."""
        if self._transport.is_closing():
            return
        piece, rest = self._unread[:SLICE], self._unread[SLICE:]
        writer = self._writer
        try:
            for event in self._h2.receive_data(piece):
                self._heed(event)
        except ProtocolError:  # the goodbye that says why is ready to be sent
            writer.close()
            return
        self._unread = rest
        self._begin_whole()
        writer.flush()
        if writer.num_frames != self._num_answered:
            self._num_answered, self._num_empty = writer.num_frames, 0
        if self._resets_too_much or self._num_empty > MAX_EMPTY_FRAMES:
            self._writer.hang_up(ErrorCodes.ENHANCE_YOUR_CALM, self._last_taken)
        elif self._transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            self._transport.abort()
        elif rest:
            writer.flow.pause_reading()
            self._loop.call_soon(self._read_on)
        else:
            writer.flow.resume_reading()

    def _heed(self, event: events.Event) -> None:
        match event:
            case events.RequestReceived():
                self._accept(event)
            case events.DataReceived():
                self._take_data(event)
            case events.StreamEnded():
                if (stream := self._streams.get(event.stream_id)) is not None and not stream.is_whole:
                    self._take(stream)
            case events.StreamReset():
                self._taken_back(event.stream_id)
            case events.WindowUpdated() | events.RemoteSettingsChanged():
                self._num_empty += 1
                self._send_waiting()
            case _:  # trailers among them: they are no part of the head (RFC 9110, 6.5.1)
                self._num_empty += 1

    def pause_writing(self) -> None:
        self._writer.flow.pause_writing()

    def resume_writing(self) -> None:
        self._writer.flow.resume_writing()
        self._send_waiting()

    def _send_waiting(self) -> None:
        """Send what waited for room; whoever writes goes on where it has come to be."""
        streams = list(self._streams.values())
        self._writer.send_waiting(streams)
        for stream in streams:
            stream.resume()

    def shutdown(self) -> None:
        """The server stops: requests that have begun, or are on their way already, are still answered."""
        if not self._stopping:
            self._stopping = True
            self._loop.call_later(LAST_CALL_S, self._take_no_more)

    def _take_no_more(self) -> None:
        """Close once the answers under way are sent.

        The goodbye comes with the last, or with the first request that is not taken: there are clients that
        drop all their requests at a goodbye, also those that will be answered.
        """
        self._takes_no_more = True
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        if not self._streams and not self._transport.is_closing():
            self._writer.hang_up(ErrorCodes.NO_ERROR, self._last_taken)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._unread = b""
        self._writer.flow.resume_writing()  # whoever waits goes on, and sees that the client is gone
        for stream in list(self._streams.values()):
            self._drop(stream)
        self._idle.cancel()

    # --- requests ---

    def _accept(self, event: events.RequestReceived) -> None:
        ident = event.stream_id
        if self._takes_no_more:
            self._writer.say_goodbye(self._last_taken)
        if self._takes_no_more or len(self._streams) >= self._bounds.max_streams:
            self._num_empty += 1
            self._h2.reset_stream(ident, ErrorCodes.REFUSED_STREAM)
            return
        head = read_head(event.headers, self._application.bounds.max_body_bytes)
        self._streams[ident] = stream = Http2Stream(self._writer, ident, head)
        self._last_taken = ident
        self._idle.cancel()
        if event.stream_ended is not None:
            self._take(stream)
            return
        refusal = head.refusal or self._application.judge(Request(head, self._client, stream))
        if refusal is not None:
            self._refuse(stream, refusal)
            return
        if head.headers.get(b"expect", b"").lower() == b"100-continue":
            self._h2.send_headers(ident, [(b":status", b"100")])
        stream.timer = self._loop.call_later(self._application.bounds.body_s, self._is_late, stream)

    def _is_late(self, stream: Http2Stream) -> None:
        self._refuse(stream, BadRequestError(408, "The request did not come to its end in time."))

    def _take_data(self, event: events.DataReceived) -> None:
        self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        size = len(event.data)
        if size >= SMALL:
            self._num_empty = 0
        elif event.stream_ended is None:
            self._num_empty += 1
        stream = self._streams.get(event.stream_id)
        if stream is None or stream.is_begun:  # it is refused already
            return
        stream.body_parts.append(bytes(event.data))
        self._hold(stream, size)
        max_bytes = self._application.bounds.max_body_bytes
        if stream.body_size > max_bytes:
            self._refuse(stream, too_large(max_bytes))
        elif self._held.is_over:
            self._refuse(stream, self._application.overloaded())

    def _hold(self, stream: Http2Stream, size: int) -> None:
        """Count bytes of bodies that are held, or no more if negative."""
        stream.body_size += size
        self._held.total += size

    def _refuse(self, stream: Http2Stream, refusal: Exception) -> None:
        stream.body_parts.clear()
        self._hold(stream, -stream.body_size)
        stream.head = stream.head._replace(refusal=refusal)
        self._begin(stream)

    def _take(self, stream: Http2Stream) -> None:
        """The request is whole. One that was refused before is answered already."""
        stream.is_whole = True
        if not stream.is_begun:
            self._whole.append(stream)

    def _begin_whole(self) -> None:
        whole, self._whole = self._whole, []
        for stream in whole:
            if not stream.is_gone:
                self._begin(stream)

    def _begin(self, stream: Http2Stream) -> None:
        if stream.timer is not None:
            stream.timer.cancel()
        stream.is_begun = True
        request = stream.request()
        endpoint = self._application.endpoint(request)
        asker = Http2Answer(self._application, self, stream, request)
        answering = endpoint(request, asker) if endpoint is not None else None
        if answering is None:
            self.start(stream, request)
        else:
            asker.begin(answering)

    def start(
        self, stream: Http2Stream, request: ParsedRequest, rest: Rest | None = None
    ) -> asyncio.Task[None]:
        stream.task = task = self._loop.create_task(self._serve(stream, request, rest))
        self.tasks.add(task)
        return task

    async def _serve(self, stream: Http2Stream, request: ParsedRequest, rest: Rest | None) -> None:
        task, failed = stream.task, True
        assert task is not None
        try:
            failed = not await self._application.answer(
                Request(request, self._client, stream),
                lambda response: stream.answer(response, self._patience_s),
                rest,
            )
        finally:
            self.tasks.discard(task)
            if stream.task is task:
                self._served(stream, failed=failed)

    def let_read(self, stream: Http2Stream) -> None:
        if stream.unsent or self._writer.is_paused:
            stream.task = self._loop.create_task(self._let_read(stream))
            self.tasks.add(stream.task)
        else:
            self._served(stream, failed=False)

    async def _let_read(self, stream: Http2Stream) -> None:
        try:
            await stream.let_read(self._patience_s)
        finally:
            self._served(stream, failed=False)

    def _served(self, stream: Http2Stream, *, failed: bool) -> None:
        self._server.total_requests += 1
        if stream.task is not None:
            self.tasks.discard(stream.task)
        if failed:
            self._writer.reset(stream, ErrorCodes.INTERNAL_ERROR)
        elif not stream.is_whole:  # the rest of its body is of no use (RFC 9113, 8.1)
            self._writer.reset(stream, ErrorCodes.NO_ERROR)
        self._forget(stream)

    def _taken_back(self, ident: int) -> None:
        """A client resets a stream, or makes h2 do so. Many that do would keep us busy for nothing."""
        stream = self._streams.get(ident)
        if stream is None:  # it has ended, and its client sends on
            self._num_empty += 1
            return
        now, resets = self._loop.time(), self._resets
        self._resets_too_much |= len(resets) == resets.maxlen and now - resets[0] < RESETS_S
        resets.append(now)
        self._drop(stream)

    def _drop(self, stream: Http2Stream) -> None:
        """The client is not there any more to read the answer."""
        stream.end()
        if stream.timer is not None:
            stream.timer.cancel()
        if stream.task is not None:
            stream.task.add_done_callback(self.tasks.discard)  # it may never begin
            stream.task.cancel()
        self._forget(stream)

    def _forget(self, stream: Http2Stream) -> None:
        if self._streams.pop(stream.id, None) is None:
            return
        self._hold(stream, -stream.body_size)
        if not self._streams:
            self._idle.set(self._loop.time() + self._patience_s)
            if self._takes_no_more:
                self._end_if_idle()
