"""Between a gateway and a node: bytes pass, until the proxy is told to do something to them.

`fault` has the node's answer to one request and the way to the gateway. The node's `/events` always pass, so
that a node is known however its answers are damaged.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress

Fault = Callable[["Link"], Awaitable[None]]

PIECE_BYTES = 1 << 16


class Link:
    """One connection of the gateway, and the one to the node that it stands for."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.node_reader: asyncio.StreamReader | None = None
        self.node_writer: asyncio.StreamWriter | None = None
        self.gone = asyncio.Event()  # the gateway hung up

    async def connect(self, port: int, first: bytes) -> None:
        self.node_reader, self.node_writer = await asyncio.open_connection("127.0.0.1", port)
        self.node_writer.write(first)

    async def request_on(self) -> None:
        """What the gateway goes on sending, to the node; to its end."""
        while data := await self.reader.read(PIECE_BYTES):
            self.node_writer.write(data)
            await self.node_writer.drain()
        self.gone.set()

    async def answer(self, size: int = PIECE_BYTES) -> bytes:
        """The next piece of the node's answer; empty at its end."""
        return await self.node_reader.read(size)

    def reset(self) -> None:
        """The gateway reads a connection reset, not an end."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def close(self) -> None:
        for writer in (self.writer, self.node_writer):
            if writer is not None:
                writer.close()


# --- faults ---


async def none(link: Link) -> None:
    while data := await link.answer():
        link.writer.write(data)
        await link.writer.drain()


def cut(after: int, *, reset: bool = False) -> Fault:
    """So many bytes of the answer, then the end."""

    async def fault(link: Link) -> None:
        left = after
        while left and (data := await link.answer(left)):
            link.writer.write(data)
            left -= len(data)
        await link.writer.drain()
        if reset:
            link.reset()

    return fault


def trickle(size: int, pause_s: float) -> Fault:
    async def fault(link: Link) -> None:
        while data := await link.answer(size):
            link.writer.write(data)
            await asyncio.sleep(pause_s)

    return fault


def stall(after: int) -> Fault:
    """So many bytes of the answer, then nothing, on a connection that stays open."""

    async def fault(link: Link) -> None:
        left = after
        while left and (data := await link.answer(left)):
            link.writer.write(data)
            left -= len(data)
        await link.gone.wait()

    return fault


class FaultyProxy:
    """`start` it before `port` is read. `fault` may be changed at any time; it is taken per connection."""

    def __init__(self, node_port: int) -> None:
        self.fault: Fault = none
        self.port = 0
        self.links = 0  # that are open, of requests
        self._node_port = node_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._crowd: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._accepting = asyncio.create_task(self._accept())

    async def stop(self) -> None:
        self._accepting.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(self._accepting, *self._tasks, return_exceptions=True)
        for sock in (self._listener, *self._crowd):
            sock.close()

    async def swallow_connections(self) -> None:
        """From now on a connection that is asked for neither comes about nor is refused."""
        self._accepting.cancel()
        await asyncio.gather(self._accepting, return_exceptions=True)
        self._listener.listen(0)
        loop = asyncio.get_running_loop()
        while True:  # until the kernel's queue is full
            sock = socket.socket()
            sock.setblocking(False)
            self._crowd.append(sock)
            try:
                async with asyncio.timeout(0.3):
                    await loop.sock_connect(sock, ("127.0.0.1", self.port))
            except TimeoutError:
                return

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(self._listener)
            task = asyncio.create_task(self._serve(sock))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, sock: socket.socket) -> None:
        link = Link(*await asyncio.open_connection(sock=sock))
        tasks: list[asyncio.Task[None]] = []
        try:
            first = await link.reader.read(PIECE_BYTES)
            is_request = not first.startswith(b"GET /events")
            self.links += is_request
            await link.connect(self._node_port, first)
            tasks.append(asyncio.create_task(link.request_on()))
            await (self.fault if is_request else none)(link)
        except (ConnectionError, OSError):
            pass
        finally:
            self.links -= is_request
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with suppress(RuntimeError):
                link.close()
