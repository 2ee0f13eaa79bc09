"""One process of a device worker, and the daemon's end of its pipe."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Sequence

import msgspec

from cortex_site.base import logs
from neuron import pipe

# torch's threads spin between its operations, by default for milliseconds in which those of `ext.matmul` want
# the cores; without a spin they sleep within a step. This is some microseconds.
DEFAULTS = {"GOMP_SPINCOUNT": "3000"}
LOG_PIECE_BYTES = 1 << 16
LOG_GRACE_S = 1.0  # for what an ended process has written; a child that it left may keep the pipe open
EXITS = {pipe.EXIT_POISONED: "its device was poisoned", pipe.EXIT_CRASHED: "it crashed"}


class PipeError(Exception):
    """The worker sent something that is not a frame of messages."""


class WorkerProcess:
    """One run of a device worker: a child process and the socket to it."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        assert process.stdout
        self._echo = asyncio.create_task(_pass_on(process.stdout), name=f"log of {process.pid}")
        self._reader = reader
        self._writer = writer

    @classmethod
    async def start(cls, command: Sequence[str]) -> WorkerProcess:
        """Run `command --fd N`, where N is its end of a socket pair. It ends when the other end is closed."""
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                "--fd",
                str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C is for the daemon
                env=DEFAULTS | os.environ | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"},  # cuda:N is NVML's N
            )
        except BaseException:  # also when cancelled
            ours.close()
            raise
        finally:
            theirs.close()
        try:
            reader, writer = await asyncio.open_unix_connection(sock=ours)
        except BaseException:
            ours.close()
            process.kill()
            await process.wait()
            raise
        return cls(process, reader, writer)

    def send(self, message: pipe.ToWorker) -> None:
        """Queue a message. It is dropped when the worker is gone, which `receive` tells."""
        if not self._writer.is_closing():
            self._writer.write(pipe.frame([message]))

    async def receive(self) -> list[pipe.ToDaemon] | None:
        """The messages of the next frame; None once the worker closed its end. Raises `PipeError`."""
        try:
            header = await self._reader.readexactly(pipe.HEADER_BYTES)
            size = int.from_bytes(header, "big")
            if size > pipe.MAX_FRAME_BYTES:
                raise PipeError(f"a frame of {size} bytes")
            return pipe.decode_to_daemon(await self._reader.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        except msgspec.DecodeError as error:
            raise PipeError(str(error)) from error

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def end(self, grace_s: float = 0.0) -> str:
        """Close the pipe and kill the process if it is still there after `grace_s`. Returns how it ended."""
        self._writer.close()
        try:
            await asyncio.wait_for(self._process.wait(), grace_s)
        except TimeoutError:
            self.kill()
        code = await self._process.wait()
        await self._end_log()
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return EXITS.get(code, f"exit code {code}")

    async def _end_log(self) -> None:
        await asyncio.wait({self._echo}, timeout=LOG_GRACE_S)
        self._echo.cancel()
        await asyncio.gather(self._echo, return_exceptions=True)


async def _pass_on(output: asyncio.StreamReader) -> None:
    """Write a process's lines where ours go, whole ones unless they are longer than a piece."""
    begun = b""
    while data := await output.read(LOG_PIECE_BYTES):
        lines, _, begun = (begun + data).rpartition(b"\n")
        if not lines and len(begun) > LOG_PIECE_BYTES:
            lines, begun = begun, b""
        if lines:
            logs.pass_on(lines.decode(errors="replace"))
    if begun:
        logs.pass_on(begun.decode(errors="replace"))
