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

EXITS = {pipe.EXIT_POISONED: "its device was poisoned", pipe.EXIT_CRASHED: "it crashed"}


class PipeError(Exception):
    """The worker sent something that is no frame of ours."""


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
        """Run `command --fd N`, N being its end of a socket pair. The child ends when ours is closed."""
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                "--fd",
                str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sys.stderr,  # a worker's standard output is nobody's protocol
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C is for the daemon
                env=os.environ | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"},  # cuda:N means what NVML calls N
            )
            reader, writer = await asyncio.open_unix_connection(sock=ours)
        except BaseException:  # cancelled too: nobody else knows of our end, and without it the worker leaves
            ours.close()
            raise
        finally:
            theirs.close()
        return cls(process, reader, writer)

    def send(self, message: pipe.ToWorker) -> None:
        """Queue a message; to a worker that is gone it is dropped, its end is known elsewhere."""
        if not self._writer.is_closing():
            self._writer.write(pipe.frame([message]))

    async def receive(self) -> list[pipe.ToDaemon] | None:
        """The messages of the next frame; None once the worker has closed its end. Raises `PipeError`."""
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
        """Close the pipe, wait `grace_s` for the process to leave, kill it otherwise; how it ended."""
        self._writer.close()
        try:
            await asyncio.wait_for(self._process.wait(), grace_s)
        except TimeoutError:
            self.kill()
        code = await self._process.wait()
        return f"killed by {signal.Signals(-code).name}" if code < 0 else EXITS.get(code, f"exit code {code}")
