"""One process of a device worker, and the daemon's end of its pipe."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Sequence

import msgspec

from neuron import pipe

# torch's threads spin between its operations, by default for milliseconds in which those of `ext.matmul` want
# the cores; without a spin they sleep within a step. This is some microseconds.
DEFAULTS = {"GOMP_SPINCOUNT": "3000"}
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
                stdout=sys.stderr,  # nothing reads a worker's standard output
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
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return EXITS.get(code, f"exit code {code}")
