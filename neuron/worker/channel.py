"""The worker's end of the pipe. `run` is for the main thread, everything else for the device's thread."""

from __future__ import annotations

import contextlib
import os
import queue
import selectors
import socket
import threading
from collections import deque
from collections.abc import Sequence

from neuron.pipe import (
    HEADER_BYTES,
    MAX_FRAME_BYTES,
    ImagesProcessed,
    Refused,
    ToDaemon,
    ToWorker,
    decode_to_worker,
    frame,
)
from neuron.worker.grammar_thread import CompiledRequest
from neuron.worker.rank_plan import PlanReady

# From the daemon, another rank's worker, or another thread of this process.
Delivery = ToWorker | PlanReady | CompiledRequest | ImagesProcessed | Refused

MAX_UNSENT_BYTES = 16 << 20  # a daemon that does not read stalls the device instead of filling memory
CLOSE_GRACE_S = 5.0  # for the daemon to read the last messages
_READ_BYTES = 1 << 20


class Channel:
    """Frames in and frames out, with bounded memory between the two threads."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._socket.setblocking(False)
        self._wake, self._alarm = socket.socketpair()
        self._wake.setblocking(False)
        self._alarm.setblocking(False)
        self._received = bytearray()
        self._inbox: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        self._unsent: deque[memoryview] = deque()
        self._num_unsent = 0  # bytes
        self._has_room = threading.Condition()
        self._is_closing = False
        self._watched: dict[int, PlanReady] = {}  # by file descriptor
        self._unwatched = threading.Event()

    # --- the device's thread ----------------------------------------------------------------------------

    def receive(self, timeout_s: float) -> list[Delivery]:
        """Return all messages that have come; if there are none, wait up to `timeout_s` for the first."""
        messages: list[Delivery] = []
        try:
            messages.append(self._inbox.get(timeout=timeout_s) if timeout_s > 0 else self._inbox.get_nowait())
            while True:
                messages.append(self._inbox.get_nowait())
        except queue.Empty:
            return messages

    def deliver(self, message: PlanReady | CompiledRequest | ImagesProcessed | Refused) -> None:
        """Pass a message from another thread of this process to the device's thread."""
        self._inbox.put(message)

    @property
    def has_messages(self) -> bool:
        """Whether `receive` would return some at once."""
        return not self._inbox.empty()

    def watch(self, descriptor: int, message: PlanReady) -> None:
        """Receive `message` whenever there are bytes to read, which are then read."""
        self._watched[descriptor] = message
        self._ring()

    def unwatch(self, descriptor: int) -> None:
        """Return once the file descriptor may be closed."""
        if self._watched.pop(descriptor, None) and not self._is_closing:
            self._unwatched.clear()
            self._ring()
            self._unwatched.wait(CLOSE_GRACE_S)

    def send(self, messages: Sequence[ToDaemon]) -> None:
        """Queue one frame. Waits while the daemon is too far behind."""
        if not messages:
            return
        data = memoryview(frame(messages))
        with self._has_room:
            self._has_room.wait_for(lambda: self._num_unsent < MAX_UNSENT_BYTES)
            self._unsent.append(data)
            self._num_unsent += len(data)
        self._ring()

    def close(self) -> None:
        """Let `run` return once everything is sent."""
        with self._has_room:
            self._is_closing = True
        self._ring()

    def release(self) -> None:
        """Close the channel's own sockets, once `run` has returned."""
        self._wake.close()
        self._alarm.close()

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full of alarms: the main thread wakes anyway
            self._alarm.send(b"!")

    # --- the main thread --------------------------------------------------------------------------------

    def run(self) -> None:
        """Move bytes until the daemon closes its end, or `close` was called and all is sent.

        Raises msgspec.DecodeError or ValueError when the daemon sends something that is no frame.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake, selectors.EVENT_READ)
            selector.register(self._socket, selectors.EVENT_READ)
            while True:
                interest = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)
                selector.modify(self._socket, interest)
                self._follow(selector)
                ready = selector.select(CLOSE_GRACE_S if self._is_closing else None)
                try:
                    self._silence()
                    self._deliver_watched(ready)
                    if not self._read() or (self._write() and self._is_closing):
                        return
                except ConnectionError:
                    return
                if self._is_closing and not ready:
                    return

    def _follow(self, selector: selectors.BaseSelector) -> None:
        """Have the selector watch what is to be watched."""
        watched = dict(self._watched)
        known = {key.fd: key.fileobj for key in selector.get_map().values() if isinstance(key.fileobj, int)}
        for descriptor in known.keys() - watched.keys():
            selector.unregister(descriptor)
        for descriptor in watched.keys() - known.keys():
            selector.register(descriptor, selectors.EVENT_READ)
        self._unwatched.set()

    def _deliver_watched(self, ready: Sequence[tuple[selectors.SelectorKey, int]]) -> None:
        for key, _ in ready:
            if message := self._watched.get(key.fd):
                if os.read(key.fd, _READ_BYTES):
                    self._inbox.put(message)
                else:  # nobody writes any more
                    self._watched.pop(key.fd, None)

    def _silence(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake.recv(4096)

    def _read(self) -> bool:
        """Read what has come and queue its messages. False at the end of the stream."""
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return True
        self._received += data
        start = 0
        while len(self._received) - start >= HEADER_BYTES:
            size = int.from_bytes(self._received[start : start + HEADER_BYTES], "big")
            if size > MAX_FRAME_BYTES:
                raise ValueError(f"the daemon sent a frame of {size} bytes")
            end = start + HEADER_BYTES + size
            if len(self._received) < end:
                break
            for message in decode_to_worker(bytes(self._received[start + HEADER_BYTES : end])):
                self._inbox.put(message)
            start = end
        del self._received[:start]
        return bool(data)

    def _write(self) -> bool:
        """Send what the socket takes. True when nothing is left."""
        try:
            while self._unsent:
                sent = self._socket.send(self._unsent[0])
                with self._has_room:
                    self._num_unsent -= sent
                    rest = self._unsent[0][sent:]
                    if rest:
                        self._unsent[0] = rest
                    else:
                        self._unsent.popleft()
                    self._has_room.notify()
        except BlockingIOError:
            return False
        return True
