"""Standard input and output as the transport of JSON-RPC.

`take_stdio` reserves both for the connection, so that no library, tool or child process can write a line to
the client or read its messages. Reads and writes block in threads of their own, so they work with any kind
of file, and a client that does not read delays a turn (in `drain`) but never the event loop.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sys
import threading
from collections.abc import Callable

READ_BYTES = 256 * 1024
HIGH_WATER_BYTES = 1024 * 1024
FLUSH_TIMEOUT_S = 5.0


def take_stdio() -> tuple[int, int]:
    """Return the descriptors to read from and to write to.

    Afterwards standard input is empty, and what is written to standard output goes to standard error.
    """
    sys.stdout.flush()
    reader = os.dup(0)
    writer = os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return reader, writer


class FdWriter:
    """Writes lines in a thread of its own. `on_broken` is called once a write fails."""

    def __init__(self, fd: int, on_broken: Callable[[], None]) -> None:
        self._fd = fd
        self._on_broken = on_broken
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._pending_bytes = 0
        self._room = asyncio.Event()
        self._room.set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._broken = False
        self._thread = threading.Thread(target=self._run, name="stdout", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        if self._broken:
            return
        self._pending_bytes += len(line)
        self._idle.clear()
        if self._pending_bytes > HIGH_WATER_BYTES:
            self._room.clear()
        self._queue.put(line)

    async def drain(self) -> None:
        await self._room.wait()

    async def close(self) -> None:
        """Wait until the queue is written, or FLUSH_TIMEOUT_S if the client does not read; end the thread."""
        try:
            async with asyncio.timeout(FLUSH_TIMEOUT_S):
                await self._idle.wait()
        except TimeoutError:
            pass
        self._queue.put(None)

    def _run(self) -> None:
        while (line := self._queue.get()) is not None:
            broken = not self._write_all(line)
            try:
                self._loop.call_soon_threadsafe(self._written, len(line), broken)
            except RuntimeError:  # the loop is closed
                return
            if broken:
                return

    def _write_all(self, line: bytes) -> bool:
        view = memoryview(line)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            return False
        return True

    def _written(self, size: int, broken: bool) -> None:
        self._pending_bytes -= size
        if broken:
            self._broken = True
            self._pending_bytes = 0
            self._on_broken()
        if self._pending_bytes <= HIGH_WATER_BYTES:
            self._room.set()
        if self._pending_bytes == 0:
            self._idle.set()


class FdReader:
    """Passes what it reads to `on_bytes`, in the event loop, and calls `on_end` at the end of input.

    Its thread reads a chunk only once the previous one was taken.
    """

    def __init__(self, fd: int, on_bytes: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
        self._fd = fd
        self._on_bytes = on_bytes
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._taken = threading.Semaphore(1)
        threading.Thread(target=self._run, name="stdin", daemon=True).start()

    def _run(self) -> None:
        try:
            while chunk := self._read():
                self._taken.acquire()
                self._loop.call_soon_threadsafe(self._take, chunk)
            self._loop.call_soon_threadsafe(self._on_end)
        except RuntimeError:  # the loop is closed
            return

    def _read(self) -> bytes:
        try:
            return os.read(self._fd, READ_BYTES)
        except OSError:
            return b""

    def _take(self, chunk: bytes) -> None:
        self._taken.release()
        self._on_bytes(chunk)
